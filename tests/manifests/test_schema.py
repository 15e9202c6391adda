"""The published JSON Schema is that of the code."""

from pathlib import Path

from manifests.format.schema import header_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


def test_the_schema_in_docs_is_up_to_date() -> None:
    assert PUBLISHED.read_text() == header_schema(), (
        "run: python -m manifests.format.schema > docs/manifest.schema.json"
    )
