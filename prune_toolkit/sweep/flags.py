"""Flags of prune select and train-student inside an option of prune sweep: split as in a shell, and checked early."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from manifests.errors import UsageError

SELECT_OWN = {
    "manifest": "MANIFEST",
    "keep": "--keep",
    "seed": "--seeds",
    "out": "--out",
    "beton": "every student needs a beton",
    "without": "--holdout",
    "dry_run": "--dry-run",
    "as_json": "--json",
    "workers": "--jobs",
}
"""Parameters of prune select that a sweep sets itself, with the option of the sweep or the reason."""
TRAIN_OWN = {
    "manifest": "MANIFEST",
    "val": "--val",
    "epochs": "--epochs",
    "steps": "--steps",
    "match_time": "--epochs or --steps",
    "eval_every": "each student is evaluated once, at its end",
    "seed": "--seeds",
    "out": "--out",
    "fresh": "name another --out to start over",
    "dynamic": "--dynamic",
    "keep": "--keep",
    "dry_run": "--dry-run",
    "as_json": "--json",
}
"""The same for train-student."""


def words_of(text: str, option: str) -> list[str]:
    """Split a text into words as a shell does; UsageError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from None


def select_flags(words: Sequence[str], option: str) -> dict[str, Any]:
    """Return the parameters of prune select in these words; UsageError for unknown flags and those the sweep sets."""
    from prune_toolkit.cli.select_command import command

    # Parsed without the required --keep, to see whether the words contain one.
    given = _given(command, words, f"{option} {shlex.join(words)!r}", resilient=True)
    _given(command, ["--keep", "1", *words], f"{option} {shlex.join(words)!r}")
    _refuse(given, SELECT_OWN, option)
    return given


def train_flags(words: Sequence[str], option: str, own: Iterable[str] = ()) -> dict[str, Any]:
    """Return the parameters of train-student in these words; UsageError for those the sweep sets, `own` included."""
    given = train_options(words, f"{option} {shlex.join(words)!r}")
    _refuse(given, TRAIN_OWN | {name: f"--{name.replace('_', '-')}" for name in own}, option)
    return given


def train_options(words: Sequence[str], source: str = "train-student") -> dict[str, Any]:
    """Return the parameters of train-student in these words, whatever they are."""
    from trainer.cli.train_student import train_student

    return _given(train_student, words, source)


def _given(command: click.Command, words: Sequence[str], source: str, *, resilient: bool = False) -> dict[str, Any]:
    try:
        context = command.make_context(command.name, list(words), resilient_parsing=resilient)
    except click.exceptions.Exit:
        raise UsageError(f"{source} asks for help", hint=f"see: {command.name} --help") from None
    except click.ClickException as error:
        raise UsageError(f"{source}: {error.format_message()}") from None
    typed = click.core.ParameterSource.COMMANDLINE
    return {name: value for name, value in context.params.items() if context.get_parameter_source(name) == typed}


def _refuse(given: Mapping[str, Any], own: Mapping[str, str], option: str) -> None:
    for name in given:
        if name in own:
            hint = f"prune sweep sets it itself: {own[name]}"
            raise UsageError(f"{option} cannot set {name.replace('_', '-')}", hint=hint)
