"""Options of the commands that compare a copy of the images with a manifest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prune_toolkit.cli.options import FOLDER, gathered, secret_in, secret_option, typed

if TYPE_CHECKING:
    from manifests.copies.check import DataCheck
    from prune_toolkit.images.data_spec import DataSpec

F = TypeVar("F", bound=Callable[..., Any])
PIXELS = "pixels"
CHECKS = ("names", "sizes", "hashes", PIXELS)
FLAGS = ("check", PIXELS, "match", "class_map", "pixel_tolerance", "secret")
"""Names of the options below; none of them is set unless it was typed, or is in prune.toml."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How a copy of the images is compared with a manifest."""

    default: str
    """The level where none is typed."""
    check: str | None
    pixels: bool
    match: tuple[str, ...]
    class_map: Path | None
    pixel_tolerance: float | None
    secret: Path | None

    def data_check(self, workers: int) -> "DataCheck":
        """What is asked for, what was typed before prune.toml; UsageError for a contradiction."""
        from manifests.copies.check import PIXEL_TOLERANCE, DataCheck
        from manifests.copies.matching import parse_stages

        return DataCheck(
            level=self._level(),
            stages=parse_stages(self.match),
            class_map=self.class_map,
            pixel_tolerance=PIXEL_TOLERANCE if self.pixel_tolerance is None else self.pixel_tolerance,
            secret=secret_in(self.secret),
            workers=workers,
        )

    def _level(self) -> str:
        from manifests.errors import UsageError

        said = {name: level for name, level in (("check", self.check), (PIXELS, self.pixels and PIXELS)) if level}
        levels = {level for name, level in said.items() if name in typed()} or set(said.values()) or {self.default}
        if len(levels) > 1:
            raise UsageError(f"--pixels is short for --check pixels, not {self.check}", hint="leave out one of the two")
        return levels.pop()


def check_options(default: str) -> Callable[[F], F]:
    """--check, --pixels, --match, --class-map, --pixel-tolerance, --secret."""

    @click.option(
        "--check",
        type=click.Choice(CHECKS),
        help="What is compared: names, also sizes, also content hashes; or names and decoded pixels "
        f"[default: {default}].",
    )
    @click.option("--pixels", is_flag=True, help="Short for --check pixels: for a copy that was encoded again.")
    @click.option(
        "--match",
        multiple=True,
        metavar="HOW",
        help="How images are found: path, name (within the class), content [default: all, in turn].",
    )
    @click.option(
        "--class-map",
        type=FOLDER,
        metavar="FILE.csv",
        help="Classes that the data calls otherwise: a row is NAME IN THE MANIFEST,NAME IN THE DATA.",
    )
    @click.option(
        "--pixel-tolerance",
        type=float,
        metavar="LEVELS",
        help="Mean difference, in grey levels, above which an image is another one [default: 8].",
    )
    @secret_option
    def asked(**values: Any) -> CheckOptions:
        return CheckOptions(default=default, **values)

    return gathered("check", asked)


def note_unused(data: "DataSpec | None", beton: Path | None, *, is_written: bool = True) -> None:
    """Tell where `check_options` that were typed compare nothing: a beton is copied as it is, or none is written."""
    from manifests.base.progress import note

    if data is not None and not is_written:
        note("--data is not looked at: no beton is written")
    given = [name for name in FLAGS if name != "secret" and name in typed()]
    if given and (beton is not None or not is_written):
        why = f"images are copied from {beton}" if is_written else "no beton is written"
        note(f"--{given[0].replace('_', '-')} compares nothing here: {why}")
