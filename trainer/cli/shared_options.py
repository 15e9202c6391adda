"""Options of both commands: local paths, for outputs and for inputs that must be on this machine; and --plugin."""

import os
from pathlib import Path
from typing import Any

import click

from manifests.errors import UsageError
from manifests.stores.store import is_url, without_password


class LocalPath(click.Path):
    """A path; a URL is refused with UsageError, as it would become a folder with a colon in its name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return super().convert(local_path(value), param, ctx)


def local_path(value: str | os.PathLike[str]) -> Path:
    """Return the path; UsageError for a URL."""
    text = os.fspath(value)
    if is_url(text):
        raise UsageError(
            f"{without_password(text)} is a URL; a path on this machine is needed here",
            hint="to fetch a manifest, run prune pull; to send one, write it to a local folder and run prune push",
        )
    return Path(text)


LOCAL = LocalPath(path_type=Path)


def _load_plugins(_context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> None:
    if files:
        from manifests.base.registry import load_plugin_file

        for file in files:
            load_plugin_file(Path(file))


PLUGIN: dict[str, Any] = {
    "multiple": True,
    "metavar": "FILE.py",
    "is_eager": True,
    "expose_value": False,
    "callback": _load_plugins,
    "help": "A file that registers scores, selectors or losses of your own; repeatable.",
}
"""The settings of --plugin, which adds methods of one's own."""
