"""`prune select`."""

from typing import TYPE_CHECKING, Any

import click

from prune_toolkit.commands.options import FOLDER, data_of, data_options, dry_run_option, json_option, workers_option

if TYPE_CHECKING:
    from prune_toolkit.selection.select import Plan


@click.command(name="select")
@click.argument("manifest", type=FOLDER, default="manifest")
@click.option("--keep", required=True, help="Fraction of the readable samples to keep: 0.5, 1/3 or 30%.")
@click.option("--selector", help="medium (default), random or window; `prune list selectors` tells more.")
@click.option("--score", help="Score to rank by, NAME or SET/NAME [default: the selector's].")
@click.option("--position", metavar="P", help="Of the window selector: 0 easiest, 1/2 medium, 1 hardest.")
@click.option("--quota", help="proportional (default), equal, published or none.")
@click.option("--labels", help="What becomes of the logits: reshape (default) or raw.")
@click.option("--views", type=int, metavar="N", help="Carry the labels of the first N scored views [default: all].")
@click.option(
    "--policy", help="What is stored of the views: replay (default), each its own label; mean, one; single, view 0's."
)
@click.option("--top-k", type=int, metavar="K", help="Store the K largest logits a target [default: as scored].")
@click.option("--preset", help="A published combination: mdslr.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random selectors.")
@click.option("--out", "-o", type=FOLDER, default="selection", show_default=True, help="Folder of the selection.")
@click.option("--beton/--no-beton", default=True, help="Write train.beton from the images.")
@click.option("--max-side", type=int, metavar="PX", help="Shrink images whose longer side exceeds PX in the beton.")
@data_options
@workers_option
@dry_run_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="For the steps an epoch of --dry-run.",
)
@json_option
def command(**options: Any) -> None:
    """Pick the samples of MANIFEST worth keeping; write them as train.beton with soft labels.

    Needs neither the teacher nor a GPU. The images are read where they were scored, or from --data.

    \b
    prune select --keep 0.5
    prune select manifest --keep 0.3 --selector window --position 1 --score el2n --labels raw -o hard
    """
    from manifests.card import targets_text
    from manifests.console import echo_json, format_bytes
    from manifests.manifest import Manifest
    from prune_toolkit.selection.select import SelectConfig, plan_selection, write_selection

    config = SelectConfig(
        keep=options["keep"],
        out=options["out"],
        selector=options["selector"],
        score=options["score"],
        parameters={} if options["position"] is None else {"position": options["position"]},
        quota=options["quota"],
        labels=options["labels"],
        views=options["views"],
        policy=options["policy"],
        top_k=options["top_k"],
        preset=options["preset"],
        seed=options["seed"],
        beton=options["beton"],
        data=data_of(options),
        max_side=options["max_side"],
        workers=options["workers"],
    )
    plan = plan_selection(config, Manifest.open(options["manifest"]))
    if options["dry_run"]:
        _echo_plan(plan, options["batch_size"], options["as_json"])
        return
    selection = write_selection(config, plan)
    chosen, labels, beton = selection.header.selection, selection.header.labels, selection.beton_path
    assert chosen is not None
    assert labels is not None
    size_bytes = beton.stat().st_size if beton is not None else 0
    if options["as_json"]:
        echo_json(
            {
                "id": selection.id,
                "path": str(config.out),
                "selection": chosen.model_dump(),
                "labels": labels.model_dump(exclude={"class_std"}),
                "beton_bytes": size_bytes,
                "seconds": selection.header.run.get("seconds"),
            }
        )
        return
    beton_text = "no beton" if beton is None else f"train.beton {format_bytes(size_bytes)}"
    text = labels.transform if plan.targets.views == 1 and labels.top_k is None else targets_text(selection.header)
    click.echo(
        f"{config.out}/: {chosen.count:,} samples kept ({100 * chosen.keep_got:.2f} %) by {chosen.method}, quota "
        f"{chosen.quota}, labels {text}; {beton_text}; id {selection.id[:12]}"
    )
    click.echo(f"next: train-student --manifest {config.out}")


def _echo_plan(plan: "Plan", batch_size: int, as_json: bool) -> None:
    from manifests.beton import Beton
    from manifests.console import echo_json, echo_table, format_bytes
    from prune_toolkit.materialise import beton_at_hand

    path = beton_at_hand(plan.parent)
    size_bytes = plan.beton_bytes(None if path is None else Beton.open(path))
    steps = plan.count // batch_size
    if as_json:
        echo_json(
            {
                "count": plan.count,
                "keep_got": plan.keep_got,
                "bytes": size_bytes,
                "steps_an_epoch": steps,
                "batch_size": batch_size,
                "classes": plan.per_class(),
                "config": plan.resolved,
            }
        )
        return
    echo_table(
        [(row["class"], f"{row['samples']:,}", f"{row['kept']:,}") for row in plan.per_class()],
        ("class", "samples", "kept"),
    )
    click.echo(
        f"{plan.count:,} samples ({100 * plan.keep_got:.2f} %), about {format_bytes(size_bytes)}, "
        f"{steps:,} steps an epoch at batch {batch_size}"
    )
