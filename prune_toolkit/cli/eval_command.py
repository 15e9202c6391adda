"""`prune eval`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.sources.read_as import listed_names
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    TeacherOptions,
    data_options,
    json_option,
    strict_option,
    teacher_options,
    workers_option,
)
from prune_toolkit.cli.score_command import preprocessing_text
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from prune_toolkit.evaluation.result import Evaluation

SHOWN = 5
"""Classes and confusions that are printed."""


@click.command(name="eval")
@data_options
@teacher_options
@click.argument("teacher", metavar="MODEL")
@click.option("--out", "-o", type=FOLDER, metavar="FILE.csv", help="Write the answer to every image to a CSV file.")
@click.option("--per-class", type=FOLDER, metavar="FILE.csv", help="Write count and top-1 of every class.")
@click.option("--confusion", type=FOLDER, metavar="FILE.csv", help="Write the whole confusion matrix.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate N images spread over the data.")
@workers_option
@strict_option
@json_option
def command(
    teacher_options: TeacherOptions,
    images: DataOptions,
    out: Path | None,
    per_class: Path | None,
    confusion: Path | None,
    limit: int | None,
    workers: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on labelled images: accuracy, per class too, confusions, calibration, and speed.

    MODEL is the folder of a run, or what --teacher takes: FILE.safetensors, torchvision/NAME:WEIGHTS, timm/NAME, or
    module:callable with --checkpoint. Without --split, the validation split is read if there is one, else the test
    split; all of the data if it has no splits. Nothing is written unless a file is named.

    \b
    prune eval run --data photos
    prune eval run/best.safetensors --data photos --split test --out answers.csv
    """
    from prune_toolkit.evaluation.evaluate import EvaluationConfig, evaluate
    from prune_toolkit.evaluation.model import named_model
    from prune_toolkit.images.readers import images_to_evaluate
    from prune_toolkit.indexing.reading import tell_reading

    config = EvaluationConfig(
        batch_size=teacher_options.batch_size,
        workers=workers,
        loader=teacher_options.loader,
        limit=limit,
        predictions=out,
        classes=per_class,
        confusion=confusion,
    )
    data = images_to_evaluate(images.spec())
    if data.index is None:
        tell_reading(data.source, strict=strict)
    assert teacher_options.teacher is not None
    model = replace(teacher_options, teacher=named_model(teacher_options.teacher)).load(data.class_names)
    evaluation = evaluate(model, data, config)
    if as_json:
        echo_json(evaluation.as_json())
        return
    _echo(evaluation)
    for path, what in ((out, "answers"), (per_class, "classes"), (confusion, "confusion matrix")):
        if path is not None:
            click.echo(f"{path}: {what}")


def _echo(evaluation: "Evaluation") -> None:
    where = evaluation.data if evaluation.split is None else f"{evaluation.data}, split {evaluation.split}"
    top5 = "" if evaluation.top5 is None else f", top-5 {100 * evaluation.top5:.2f} %"
    click.echo(
        f"{evaluation.model} on {evaluation.count:,} of {evaluation.of:,} images of {where}: "
        f"top-1 {100 * evaluation.top1:.2f} %{top5}, NLL {evaluation.nll:.4f}, ECE {evaluation.ece:.4f}"
    )
    click.echo(preprocessing_text(evaluation.preprocessing.model_dump()))
    worst = [row for row in evaluation.worst_classes if row.top1 is not None and row.top1 < 1]
    if worst:
        echo_table(
            [(name, f"{count:,}", f"{100 * (top1 or 0):.2f} %") for name, count, top1 in worst[:SHOWN]],
            ("worst classes", "images", "top-1"),
        )
    if without := [row.name for row in evaluation.classes if not row.samples]:
        click.echo(f"classes without images: {len(without):,} ({listed_names(without)})")
    names = evaluation.class_names
    if evaluation.confusions:
        echo_table(
            [(names[label], names[answer], f"{count:,}") for label, answer, count in evaluation.confusions[:SHOWN]],
            ("most confused", "taken for", "images"),
        )
    click.echo(
        f"the network alone: {evaluation.network_images_per_second:,.0f} images/s ({evaluation.dtype} on "
        f"{evaluation.device}); with reading and decoding: {evaluation.images_per_second:,.0f} images/s"
    )
