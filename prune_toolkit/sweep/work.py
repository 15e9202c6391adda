"""The work for one run: prune select, unless its selection is there already, then train-student."""

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
        tidy(job.folder)


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


def tidy(folder: Path) -> None:
    """Remove files of a finished run that are not needed beside its last weights and its report."""
    for name in ("checkpoint.pt", "best.safetensors"):
        (folder / name).unlink(missing_ok=True)


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
