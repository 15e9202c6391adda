"""Options of the commands that compare a copy of the images with a manifest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    data_options,
    gathered,
    secret_option,
    trust_beton_option,
    typed,
    workers_option,
)

if TYPE_CHECKING:
    from manifests.copies.check import DataCheck
    from prune_toolkit.images.data_spec import DataSpec

F = TypeVar("F", bound=Callable[..., Any])
PIXELS = "pixels"
CHECKS = ("names", "sizes", "hashes", PIXELS)
FLAGS = ("check", PIXELS, "match", "class_map", "pixel_tolerance", "secret")
"""Names of the options below; each is unset unless it was typed or is in prune.toml."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of comparing a copy of the images with a manifest."""

    default: str
    """The level if none is given."""
    check: str | None
    pixels: bool
    match: tuple[str, ...]
    class_map: Path | None
    pixel_tolerance: float | None
    secret: Path | None

    def data_check(self, workers: int) -> "DataCheck":
        """Return the requested check; typed options win over prune.toml, UsageError for a contradiction."""
        from prune_toolkit.api.arguments import data_check

        return data_check(self._level(), self.match, self.class_map, self.pixel_tolerance, self.secret, workers)

    def _level(self) -> str:
        given = {name: level for name, level in (("check", self.check), (PIXELS, self.pixels and PIXELS)) if level}
        levels = {level for name, level in given.items() if name in typed()} or set(given.values()) or {self.default}
        if len(levels) > 1:
            raise UsageError(f"--pixels is short for --check pixels, not {self.check}", hint="leave out one of the two")
        return levels.pop()


def check_options(default: str) -> Callable[[F], F]:
    """Add --check, --pixels, --match, --class-map, --pixel-tolerance and --secret to a command."""

    @click.option(
        "--check",
        type=click.Choice(CHECKS),
        help="What to compare: names; sizes as well; content hashes as well; or names and decoded pixels "
        f"[default: {default}].",
    )
    @click.option("--pixels", is_flag=True, help="Short for --check pixels, for a copy that was re-encoded.")
    @click.option(
        "--match",
        multiple=True,
        metavar="HOW",
        help="How to find images: path, name (within the class) or content; repeatable [default: all, in turn].",
    )
    @click.option(
        "--class-map",
        type=FOLDER,
        metavar="FILE.csv",
        help="Table of the classes that have other names in the data; each row: NAME IN MANIFEST,NAME IN DATA.",
    )
    @click.option(
        "--pixel-tolerance",
        type=float,
        metavar="LEVELS",
        help="Mean difference, in grey levels, above which two images count as different [default: 8].",
    )
    @secret_option
    def asked(**values: Any) -> CheckOptions:
        return CheckOptions(default=default, **values)

    return gathered("check", asked)


@data_options
@check_options("sizes")
@trust_beton_option
@workers_option
@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """The images that a beton is cut from: which, how closely they are compared, and the threads that read them."""

    images: DataOptions
    check: CheckOptions
    trust_beton: bool
    workers: int

    def settings(self) -> dict[str, Any]:
        """Return these as fields of a `CutConfig`."""
        return {
            "data": self.images.spec(),
            "check": self.check.data_check(self.workers),
            "trust_beton": self.trust_beton,
            "workers": self.workers,
        }


copy_options = gathered("copy", CopyOptions)


def note_unused(data: "DataSpec | None", beton: Path | None, *, is_written: bool = True) -> None:
    """Print a note if typed `check_options` have no effect: a beton is copied as it is, or none is written."""
    if data is not None and not is_written:
        note("--data is ignored: no beton is written")
    given = [name for name in FLAGS if name != "secret" and name in typed()]
    if given and (beton is not None or not is_written):
        why = f"images are copied from {beton}" if is_written else "no beton is written"
        note(f"--{given[0].replace('_', '-')} has no effect here: {why}")
