"""The JSON Schema of manifest.json, for readers of manifests without this tool.

.venv/bin/python -m manifests.format.schema > docs/manifest.schema.json
"""

import json
import sys

from manifests.format.header import SCHEMA_MAJOR, SCHEMA_MINOR, Header


def header_schema() -> str:
    """Return the schema as JSON text."""
    schema = Header.model_json_schema()
    schema["$id"] = f"prune-toolkit/manifest-{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(header_schema())
