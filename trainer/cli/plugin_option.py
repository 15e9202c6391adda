"""--plugin: methods of one's own from a file, for both commands."""

from pathlib import Path
from typing import Any

import click


def load_plugins(_context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> None:
    """Run the files that were named; UsageError for one that fails."""
    if files:
        from manifests.base.registry import load_plugin_file

        for file in files:
            load_plugin_file(Path(file))


PLUGIN: dict[str, Any] = {
    "multiple": True,
    "metavar": "FILE.py",
    "is_eager": True,
    "expose_value": False,
    "callback": load_plugins,
    "help": "A file that registers scores, selectors or losses of your own; repeatable.",
}
"""The settings of the option."""
