"""`prune merge`."""

from typing import TYPE_CHECKING, Any

import click

from prune_toolkit.commands.options import FOLDER, dry_run_option, json_option

if TYPE_CHECKING:
    from prune_toolkit.merging import Merge


@click.command(name="merge")
@click.argument("manifests", nargs=-1, type=FOLDER)
@click.option(
    "--average",
    type=click.Choice(["logits", "probabilities"]),
    required=True,
    help="Mean of the logits, or the log of the mean of the probabilities.",
)
@click.option(
    "--score-views",
    type=click.Choice(["all", "0", "train"]),
    help="Views that scores are the mean over [default: as in the manifests].",
)
@click.option("--out", "-o", type=FOLDER, default="merged", show_default=True, help="Folder of the manifest.")
@dry_run_option
@json_option
def command(**options: Any) -> None:
    """Average what several teachers say: MANIFESTS of the same samples and views become that of their ensemble.

    Needs no model. The order of the manifests plays no part. Scores are computed anew from the averaged logits.

    \b
    prune score index --teacher a.safetensors -o manifest-a
    prune score index --teacher b.safetensors -o manifest-b
    prune merge manifest-a manifest-b --average probabilities
    """
    from manifests.console import echo_json
    from manifests.manifest import Manifest
    from prune_toolkit.merging import Merge, MergeConfig, write_merge

    config = MergeConfig(out=options["out"], average=options["average"], score_views=options["score_views"])
    merge = Merge.of(config, [Manifest.open(path) for path in options["manifests"]])
    if options["dry_run"]:
        _echo_plan(merge, options["as_json"])
        return
    merged = write_merge(merge)
    card, members = merged.header.teacher, merge.teachers
    assert card is not None
    if options["as_json"]:
        echo_json(
            {
                "id": merged.id,
                "path": str(config.out),
                "average": config.average,
                "teacher": card.model_dump(),
                "members": [member.model_dump() for member in members],
                "run": {name: value for name, value in merged.header.run.items() if name != "parent_runs"},
            }
        )
        return
    each = ", ".join(f"{member.spec} {100 * member.train_top1:.2f} %" for member in members)
    views_top1 = merged.header.run.get("views_top1")
    on_views = "" if views_top1 is None else f", {100 * views_top1:.2f} % on their training views"
    click.echo(
        f"{config.out}/: {merged.header.data.readable:,} samples, {config.average} averaged over {len(members)} "
        f"teachers: top-1 {100 * card.train_top1:.2f} % on these images ({each}){on_views}, ECE "
        f"{card.train_ece:.4f}; id {merged.id[:12]}"
    )
    click.echo(f"next: prune select {config.out} --keep 0.5")


def _echo_plan(merge: "Merge", as_json: bool) -> None:
    from manifests.console import echo_json, format_bytes
    from prune_toolkit.runs import ALONE
    from prune_toolkit.scoring.scores import LogitScore

    data, views = merge.data, merge.views.count
    size_bytes = data.readable * (2 * views * merge.class_count + 4 * len(LogitScore.registered()))
    specs = [teacher.spec for teacher in merge.teachers]
    plan = {
        "samples": merge.count,
        "classes": merge.class_count,
        "views": views,
        "teachers": specs,
        "parts": len(ALONE.parts(merge.count)),
        "bytes": size_bytes,
        "config": merge.resolved(),
        "out": str(merge.config.out),
    }
    if as_json:
        echo_json(plan)
        return
    click.echo(
        f"{merge.config.average} of {len(specs)} teachers ({', '.join(specs)}), {data.readable:,} "
        f"samples x {views} view(s), {plan['parts']} part(s): {format_bytes(size_bytes)} of logits and scores into "
        f"{merge.config.out}/"
    )
