"""Options of the commands that compare a copy of the images with a manifest."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prune_toolkit.cli.options import FOLDER, secret_of, secret_option, typed

if TYPE_CHECKING:
    from pathlib import Path

    from manifests.copies.check import DataCheck

F = TypeVar("F", bound=Callable[..., Any])
PIXELS = "pixels"
CHECKS = ("names", "sizes", "hashes", PIXELS)
FLAGS = ("check", PIXELS, "match", "class_map", "pixel_tolerance", "secret")
"""Names of the options below; none of them is set unless it was typed, or is in prune.toml."""


def check_options(default: str) -> Callable[[F], F]:
    """--check, --pixels, --match, --class-map, --pixel-tolerance, --secret; see `check_of`."""

    def decorate(command: F) -> F:
        for option in (
            secret_option,
            click.option(
                "--pixel-tolerance",
                type=float,
                metavar="LEVELS",
                help="Mean difference, in grey levels, above which an image is another one [default: 8].",
            ),
            click.option(
                "--class-map",
                type=FOLDER,
                metavar="FILE.csv",
                help="Classes that the data calls otherwise: a row is NAME IN THE MANIFEST,NAME IN THE DATA.",
            ),
            click.option(
                "--match",
                multiple=True,
                metavar="HOW",
                help="How images are found: path, name (within the class), content [default: all, in turn].",
            ),
            click.option("--pixels", is_flag=True, help="Short for --check pixels: for a copy that was encoded again."),
            click.option(
                "--check",
                type=click.Choice(CHECKS),
                help="What is compared: names, also sizes, also content hashes; or names and decoded pixels "
                f"[default: {default}].",
            ),
        ):
            command = option(command)
        return command

    return decorate


def check_of(options: dict[str, Any], default: str) -> "DataCheck":
    """What `check_options` and --workers ask for, what was typed before prune.toml; UsageError for a contradiction."""
    from manifests.copies.check import PIXEL_TOLERANCE, DataCheck
    from manifests.copies.matching import parse_stages
    from manifests.errors import UsageError

    said = {name: level for name, level in (("check", options["check"]), (PIXELS, options[PIXELS] and PIXELS)) if level}
    levels = {level for name, level in said.items() if name in typed()} or set(said.values()) or {default}
    if len(levels) > 1:
        raise UsageError(f"--pixels is short for --check pixels, not {said['check']}", hint="leave out one of the two")
    tolerance = options["pixel_tolerance"]
    return DataCheck(
        level=levels.pop(),
        stages=parse_stages(options["match"]),
        class_map=options["class_map"],
        pixel_tolerance=PIXEL_TOLERANCE if tolerance is None else tolerance,
        secret=secret_of(options),
        workers=options["workers"],
    )


def note_unused(options: dict[str, Any], beton: "Path | None", *, is_written: bool = True) -> None:
    """Tell where `check_options` that were typed compare nothing: a beton is copied as it is, or none is written."""
    from manifests.base.progress import note

    if options["data"] is not None and not is_written:
        note("--data is not looked at: no beton is written")
    given = [name for name in FLAGS if name != "secret" and name in typed()]
    if given and (beton is not None or not is_written):
        why = f"images are copied from {beton}" if is_written else "no beton is written"
        note(f"--{given[0].replace('_', '-')} compares nothing here: {why}")
