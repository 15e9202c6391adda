"""Options that name a place on this machine: what commands write to, and what they cannot read from elsewhere."""

import os
from pathlib import Path
from typing import Any

import click

from manifests.errors import UsageError
from manifests.stores.store import is_url, without_password


class LocalPath(click.Path):
    """A path; UsageError for a URL, of which a path would make a folder with a colon in its name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        return super().convert(local_path(value), param, ctx)


def local_path(value: str | os.PathLike[str]) -> Path:
    """The path; UsageError for a URL."""
    text = os.fspath(value)
    if is_url(text):
        raise UsageError(
            f"{without_password(text)} is a URL, and this has to be on this machine",
            hint="prune pull brings a manifest here; what is made here goes there with prune push",
        )
    return Path(text)


LOCAL = LocalPath()
