"""`make demo`: all steps on scikit-learn's digits, with the commands a user would type, and a table of results.

.venv/bin/python -m prune_toolkit.demo [FOLDER]
"""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from manifests.base.progress import format_seconds
from trainer.cli.console import echo_table, run_cli

DATA = "demo:digits"


SELECTIONS = {
    "full": "--keep 1 --labels raw",
    "medium": "--keep 0.5 --selector medium --labels reshape",
    "random": "--keep 0.5 --selector random --labels raw",
}
STUDENTS = {
    "kd-full": ("all data + KD", "selection-full --recipe demo"),
    "kd-medium": ("medium 50 % + reshape + KD", "selection-medium --recipe demo"),
    "kd-random": ("random 50 % + KD", "selection-random --recipe demo"),
    "kd-views": ("random 50 % + KD, 8 views", "labelled-random --recipe demo"),
    "ce-random": ("random 50 %, no KD", "selection-random --recipe demo --loss ce"),
    "ce-full": ("all data, no KD", "selection-full --recipe demo --loss ce"),
}
"""By the folder of the run: the title in the table, and the manifest with flags."""


def run(command: str) -> None:
    """Print a command and run it in this process, as the shell would."""
    from prune_toolkit.main import cli
    from trainer.cli.train_student import train_student

    click.secho(f"\n$ {command}", bold=True)
    program, *arguments = shlex.split(command)
    entry: click.Command = {"prune": cli, "train-student": train_student}[program]
    entry.main(arguments, prog_name=program, standalone_mode=False)


def row(title: str, folder: Path) -> tuple[str, ...]:
    """Return a row of the table, from a run's run.json."""
    report: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    student = report["student"]
    return (
        title,
        f"{student['spec']} ({student['parameters'] / 1000:,.0f}k)",
        f"{report['samples']:,}",
        f"{report['time']['total_s']:.1f}",
        f"{100 * report['last']['top1']:.2f}",
        f"{100 * report['best']['top1']:.2f}",
    )


@click.command(name="demo")
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
def demo(folder: Path) -> None:
    """Train a teacher on scikit-learn's digits, score, select, label, and train six students, all in FOLDER."""
    start = time.monotonic()
    teacher = folder / "teacher" / "student.safetensors"
    val = f"--val {DATA}"
    run(f"prune index {DATA} --beton -o {folder}/index")
    run(f"train-student --manifest {folder}/index --loss ce --recipe demo --student resnet20 {val} -o {folder}/teacher")
    run(f"prune score {folder}/index --teacher {teacher} {val} -o {folder}/manifest")
    for name, flags in SELECTIONS.items():
        run(f"prune select {folder}/manifest {flags} -o {folder}/selection-{name}")
    run(f"prune label {folder}/selection-random --teacher {teacher} --views 8 --no-flip -o {folder}/labelled-random")
    for name, (_, manifest) in STUDENTS.items():
        run(f"train-student --manifest {folder}/{manifest} {val} -o {folder}/{name}")
    click.echo()
    rows = [row("teacher, no KD", folder / "teacher")]
    rows += [row(title, folder / name) for name, (title, _) in STUDENTS.items()]
    echo_table(rows, ("run", "network", "samples", "seconds", "top-1 last", "best"))
    click.echo(f"\ntook {format_seconds(time.monotonic() - start)}; one seed: a tour of the commands, not a comparison")
    click.echo(f"manifests, selections and runs are in {folder}/; look at one: prune show {folder}/selection-medium")
    click.echo(
        "\nyour own images (DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg):\n"
        "  . .venv/bin/activate\n"
        "  prune score --data DIR --teacher torchvision/resnet50:IMAGENET1K_V2     # or any model: docs/commands.md\n"
        "  prune select --keep 0.5\n"
        "  train-student --manifest selection --val DIR"
    )


if __name__ == "__main__":
    run_cli(demo, sys.argv[1:])
