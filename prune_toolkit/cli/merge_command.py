"""`prune merge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from manifests.base.progress import format_bytes
from manifests.errors import UsageError
from prune_toolkit.cli.options import FOLDER, dry_run_option, echo_next, json_option, manifest_place, timeout_option
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from manifests.manifest import Manifest
    from prune_toolkit.combine.average_config import Merge
    from prune_toolkit.combine.joined_writing import ShareWork


@click.command(name="merge")
@click.argument("manifests", nargs=-1, type=manifest_place)
@click.option(
    "--average",
    type=click.Choice(["logits", "probabilities"]),
    help="Average the outputs of several teachers: mean of the logits, or log of the mean of the probabilities.",
)
@click.option(
    "--prefer",
    metavar="MANIFEST",
    help="Without --average: manifest whose values are used if manifests disagree: one of them, first or last.",
)
@click.option(
    "--score-views",
    type=click.Choice(["all", "0", "train"]),
    help="With --average: views to average scores over [default: as in the manifests].",
)
@click.option("--out", "-o", type=FOLDER, default="merged", show_default=True, help="Folder of the manifest.")
@dry_run_option
@timeout_option
@json_option
def command(
    manifests: tuple[Path | str, ...],
    average: Literal["logits", "probabilities"] | None,
    prefer: str | None,
    score_views: str | None,
    out: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Merge MANIFESTS: shards of one data set, or score sets of the same samples.

    All must have the same teacher and the same views. With --average they have different teachers and the same
    samples, and become the manifest of the ensemble; scores are recomputed from the averaged logits. Needs no model.
    The order of the manifests does not matter.

    \b
    prune merge shard-1 shard-2 shard-3
    prune merge manifest-a manifest-b --average probabilities
    """
    from manifests.manifest import Manifest
    from prune_toolkit.combine.average import write_merge
    from prune_toolkit.combine.average_config import Merge
    from prune_toolkit.combine.merge import plan_shards, write_shards

    if score_views and not average:
        raise UsageError("--score-views needs --average")
    if prefer and average:
        raise UsageError("--prefer cannot be used with --average")
    opened = [Manifest.open(path) for path in manifests]
    if average is None:
        shards = plan_shards(opened, out=out, prefer=prefer)
        _echo_shards(shards, as_json) if dry_run else _echo_joined(write_shards(shards), shards, as_json)
    else:
        merge = Merge.of(opened, out=out, average=average, score_views=score_views)
        _echo_plan(merge, as_json) if dry_run else _echo_averaged(write_merge(merge), merge, as_json)


def _echo_joined(merged: "Manifest", shards: "ShareWork", as_json: bool) -> None:
    header, sets = merged.header, list(dict.fromkeys(spec.set for spec in merged.header.scores))
    if as_json:
        echo_json(
            {
                "id": merged.id,
                "path": str(merged.path),
                "samples": header.data.count,
                "readable": header.data.readable,
                "score_sets": sets,
                "left_out": list(shards.left_out),
                "teacher": None if header.teacher is None else header.teacher.model_dump(),
            }
        )
        return
    top1 = "" if header.teacher is None else f", {header.teacher.top1_text}"
    scores = f", scores {', '.join(sets)}" if sets else ""
    click.echo(
        f"{merged.path}/: {header.data.count:,} samples of {len(shards.parents)} manifests{scores}{top1}; "
        f"id {merged.id[:12]}"
    )
    echo_next(
        "prune", *(("select", merged.path, "--keep", "0.5") if sets else ("score", merged.path, "--teacher", "TEACHER"))
    )


def _echo_shards(shards: "ShareWork", as_json: bool) -> None:
    tables = ["samples", *(plan.name for plan in shards.plans)]
    plan = {
        "samples": shards.samples.count,
        "shares": {share.manifest.where: len(share.old_n) for share in shards.shares},
        "tables": tables,
        "left_out": list(shards.left_out),
        "config": shards.resolved,
        "out": str(shards.out),
    }
    if as_json:
        echo_json(plan)
        return
    for share in shards.shares:
        click.echo(f"{share.manifest.where}: {len(share.old_n):,} samples")
    for what in shards.left_out:
        click.echo(f"left out: {what}")
    click.echo(f"{shards.samples.count:,} samples with {', '.join(tables)} into {shards.out}/")


def _echo_averaged(merged: "Manifest", merge: "Merge", as_json: bool) -> None:
    card, members = merged.header.teacher, merge.teachers
    assert card is not None
    if as_json:
        echo_json(
            {
                "id": merged.id,
                "path": str(merge.out),
                "average": merge.average,
                "teacher": card.model_dump(),
                "members": [member.model_dump() for member in members],
                "run": {name: value for name, value in merged.header.run.items() if name != "parent_runs"},
            }
        )
        return
    each = ", ".join(
        member.spec + ("" if member.train_top1 is None else f" {100 * member.train_top1:.2f} %") for member in members
    )
    views_top1 = merged.header.run.get("views_top1")
    on_views = "" if views_top1 is None else f", {100 * views_top1:.2f} % on their training views"
    click.echo(
        f"{merge.out}/: {merged.header.data.readable:,} samples, {merge.average} averaged over {len(members)} "
        f"teachers: {card.top1_text} ({each}){on_views}{card.ece_text}; id {merged.id[:12]}"
    )
    echo_next("prune", "select", merge.out, "--keep", "0.5")


def _echo_plan(merge: "Merge", as_json: bool) -> None:
    from prune_toolkit.scoring.logit_scores import LogitScore
    from prune_toolkit.work.part_work import ALONE

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
        "out": str(merge.out),
    }
    if as_json:
        echo_json(plan)
        return
    click.echo(
        f"{merge.average} of {len(specs)} teachers ({', '.join(specs)}), {data.readable:,} "
        f"samples x {views} view(s), {plan['parts']} part(s): {format_bytes(size_bytes)} of logits and scores into "
        f"{merge.out}/"
    )
