"""The commands that a sweep calls: prune select for the hold-out and for each selection, train-student for each run."""

import os
import shlex
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click
from filelock import FileLock

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.errors import UsageError
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Grid
from prune_toolkit.sweep.runs import SweepTeacher

HOLDOUT_SEED = 1_000_003
"""Seed of the hold-out: one that a run is unlikely to have."""
_METHOD, _QUOTA, _LABELS = "random", "proportional", "raw"


@dataclass(frozen=True)
class Job:
    """A run as two commands."""

    key: str
    title: str
    select: tuple[str, ...]
    """Arguments of prune select except --out."""
    selection: Path
    train: tuple[str, ...]
    """Arguments of train-student except --manifest and --out."""
    folder: Path
    log: Path
    images: int


def perform(job: Job) -> None:
    """Make the selection and train the student; their output goes to the log."""
    from trainer.cli.train_student import train_student

    with printing_to(job.log):
        try:
            select_by_command(job.select, job.selection)
            arguments = ["--manifest", str(job.selection), *job.train, "--out", str(job.folder)]
            _call(train_student, "train-student", arguments)
        except Exception:
            traceback.print_exc()
            raise
        # Its last weights and its report are what is needed of a finished run.
        for name in ("checkpoint.pt", "best.safetensors"):
            (job.folder / name).unlink(missing_ok=True)


def select_by_command(arguments: Sequence[str], folder: Path) -> None:
    """Write a selection unless it is there with its images; a lock lets one process at a time do it."""
    from prune_toolkit.cli.select_command import command

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / HEADER_NAME).is_file():
            if (folder / BETON_NAME).is_file():
                return
            # Its beton was removed after its last run: the same bytes are written again.
            shutil.rmtree(folder)
        _call(command, "prune select", [*arguments, "--workers", "1", "--out", str(folder)])


def write_holdout(grid: Grid, teachers: Sequence[SweepTeacher], folder: Path, *more: str) -> None:
    """Write the hold-out unless it is there; replace one that an earlier call with other options left before it began.

    The hold-out is training samples that students are evaluated on, and that these students are not trained on.
    more: further flags of prune select. Raises UsageError if the folder has a manifest that is not a hold-out of a
    sweep.
    """
    if (folder / HEADER_NAME).is_file() and not _is_wanted(Manifest.open(folder), grid, teachers):
        shutil.rmtree(folder)
    flags = ("--selector", _METHOD, "--quota", _QUOTA, "--labels", _LABELS, "--seed", str(HOLDOUT_SEED), *more)
    select_by_command((str(teachers[0].manifest.path), "--keep", str(grid.holdout), *flags), folder)


def _is_wanted(there: Manifest, grid: Grid, teachers: Sequence[SweepTeacher]) -> bool:
    """Return whether a manifest is the hold-out of this grid, made from the manifest of any of the teachers."""
    chosen, labels = there.header.selection, there.header.labels
    made = None if chosen is None or labels is None else (chosen.method, chosen.quota, labels.transform, chosen.seed)
    if chosen is None or made != (_METHOD, _QUOTA, _LABELS, HOLDOUT_SEED):
        raise UsageError(f"{there.path} is not the hold-out of a sweep", hint="name another folder with --out")
    is_of_these = any(there.header.parents == [teacher.manifest.id] for teacher in teachers)
    return is_of_these and Keep.parse(chosen.keep_asked) == grid.holdout


def _call(command: click.Command, name: str, arguments: list[str]) -> None:
    print(f"$ {name} {shlex.join(arguments)}", flush=True)  # noqa: T201
    try:
        command.main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        raise RuntimeError(error.format_message()) from None


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Append stdout and stderr of this process, including those of libraries, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as stream, redirect_stdout(stream), redirect_stderr(stream):
        kept = [os.dup(1), os.dup(2)]
        try:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            yield
        finally:
            for target, source in zip((1, 2), kept, strict=True):
                os.dup2(source, target)
                os.close(source)
