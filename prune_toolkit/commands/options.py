"""Options that several commands share, spelled the same everywhere."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(path_type=Path)


def data_options(command: F) -> F:
    """--data, --split, --classes, --label: which images, and how to read them."""
    for option in (
        click.option("--label", help="Label column of a Parquet data set, when there are several."),
        click.option("--classes", type=FOLDER, help="Class names in label order: a JSON list, or one name a line."),
        click.option("--split", help="Which split of the data, such as train or test."),
        click.option(
            "--data",
            help="Images: a folder of class folders, Parquet, idx .gz or CIFAR files, a .beton, torchvision:NAME, "
            "demo:digits.",
        ),
    ):
        command = option(command)
    return command


def rank_options(command: F) -> F:
    """--rank and --world-size, for sharing the work among processes."""
    for option in (
        click.option("--world-size", type=int, help="Processes that share the parts [default: WORLD_SIZE, or 1]."),
        click.option("--rank", type=int, help="Which of them this is, from 0 [default: RANK, or 0]."),
    ):
        command = option(command)
    return command


workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    show_default="the cores",
    help="Threads that read and decode images.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
