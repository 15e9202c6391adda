"""`prune import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prune_toolkit.cli.copy_options import check_of, check_options
from prune_toolkit.cli.options import FOLDER, MANIFEST, data_of, data_options, echo_next, json_option, workers_option

if TYPE_CHECKING:
    from manifests.format.header import Preprocessing
    from manifests.manifest import Manifest

CHECK = "sizes"


@click.command(name="import")
@click.argument("file", type=FOLDER)
@click.argument("manifest", type=MANIFEST, default="manifest")
@click.option("--key", metavar="COL", help="Column that names the image: its key, or a file name that is unique.")
@click.option("--score", multiple=True, metavar="COL", help="Column that becomes a score; repeatable.")
@click.option(
    "--harder", multiple=True, type=click.Choice(["high", "low"]), help="Which end is harder; once, or once a score."
)
@click.option("--name", multiple=True, help="What the score is called [default: as its column].")
@click.option("--set", "set_name", default="imported", show_default=True, help="The set of scores it goes into.")
@click.option("--missing", metavar="WHAT", help="For samples without a value: mean, hardest, easiest or a number.")
@click.option("--indices", is_flag=True, help="FILE names a subset: rows or keys, as .npy or .txt. Writes a selection.")
@click.option(
    "--order",
    type=click.Choice(["keys", "imagefolder"]),
    help="What its rows count: keys in order, or torchvision's ImageFolder [default: keys, where both agree].",
)
@click.option("--labels", help="Of --indices: targets of the samples [default: raw where there are logits, else none].")
@click.option("--beton/--no-beton", default=True, help="Of --indices: write train.beton from the images.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images whose longer side exceeds PX in the beton.")
@click.option("--logits", is_flag=True, help="FILE holds logits: .npy, .safetensors or .parquet. Writes a manifest.")
@click.option("--teacher-name", metavar="NAME", help="Of --logits: who made them.")
@click.option("--tensor", metavar="NAME", help="Of --logits: the tensor, or the column of a Parquet file.")
@click.option("--outputs", type=FOLDER, metavar="FILE", help="Of --logits: class names of its columns, in order.")
@click.option("--image-size", type=click.IntRange(1, 65535), metavar="PX", help="Of --logits: side the teacher saw.")
@click.option(
    "--resize-size", type=click.IntRange(1, 65535), metavar="PX", help="Shorter side before the crop [default: usual]."
)
@click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), default="bilinear", show_default=True)
@click.option("--parameters", type=click.IntRange(min=0), default=0, help="Of the teacher, as far as it is known.")
@click.option("--teacher-licence", metavar="NAME", help="Licence of the teacher.")
@click.option(
    "--weights-sha256", metavar="HEX", help="Of the teacher's weights [default: of FILE]; one for all files it made."
)
@click.option("--list", "listing", type=FOLDER, metavar="FILE", help="Write all keys that match nothing into FILE.")
@click.option("--out", "-o", type=FOLDER, help="Folder of the result [default: imported, or selection].")
@data_options
@check_options(CHECK)
@workers_option
@json_option
def command(**options: Any) -> None:
    """Bring what others made into a manifest: scores in a table, a subset as indices, or the logits of a teacher.

    Images are only read for the beton of a subset. Keys that match no sample of MANIFEST are counted and listed.

    \b
    prune import forgetting.csv manifest --key file --score forgetting --harder high
    prune import coreset.npy manifest --indices -o coreset
    prune import logits.npy index --logits --teacher-name vit-h --image-size 224 -o manifest
    """
    from manifests.errors import UsageError
    from manifests.hidden.secret import refuse_hidden
    from manifests.manifest import Manifest

    if options["indices"] and options["logits"]:
        raise UsageError("--indices or --logits: a file is one of them")
    parent = Manifest.open(options["manifest"])
    refuse_hidden(parent.header, parent.where)
    if options["logits"]:
        _import_logits(options, parent)
    elif options["indices"]:
        _import_subset(options, parent)
    else:
        _import_scores(options, parent)


def _import_scores(options: dict[str, Any], parent: "Manifest") -> None:
    from manifests.errors import UsageError
    from prune_toolkit.imports.import_scores import ImportedScore, ScoresImport, import_scores

    columns, harder, names = options["score"], options["harder"], options["name"]
    if options["key"] is None or not columns or not harder:
        raise UsageError(
            "which column names the image, which is a score, and which end of it is harder?",
            hint="--key COL --score COL --harder high; or --indices, or --logits",
        )
    if len(harder) not in (1, len(columns)) or len(names) not in (0, len(columns)):
        raise UsageError("--harder once or once a --score, --name never or once a --score")
    scores = [
        ImportedScore(column=column, name=name, harder=end)
        for column, name, end in zip(columns, names or columns, harder * (len(columns) // len(harder)), strict=True)
    ]
    config = ScoresImport(
        file=options["file"],
        out=options["out"] or Path("imported"),
        key=options["key"],
        scores=scores,
        set=options["set_name"],
        missing=options["missing"],
        listing=options["listing"],
    )
    manifest = import_scores(config, parent)
    told = ", ".join(f"{config.set}/{score.name}" for score in scores)
    next_step = ("prune", "select", config.out, "--keep", "0.5", "--score", f"{config.set}/{scores[0].name}")
    _tell(options, manifest, f"{told} of {manifest.header.data.readable:,} samples", next_step)


def _import_subset(options: dict[str, Any], parent: "Manifest") -> None:
    from prune_toolkit.imports.import_subset import plan_subset
    from prune_toolkit.quotas.keep import WHOLE
    from prune_toolkit.selection.write_selection import SelectConfig, write_selection

    has_logits = parent.has("logits/view-000") or parent.header.views is not None
    config = SelectConfig(
        keep=WHOLE,
        out=options["out"] or Path("selection"),
        labels=options["labels"] or ("raw" if has_logits else None),
        beton=options["beton"],
        data=data_of(options),
        check=check_of(options, CHECK),
        max_side=options["max_side"],
        workers=options["workers"],
    )
    config, plan = plan_subset(options["file"], config, parent, order=options["order"], listing=options["listing"])
    selection = write_selection(config, plan)
    chosen, labels = selection.header.selection, selection.header.labels
    assert chosen is not None
    share, transform = f"{100 * chosen.keep_got:.2f} %", "none" if labels is None else labels.transform
    told = f"{chosen.count:,} samples kept ({share}), labels {transform}"
    next_step = ("train-student", "--manifest", config.out, *(() if labels else ("--loss", "ce")))
    _tell(options, selection, told, next_step)


def _import_logits(options: dict[str, Any], parent: "Manifest") -> None:
    from manifests.base.progress import note
    from manifests.errors import UsageError
    from manifests.sources.names import read_class_names
    from prune_toolkit.imports.import_logits import LogitsImport, import_logits
    from prune_toolkit.scoring.logit_scores import is_near_chance

    if options["teacher_name"] is None or options["image_size"] is None:
        raise UsageError(
            "whose logits are these, and of images of which size?", hint="--teacher-name NAME --image-size PX"
        )
    config = LogitsImport(
        file=options["file"],
        out=options["out"] or Path("imported"),
        teacher=options["teacher_name"],
        preprocessing=_preprocessing(options),
        tensor=options["tensor"],
        key=options["key"] or "key",
        parameters=options["parameters"],
        class_names=None if options["outputs"] is None else read_class_names(options["outputs"]),
        licence=options["teacher_licence"],
        weights_sha256=None if options["weights_sha256"] is None else options["weights_sha256"].lower(),
        listing=options["listing"],
    )
    manifest = import_logits(config, parent)
    card = manifest.header.teacher
    assert card is not None
    if is_near_chance(card.train_top1, len(manifest.class_names)):
        note(
            f"warning: {card.spec} is right on {100 * card.train_top1:.2f} % of these images, about chance: are the "
            "columns in the order of the classes (--outputs FILE), and the rows in the order of the keys?"
        )
    told = f"logits of {card.spec}, top-1 {100 * card.train_top1:.2f} % on these images, ECE {card.train_ece:.4f}"
    _tell(options, manifest, told, ("prune", "select", config.out, "--keep", "0.5"))


def _preprocessing(options: dict[str, Any]) -> "Preprocessing":
    """The usual normalisation for the size: students take it over, labels do not depend on it."""
    from trainer.models.info import default_preprocessing

    usual = default_preprocessing(options["image_size"])
    return usual.model_copy(
        update={
            "resize_px": max(options["image_size"], options["resize_size"] or usual.resize_px),
            "interpolation": options["interpolation"],
        }
    )


def _tell(options: dict[str, Any], manifest: "Manifest", told: str, next_step: tuple[object, ...]) -> None:
    from trainer.cli.console import echo_json

    if options["as_json"]:
        header = manifest.header
        echo_json(
            {
                "id": manifest.id,
                "path": manifest.where,
                "scores": [spec.model_dump(exclude_none=True) for spec in header.scores],
                "teacher": None if header.teacher is None else header.teacher.model_dump(),
                "selection": None if header.selection is None else header.selection.model_dump(),
            }
        )
        return
    click.echo(f"{manifest.where}/: {told}; id {manifest.id[:12]}")
    echo_next(*next_step)
