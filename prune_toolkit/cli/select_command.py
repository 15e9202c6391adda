"""`prune select`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import format_bytes, note
from manifests.errors import UsageError
from prune_toolkit.cli.copy_options import CopyOptions, copy_options, note_unused
from prune_toolkit.cli.options import (
    FOLDER,
    codec_option,
    dry_run_option,
    echo_train_command,
    gathered,
    json_option,
    manifest_place,
    timeout_option,
)
from prune_toolkit.quotas.keep import Keep
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from prune_toolkit.selection.choose_samples import SelectionPlan
    from prune_toolkit.selection.select_config import SelectConfig


PARAMETER_FLAGS = ("position", "mode", "sharpness", "beta", "strata", "mix")
"""Parameters of built-in selectors that have a flag of their own; --parameter takes these and all others."""


def _keep(value: object) -> Keep:
    # Text is exact; in prune.toml it may be a number.
    return Keep.parse(str(value))


@click.option(
    "--keep",
    type=_keep,
    metavar="TEXT",
    required=True,
    help="Fraction of the readable samples to keep: 0.5, 1/3 or 30%.",
)
@click.option(
    "--selector",
    help="medium (default), random, window, beta, ccs, moderate, herding, k_center, d2 or mix; "
    "see `prune list selectors`.",
)
@click.option("--score", help="Score to rank by, NAME or SET/NAME [default: the selector's].")
@click.option(
    "--position",
    metavar="P",
    help="With --selector window: 0 easiest, 1/2 medium, 1 hardest, or auto (the best for a proxy model).",
)
@click.option(
    "--mode",
    metavar="M",
    help="With --selector beta: 0 prefers the easiest, 0.5 the middle, 1 the hardest samples, or auto [default: auto].",
)
@click.option(
    "--sharpness",
    metavar="TAU",
    help="With --selector beta: 0 draws at random, 4 prefers the mode gently, 1000 keeps a window around it, or auto "
    "[default: auto].",
)
@click.option(
    "--held-out",
    type=manifest_place,
    metavar="SCORES",
    help="Scored images that the teacher never saw, by which auto of --selector beta and --quota recall judge.",
)
@click.option(
    "--beta",
    metavar="B",
    help="With --selector ccs: share of the hardest samples to drop first [default: as published].",
)
@click.option("--strata", metavar="S", help="With --selector ccs: number of strata of equal width [default: 50].")
@click.option(
    "--mix",
    metavar="PARTS",
    help='With --selector mix: its parts, such as "0.7 medium, 0.2 random, 0.1 window position=1 score=el2n".',
)
@click.option("--parameter", multiple=True, metavar="NAME=VALUE", help="Any parameter of the selector; repeatable.")
@click.option("--quota", help="Division over the classes: proportional (default), equal, published, recall or none.")
@click.option(
    "--per-class-min",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Keep at least N samples of every class.",
)
@click.option(
    "--without",
    type=manifest_place,
    metavar="SELECTION",
    help="Leave out the samples that SELECTION keeps, such as a hold-out.",
)
@click.option(
    "--without-suspects",
    is_flag=True,
    help="Leave out samples that are probably wrong: mislabelled, in two classes, or copies; see `prune suspects`.",
)
@click.option("--val", help="With --without-suspects: validation images; leave out samples that are among them.")
@click.option("--val-split", help="Split of --val [default: validation or test, if it has splits].")
@click.option("--labels", help="How logits become targets: reshape (default), raw, revise, soften, or none.")
@click.option(
    "--eta", metavar="ETA", help="With --labels revise: largest weight of the teacher's label [default: 0.8]."
)
@click.option("--revise-scope", metavar="SCOPE", help="With --labels revise: labels to revise, all (default) or wrong.")
@click.option(
    "--max-confidence", metavar="P", help="With --labels soften: largest probability of a target [default: 0.9]."
)
@click.option("--distill-fraction", metavar="F", help="Distill this share of the kept samples [default: all].")
@click.option(
    "--distill-by",
    metavar="SCORE",
    help="With --distill-fraction: take the easy end of influence (default) or another score, or random ones.",
)
@click.option("--views", type=int, metavar="N", help="Store the labels of the first N scored views [default: all].")
@click.option(
    "--policy",
    help="Targets to store: replay (default), one per view; mean, one for all views; single, that of view 0.",
)
@click.option("--top-k", type=int, metavar="K", help="Store the K largest logits per target [default: as scored].")
@codec_option
@click.option("--preset", help="A published combination: mdslr, kd-pruning or lr-ds.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random draws.")
@click.option("--out", "-o", type=FOLDER, default="selection", show_default=True, help="Folder of the selection.")
@click.option("--beton/--no-beton", default=True, help="Write train.beton from the images.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images in the beton whose longer side exceeds PX.")
@copy_options
def select_config(
    selector: str | None,
    parameter: tuple[str, ...],
    copy: CopyOptions,
    val: str | None,
    val_split: str | None,
    **settings: Any,
) -> "SelectConfig":
    """Return the settings of a selection; UsageError for a parameter without a value or given twice."""
    from prune_toolkit.selection.select_config import SelectConfig

    flags = {name: settings.pop(name) for name in PARAMETER_FLAGS}
    parameters = {name: value for name, value in flags.items() if value is not None}
    for text in parameter:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--parameter {text!r} is not NAME=VALUE", hint="for example: --parameter position=1/3")
        if name in parameters:
            raise UsageError(f"--parameter {text}: {name} is already {parameters[name]}", hint="give it once")
        parameters[name] = value
    if val is None and val_split is not None:
        raise UsageError("--val-split needs --val: it is about validation images", hint="give --val DATA")
    return SelectConfig(
        val=copy.images.like(val, val_split, held_out=True),
        selector="mix" if selector is None and flags["mix"] is not None else selector,
        parameters=parameters,
        **copy.settings(),
        **settings,
    )


@click.command(name="select")
@click.argument("manifest", type=manifest_place, default="manifest")
@gathered("config", select_config)
@dry_run_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="With --dry-run: batch size that the printed steps per epoch are for.",
)
@timeout_option
@json_option
def command(manifest: Path | str, config: "SelectConfig", dry_run: bool, batch_size: int, as_json: bool) -> None:
    """Pick the samples of MANIFEST worth keeping; write them as train.beton with soft labels.

    Needs neither the teacher nor a GPU. Images are read from where they were scored, or from --data: a copy other than
    what was scored is first compared with MANIFEST, and images that do not match are left out.

    \b
    prune select --keep 0.5
    prune select manifest --keep 0.3 --selector window --position 1 --score el2n --labels raw -o hard
    """
    from manifests.card.readme import selection_lines, targets_text
    from manifests.manifest import Manifest
    from prune_toolkit.images.where import place_of
    from prune_toolkit.selection.choose_samples import plan_selection
    from prune_toolkit.selection.cut_images import planned_cut
    from prune_toolkit.selection.write_selection import write_selection

    plan = plan_selection(config, Manifest.open(manifest), keep_search=not dry_run)
    note_unused(config.data, place_of(plan.parent, config.data).beton, is_written=config.beton)
    if dry_run:
        _echo_plan(planned_cut(config, plan), batch_size, as_json)
        return
    selection = write_selection(config, plan)
    chosen, labels, beton = selection.header.selection, selection.header.labels, selection.beton_path
    assert chosen is not None
    size_bytes = beton.stat().st_size if beton is not None else 0
    if as_json:
        echo_json(
            {
                "id": selection.id,
                "path": str(config.out),
                "selection": chosen.model_dump(),
                "labels": None if labels is None else labels.model_dump(exclude={"class_std"}),
                "beton_bytes": size_bytes,
                "seconds": selection.header.run.get("seconds"),
            }
        )
        return
    beton_text = "no beton" if beton is None else f"train.beton {format_bytes(size_bytes)}"
    is_plain = plan.targets.views == 1 and not plan.targets.form.text
    text = labels.transform if labels is not None and is_plain else targets_text(selection.header) or "none"
    click.echo(
        f"{config.out}/: {chosen.count:,} samples kept ({100 * chosen.keep_got:.2f} %) by {chosen.method}, quota "
        f"{chosen.quota}, labels {text}; {beton_text}; id {selection.id[:12]}"
    )
    for line in selection_lines(selection.header):
        click.echo(line)
    echo_train_command(config.out, has_beton=beton is not None, has_labels=labels is not None)


def _echo_plan(plan: "SelectionPlan", batch_size: int, as_json: bool) -> None:
    from manifests.betons.reader import Beton
    from manifests.card.readme import suspects_line
    from prune_toolkit.images.where import place_of

    for line in plan.losses():
        note(f"warning: {line}")
    path = place_of(plan.parent).beton
    size_bytes = plan.beton_bytes(None if path is None else Beton.open(path))
    # As in training, a batch is never larger than the selection.
    batch_size = min(batch_size, plan.count)
    steps = plan.count // batch_size
    if as_json:
        echo_json(
            {
                "count": plan.count,
                "keep_got": plan.keep_got,
                "bytes": size_bytes,
                "steps_per_epoch": steps,
                "batch_size": batch_size,
                "held_out": plan.held_out,
                "without_suspects": None if plan.suspects is None else plan.suspects.block.model_dump(),
                "distill": plan.distill,
                "parameters": plan.parameters,
                "classes": plan.per_class(),
                "config": plan.resolved,
            }
        )
        return
    rows = plan.per_class()
    echo_table(
        [tuple(f"{value:,}" if isinstance(value, int) else value for value in row.values()) for row in rows],
        tuple(rows[0]),
    )
    click.echo(
        f"{plan.count:,} samples ({100 * plan.keep_got:.2f} %), about {format_bytes(size_bytes)}, "
        f"{steps:,} steps per epoch at batch size {batch_size}"
    )
    if plan.held_out:
        click.echo(f"{plan.held_out:,} samples were held out first")
    if plan.suspects is not None:
        click.echo(suspects_line(plan.suspects.block))
    if plan.found:
        click.echo(", ".join(f"{name} {value}" for name, value in plan.found.items()))
