"""Options of both commands: local paths, for outputs and for inputs that must be on this machine; --plugin; images."""

import os
from pathlib import Path
from typing import Any, Literal

import click

from manifests.errors import UsageError
from manifests.stores.addresses import is_url, without_password
from trainer.models.channel_values import channel_values


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


class Channels(click.ParamType):  # type: ignore[type-arg]
    """One number or three, also fractions, or a list from prune.toml."""

    name = "numbers"

    def __init__(self, what: Literal["mean", "std"]) -> None:
        self.what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers; UsageError for what is none."""
        return channel_values(value, self.what)


IMAGES_SAID: dict[str, dict[str, Any]] = {
    "--mean": {
        "type": Channels("mean"),
        "metavar": "M,M,M",
        "help": "Mean of the teacher's images in [0, 1], subtracted: one number or three; 0, 0.5 or 1/2.",
    },
    "--std": {
        "type": Channels("std"),
        "metavar": "S,S,S",
        "help": "Their standard deviation, by which they are then divided; 1/255 for a network that takes 0..255.",
    },
    "--interpolation": {
        "type": click.Choice(["bilinear", "bicubic"]),
        "help": "How images are resized for the teacher.",
    },
    "--resize-size": {
        "type": click.IntRange(min=1),
        "metavar": "PX",
        "help": "Length of the shorter side before the centre crop of --image-size.",
    },
}
"""The settings of the options that say how a teacher expects its images; without them its weights do."""
