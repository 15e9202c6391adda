"""Flags of prune select and train-student inside an option of prune sweep: split as a shell does, checked at once."""

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
    "beton": "none: students need one",
    "without": "--holdout",
    "dry_run": "--dry-run",
    "as_json": "--json",
    "workers": "--jobs",
}
"""Parameters of prune select that a sweep sets itself, and by which of its options."""
TRAIN_OWN = {
    "manifest": "MANIFEST",
    "val": "--val",
    "epochs": "--epochs",
    "steps": "--steps",
    "match_time": "--epochs or --steps",
    "eval_every": "none: each student is evaluated once, at its end",
    "seed": "--seeds",
    "out": "--out",
    "fresh": "another --out",
    "dynamic": "--dynamic",
    "keep": "--keep",
    "dry_run": "--dry-run",
    "as_json": "--json",
}
"""The same of train-student."""


def words_of(text: str, option: str) -> list[str]:
    """Words of a text as a shell splits it; UsageError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from None


def select_flags(words: Sequence[str], option: str) -> dict[str, Any]:
    """Parameters of prune select that these words give; UsageError for unknown flags and those a sweep sets itself."""
    from prune_toolkit.cli.select_command import command

    # Parsed without the required --keep: whether the words hold one is to be seen.
    given = _given(command, words, f"{option} {shlex.join(words)!r}", resilient=True)
    _given(command, ["--keep", "1", *words], f"{option} {shlex.join(words)!r}")
    _refuse(given, SELECT_OWN, option)
    return given


def train_flags(words: Sequence[str], option: str, own: Iterable[str] = ()) -> dict[str, Any]:
    """Parameters of train-student that these words give; `own` are further ones that are not to be given here."""
    given = train_options(words, f"{option} {shlex.join(words)!r}")
    _refuse(given, TRAIN_OWN | {name: f"--{name.replace('_', '-')}" for name in own}, option)
    return given


def train_options(words: Sequence[str], said: str = "train-student") -> dict[str, Any]:
    """Parameters of train-student that these words give, whatever they are."""
    from trainer.cli.train_student import train_student

    return _given(train_student, words, said)


def _given(command: click.Command, words: Sequence[str], said: str, *, resilient: bool = False) -> dict[str, Any]:
    try:
        context = command.make_context(command.name, list(words), resilient_parsing=resilient)
    except click.exceptions.Exit:
        raise UsageError(f"{said} asks for help", hint=f"see: {command.name} --help") from None
    except click.ClickException as error:
        raise UsageError(f"{said}: {error.format_message()}") from None
    typed = click.core.ParameterSource.COMMANDLINE
    return {name: value for name, value in context.params.items() if context.get_parameter_source(name) == typed}


def _refuse(given: Mapping[str, Any], own: Mapping[str, str], option: str) -> None:
    for name in given:
        if name in own:
            hint = f"a sweep has an option of its own for it: {own[name]}"
            raise UsageError(f"{option} cannot set {name.replace('_', '-')}", hint=hint)
