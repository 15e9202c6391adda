"""`prune import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.base.layout import MAX_IMAGE_PX
from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.cli.copy_options import CopyOptions, copy_options
from prune_toolkit.cli.options import (
    FOLDER,
    echo_next,
    gathered,
    json_option,
    manifest_place,
    teacher_licence_option,
    timeout_option,
)
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from manifests.format.header import Harder
    from manifests.manifest import Manifest
    from prune_toolkit.selection.select_config import SelectConfig

    Written = tuple[Manifest, str, tuple[object, ...]]
    """What was written, the line that tells of it, and the words of the next command."""


@click.option("--score", multiple=True, metavar="COL", help="Column, or array, to import as a score; repeatable.")
@click.option(
    "--harder",
    multiple=True,
    type=click.Choice(["high", "low"]),
    help="End of the score that is harder; give it once, or once per --score.",
)
@click.option("--name", multiple=True, help="Name of the score; once per --score [default: that of its column].")
@click.option("--set", "set_name", default="imported", show_default=True, help="Score set to put the scores into.")
@click.option("--missing", metavar="WHAT", help="Value for samples without one: mean, hardest, easiest or a number.")
@dataclass(frozen=True, kw_only=True)
class ScoresOptions:
    """Columns that become scores."""

    score: tuple[str, ...]
    harder: "tuple[Harder, ...]"
    name: tuple[str, ...]
    set_name: str
    missing: str | None


@click.option("--teacher-name", metavar="NAME", help="With --logits: name of the teacher they are from.")
@click.option("--tensor", metavar="NAME", help="With --logits: tensor, array or column of the values.")
@click.option(
    "--values",
    type=click.Choice(["logits", "log-probabilities", "probabilities"]),
    help="With --logits: what the values are [default: what is certain].",
)
@click.option(
    "--ids",
    metavar="NAME",
    help="With --logits of the K largest classes: array, column or .npy file of the classes [default in .npz: ids].",
)
@click.option("--lse", metavar="NAME", help="With --ids: the log-sum-exp of all logits of each row, named likewise.")
@click.option("--rest", type=float, metavar="P", help="With --ids: probability of all other classes, if FILE lacks it.")
@click.option("--view", type=int, metavar="V", help="With --logits of several views: this one [default: their mean].")
@click.option(
    "--view-file", type=FOLDER, multiple=True, metavar="FILE", help="With --logits: another view; repeatable."
)
@click.option(
    "--outputs",
    type=FOLDER,
    metavar="FILE",
    help="With --logits: class of each column, one per line in their order, or a .csv with rows COLUMN,CLASS.",
)
@click.option(
    "--image-size",
    type=click.IntRange(1, MAX_IMAGE_PX),
    metavar="PX",
    help="With --logits: side of the images the teacher saw.",
)
@click.option(
    "--resize-size",
    type=click.IntRange(1, 65535),
    metavar="PX",
    help="With --logits: shorter side before the crop [default: usual for --image-size].",
)
@click.option(
    "--interpolation",
    type=click.Choice(["bilinear", "bicubic"]),
    default="bilinear",
    show_default=True,
    help="With --logits: interpolation of that resize.",
)
@click.option(
    "--parameters",
    type=click.IntRange(min=0),
    default=0,
    help="With --logits: number of parameters of the teacher, if known.",
)
@teacher_licence_option(metavar="NAME", help="With --logits: licence of the teacher.")
@click.option(
    "--weights-sha256",
    metavar="HEX",
    help="With --logits: hash of the teacher's weights, the same for all its files [default: that of FILE].",
)
@dataclass(frozen=True, kw_only=True)
class LogitsOptions:
    """Logits of a teacher, and facts about it."""

    teacher_name: str | None
    tensor: str | None
    values: str | None
    ids: str | None
    lse: str | None
    rest: float | None
    view: int | None
    view_file: tuple[Path, ...]
    outputs: Path | None
    image_size: int | None
    resize_size: int | None
    interpolation: str
    parameters: int
    teacher_licence: str | None
    weights_sha256: str | None


@click.command(name="import")
@click.argument("file", type=FOLDER)
@click.argument("manifest", type=manifest_place, default="manifest")
@click.option(
    "--key",
    metavar="COL",
    help="Column that names the image: its key, or a unique file name; of a subset in a .csv file also its row.",
)
@gathered("scores", ScoresOptions)
@click.option(
    "--indices",
    is_flag=True,
    help="FILE lists the kept samples: rows or keys, as .npy, .txt, .json or .csv. Writes a selection.",
)
@click.option("--dropped", is_flag=True, help="As --indices, but FILE lists the samples that are not kept.")
@click.option(
    "--order",
    type=click.Choice(["keys", "imagefolder"]),
    help="What rows without keys count: sorted keys or torchvision's ImageFolder [default: keys, if both agree].",
)
@click.option("--labels", help="With --indices: targets of the samples [default: raw if there are logits, else none].")
@click.option("--beton/--no-beton", default=True, help="With --indices: write train.beton from the images.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images in the beton whose longer side exceeds PX.")
@click.option(
    "--logits",
    is_flag=True,
    help="FILE holds a teacher's outputs: .npy, .npz, .safetensors or .parquet. Writes a manifest.",
)
@gathered("teacher", LogitsOptions)
@click.option("--out", "-o", type=FOLDER, help="Folder of the result [default: imported; with --indices selection].")
@copy_options
@click.option("--list", "listing", type=FOLDER, metavar="FILE", help="Write all keys without a match to FILE.")
@timeout_option
@json_option
def command(
    file: Path,
    manifest: Path | str,
    key: str | None,
    scores: ScoresOptions,
    indices: bool,
    dropped: bool,
    order: str | None,
    labels: str | None,
    beton: bool,
    max_side: int | None,
    logits: bool,
    teacher: LogitsOptions,
    listing: Path | None,
    out: Path | None,
    copy: CopyOptions,
    as_json: bool,
) -> None:
    """Import results of other tools into a manifest: a table of scores, a subset as indices, or a teacher's logits.

    Images are only read for the beton of a subset. Keys that match no sample of MANIFEST are counted and listed.

    \b
    prune import forgetting.csv manifest --key file --score forgetting --harder high
    prune import el2n.npy manifest --score el2n --harder high
    prune import coreset.npy manifest --indices -o coreset
    prune import logits.npy index --logits --teacher-name vit-h --image-size 224 -o manifest
    """
    from manifests.hidden.secret import refuse_hidden
    from manifests.manifest import Manifest
    from prune_toolkit.quotas.keep import WHOLE
    from prune_toolkit.selection.select_config import SelectConfig

    whats = [flag for flag, given in (("--indices", indices), ("--dropped", dropped), ("--logits", logits)) if given]
    if len(whats) > 1:
        raise UsageError(f"{' and '.join(whats)} cannot be used together: a file holds one or the other")
    parent = Manifest.open(manifest)
    refuse_hidden(parent.header, parent.where)
    if logits:
        written, text, next_step = _import_logits(teacher, file, parent, out, key, order, listing)
    elif indices or dropped:
        has_logits = parent.has("logits/view-000") or parent.header.views is not None
        config = SelectConfig(
            keep=WHOLE,
            out=out or Path("selection"),
            labels=labels or ("raw" if has_logits else None),
            beton=beton,
            max_side=max_side,
            **copy.settings(),
        )
        written, text, next_step = _import_subset(file, config, parent, dropped, key, order, listing)
    else:
        written, text, next_step = _import_scores(scores, file, parent, out, key, order, listing)
    if as_json:
        header = written.header
        echo_json(
            {
                "id": written.id,
                "path": written.where,
                "scores": [spec.model_dump(exclude_none=True) for spec in header.scores],
                "teacher": None if header.teacher is None else header.teacher.model_dump(),
                "selection": None if header.selection is None else header.selection.model_dump(),
            }
        )
        return
    click.echo(f"{written.where}/: {text}; id {written.id[:12]}")
    echo_next(*next_step)


def _import_scores(
    options: ScoresOptions,
    file: Path,
    parent: "Manifest",
    out: Path | None,
    key: str | None,
    order: str | None,
    listing: Path | None,
) -> "Written":
    from prune_toolkit.imports.import_scores import ImportedScore, ScoresImport, import_scores

    columns, harder = options.score, options.harder
    in_rows = file.suffix.lower() in (".npy", ".npz")
    if in_rows and key is not None:
        raise UsageError(f"--key {key}: {file.name} holds arrays without keys", hint="--order says what its rows count")
    if not in_rows and order is not None:
        raise UsageError(f"--order {order}: rows of {file.name} are found by their keys, in any order")
    if (key is None and not in_rows) or not columns or not harder:
        raise UsageError(
            "--key, --score or --harder is missing: name the columns of images and scores, and the harder end",
            hint="--key COL --score COL --harder high; for a subset --indices, for logits --logits",
        )
    if len(harder) not in (1, len(columns)) or len(options.name) not in (0, len(columns)):
        raise UsageError("give --harder once or once per --score, and --name once per --score or not at all")
    ends, names = harder * (len(columns) // len(harder)), options.name or columns
    config = ScoresImport(
        file=file,
        out=out or Path("imported"),
        key=key,
        scores=[
            ImportedScore(column=column, name=name, harder=end)
            for column, name, end in zip(columns, names, ends, strict=True)
        ],
        set=options.set_name,
        missing=options.missing,
        order=order,
        listing=listing,
    )
    manifest = import_scores(config, parent)
    scored = [f"{config.set}/{score.name}" for score in config.scores]
    text = f"{', '.join(scored)} of {manifest.header.data.readable:,} samples"
    return manifest, text, ("prune", "select", config.out, "--keep", "0.5", "--score", scored[0])


def _import_subset(
    file: Path,
    config: "SelectConfig",
    parent: "Manifest",
    dropped: bool,
    key: str | None,
    order: str | None,
    listing: Path | None,
) -> "Written":
    from prune_toolkit.imports.import_subset import plan_subset
    from prune_toolkit.selection.write_selection import write_selection

    config, plan = plan_subset(file, config, parent, dropped=dropped, key=key, order=order, listing=listing)
    selection = write_selection(config, plan)
    chosen, labels = selection.header.selection, selection.header.labels
    assert chosen is not None
    share, transform = f"{100 * chosen.keep_got:.2f} %", "none" if labels is None else labels.transform
    text = f"{chosen.count:,} samples kept ({share}), labels {transform}"
    return selection, text, ("train-student", "--manifest", config.out, *(() if labels else ("--loss", "ce")))


def _import_logits(
    options: LogitsOptions,
    file: Path,
    parent: "Manifest",
    out: Path | None,
    key: str | None,
    order: str | None,
    listing: Path | None,
) -> "Written":
    from prune_toolkit.imports.import_logits import LogitsImport, import_logits
    from prune_toolkit.imports.outputs_form import OutputsForm
    from prune_toolkit.scoring.logit_scores import is_near_chance
    from trainer.models.info import default_preprocessing
    from trainer.teachers.output_names import read_outputs

    if options.teacher_name is None or options.image_size is None:
        raise UsageError(
            "--teacher-name or --image-size is missing: name the network that gave these logits and its image size",
            hint="--teacher-name NAME --image-size PX",
        )
    # Students adopt the preprocessing; labels do not depend on it.
    usual = default_preprocessing(options.image_size)
    resize_px = max(options.image_size, options.resize_size or usual.resize_px)
    config = LogitsImport(
        file=file,
        out=out or Path("imported"),
        teacher=options.teacher_name,
        preprocessing=usual.model_copy(update={"resize_px": resize_px, "interpolation": options.interpolation}),
        form=OutputsForm(
            tensor=options.tensor,
            values=options.values,
            ids=options.ids,
            total=options.lse,
            rest=options.rest,
            view=options.view,
            more=options.view_file,
        ),
        key=key or "key",
        parameters=options.parameters,
        outputs=None if options.outputs is None else read_outputs(options.outputs),
        licence=options.teacher_licence,
        weights_sha256=None if options.weights_sha256 is None else options.weights_sha256.lower(),
        order=order,
        listing=listing,
    )
    manifest = import_logits(config, parent)
    card = manifest.header.teacher
    assert card is not None
    if card.train_top1 is not None and is_near_chance(card.train_top1, len(manifest.class_names)):
        note(
            f"warning: {card.spec} is right on {100 * card.train_top1:.2f} % of these images, about chance\n"
            "  check that columns are in the order of the classes (--outputs FILE), and rows in the order of the keys"
        )
    text = f"logits of {card.spec}, {card.top1_text}{card.ece_text}"
    return manifest, text, ("prune", "select", config.out, "--keep", "0.5")
