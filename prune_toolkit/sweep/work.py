"""What a worker does for one run: its selection, if nobody made it yet, then train-student; both as commands."""

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
    """One run, as two commands."""

    key: str
    title: str
    select: tuple[str, ...]
    """Arguments of prune select beside --out."""
    selection: Path
    train: tuple[str, ...]
    """Arguments of train-student beside --manifest and --out."""
    folder: Path
    log: Path
    images: int


def perform(job: Job) -> None:
    """Make the selection and train the student; whatever they print goes into the log."""
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
    """Write a selection unless it is there with its images; one process at a time does."""
    from prune_toolkit.cli.select_command import command

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / HEADER_NAME).is_file():
            if (folder / BETON_NAME).is_file():
                return
            # Its images were removed after its last run: the same bytes are written again.
            shutil.rmtree(folder)
        _call(command, "prune select", [*arguments, "--workers", "1", "--out", str(folder)])


def tidy(folder: Path) -> None:
    """Remove what a finished run leaves that its last weights and its report make unnecessary."""
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
    """Let stdout and stderr of this process, of libraries too, go to the end of a file."""
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
