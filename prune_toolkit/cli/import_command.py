"""`prune import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.base.progress import note
from manifests.errors import UsageError
from prune_toolkit.cli.copy_options import CopyOptions, copy_options
from prune_toolkit.cli.options import FOLDER, echo_next, gathered, json_option, manifest_place, teacher_licence_option
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from manifests.format.header import Harder
    from manifests.manifest import Manifest
    from prune_toolkit.selection.select_config import SelectConfig

    Written = tuple[Manifest, str, tuple[object, ...]]
    """What was written, the line that tells of it, and the words of the next command."""


@click.option("--score", multiple=True, metavar="COL", help="Column to import as a score; repeatable.")
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
@click.option("--tensor", metavar="NAME", help="With --logits: tensor, or column of a Parquet file.")
@click.option(
    "--outputs",
    type=FOLDER,
    metavar="FILE",
    help="With --logits: class of each column, one per line in their order, or a .csv with rows COLUMN,CLASS.",
)
@click.option("--probabilities", is_flag=True, help="With --logits: FILE holds softmax or sigmoid outputs, not logits.")
@click.option(
    "--image-size",
    type=click.IntRange(1, 65535),
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
    outputs: Path | None
    probabilities: bool
    image_size: int | None
    resize_size: int | None
    interpolation: str
    parameters: int
    teacher_licence: str | None
    weights_sha256: str | None


@click.command(name="import")
@click.argument("file", type=FOLDER)
@click.argument("manifest", type=manifest_place, default="manifest")
@click.option("--key", metavar="COL", help="Column that names the image: its key, or a unique file name.")
@gathered("scores", ScoresOptions)
@click.option("--indices", is_flag=True, help="FILE lists a subset: rows or keys, as .npy or .txt. Writes a selection.")
@click.option(
    "--order",
    type=click.Choice(["keys", "imagefolder"]),
    help="With --indices: what rows count, sorted keys or torchvision's ImageFolder [default: keys, if both agree].",
)
@click.option("--labels", help="With --indices: targets of the samples [default: raw if there are logits, else none].")
@click.option("--beton/--no-beton", default=True, help="With --indices: write train.beton from the images.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images in the beton whose longer side exceeds PX.")
@click.option("--logits", is_flag=True, help="FILE holds logits: .npy, .safetensors or .parquet. Writes a manifest.")
@gathered("teacher", LogitsOptions)
@click.option("--out", "-o", type=FOLDER, help="Folder of the result [default: imported; with --indices selection].")
@copy_options
@click.option("--list", "listing", type=FOLDER, metavar="FILE", help="Write all keys without a match to FILE.")
@json_option
def command(
    file: Path,
    manifest: Path | str,
    key: str | None,
    scores: ScoresOptions,
    indices: bool,
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
    prune import coreset.npy manifest --indices -o coreset
    prune import logits.npy index --logits --teacher-name vit-h --image-size 224 -o manifest
    """
    from manifests.hidden.secret import refuse_hidden
    from manifests.manifest import Manifest
    from prune_toolkit.quotas.keep import WHOLE
    from prune_toolkit.selection.select_config import SelectConfig

    if indices and logits:
        raise UsageError("--indices and --logits cannot be used together: a file holds one or the other")
    parent = Manifest.open(manifest)
    refuse_hidden(parent.header, parent.where)
    if logits:
        written, text, next_step = _import_logits(teacher, file, parent, out, key, listing)
    elif indices:
        has_logits = parent.has("logits/view-000") or parent.header.views is not None
        config = SelectConfig(
            keep=WHOLE,
            out=out or Path("selection"),
            labels=labels or ("raw" if has_logits else None),
            beton=beton,
            max_side=max_side,
            **copy.settings(),
        )
        written, text, next_step = _import_subset(file, config, parent, order, listing)
    else:
        written, text, next_step = _import_scores(scores, file, parent, out, key, listing)
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
    options: ScoresOptions, file: Path, parent: "Manifest", out: Path | None, key: str | None, listing: Path | None
) -> "Written":
    from prune_toolkit.imports.import_scores import ImportedScore, ScoresImport, import_scores

    columns, harder = options.score, options.harder
    if key is None or not columns or not harder:
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
        listing=listing,
    )
    manifest = import_scores(config, parent)
    scored = [f"{config.set}/{score.name}" for score in config.scores]
    text = f"{', '.join(scored)} of {manifest.header.data.readable:,} samples"
    return manifest, text, ("prune", "select", config.out, "--keep", "0.5", "--score", scored[0])


def _import_subset(
    file: Path, config: "SelectConfig", parent: "Manifest", order: str | None, listing: Path | None
) -> "Written":
    from prune_toolkit.imports.import_subset import plan_subset
    from prune_toolkit.selection.write_selection import write_selection

    config, plan = plan_subset(file, config, parent, order=order, listing=listing)
    selection = write_selection(config, plan)
    chosen, labels = selection.header.selection, selection.header.labels
    assert chosen is not None
    share, transform = f"{100 * chosen.keep_got:.2f} %", "none" if labels is None else labels.transform
    text = f"{chosen.count:,} samples kept ({share}), labels {transform}"
    return selection, text, ("train-student", "--manifest", config.out, *(() if labels else ("--loss", "ce")))


def _import_logits(
    options: LogitsOptions, file: Path, parent: "Manifest", out: Path | None, key: str | None, listing: Path | None
) -> "Written":
    from prune_toolkit.imports.import_logits import LogitsImport, import_logits
    from prune_toolkit.scoring.logit_scores import is_near_chance
    from trainer.models.info import default_preprocessing
    from trainer.models.output_names import read_outputs

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
        tensor=options.tensor,
        key=key or "key",
        parameters=options.parameters,
        outputs=None if options.outputs is None else read_outputs(options.outputs),
        probabilities=options.probabilities,
        licence=options.teacher_licence,
        weights_sha256=None if options.weights_sha256 is None else options.weights_sha256.lower(),
        listing=listing,
    )
    manifest = import_logits(config, parent)
    card = manifest.header.teacher
    assert card is not None
    if is_near_chance(card.train_top1, len(manifest.class_names)):
        note(
            f"warning: {card.spec} is right on {100 * card.train_top1:.2f} % of these images, about chance\n"
            "  check that columns are in the order of the classes (--outputs FILE), and rows in the order of the keys"
        )
    text = f"logits of {card.spec}, top-1 {100 * card.train_top1:.2f} % on these images, ECE {card.train_ece:.4f}"
    return manifest, text, ("prune", "select", config.out, "--keep", "0.5")
