"""Options that take a local path: outputs of commands, and inputs that must be on this machine."""

import os
from pathlib import Path
from typing import Any

import click

from manifests.errors import UsageError
from manifests.stores.store import is_url, without_password


class LocalPath(click.Path):
    """A path; a URL is refused with UsageError, as it would become a folder with a colon in its name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

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


LOCAL = LocalPath()
