"""`prune label`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import format_bytes, format_seconds, note
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    TeacherOptions,
    asked_for,
    codec_option,
    data_options,
    dry_run_option,
    echo_train_command,
    gathered,
    json_option,
    manifest_place,
    rank_options,
    teacher_licence_option,
    teacher_options,
    timeout_option,
    trust_beton_option,
    view_options,
    workers_option,
)
from trainer.cli.console import echo_json

if TYPE_CHECKING:
    from prune_toolkit.labelling.view_budget import BudgetFlags
    from prune_toolkit.scoring.view_flags import ViewFlags


@click.option("--view-budget", metavar="B", help="Labels per sample on average, of the --views to choose from.")
@click.option(
    "--view-rule",
    help="With --view-budget, the views that are labelled: covariance (more of samples whose views differ), or "
    "sure (those of which the teacher is surest) [default: covariance].",
)
@click.option(
    "--first-views",
    type=int,
    metavar="F",
    help="With --view-rule covariance: views of every sample, seen first [default: 5].",
)
@click.option("--view-temperature", type=float, metavar="T", help="Of the probabilities for --view-rule [default: 1].")
def _budget(**values: Any) -> "BudgetFlags":
    from prune_toolkit.labelling.view_budget import BudgetFlags

    return BudgetFlags(**values)


budget_options = gathered("budget", _budget)


@click.command(name="label")
@click.argument("selection", type=manifest_place, default="selection")
@view_options(views=8)
@click.option(
    "--labels",
    help="How logits become targets: raw, reshape, revise, soften [default: the selection's; raw for another teacher].",
)
@click.option("--policy", help="Targets to store: replay, mean or single [default: replay; single with --views 1].")
@codec_option
@budget_options
@teacher_options
@click.option("--other-teacher", is_flag=True, help="Allow a teacher other than the one that scored the data.")
@teacher_licence_option(help="With --other-teacher: licence of its weights, recorded in the manifest.")
@click.option("--out", "-o", type=FOLDER, default="labelled", show_default=True, help="Folder of the new selection.")
@click.option("--beton/--no-beton", default=True, help="Write train.beton with the new targets.")
@data_options
@workers_option
@trust_beton_option
@click.option(
    "--finish", "finish_only", is_flag=True, help="Label nothing; write the header if all parts are complete."
)
@rank_options
@dry_run_option
@timeout_option
@json_option
def command(
    selection: Path | str,
    views: "ViewFlags",
    labels: str | None,
    policy: str | None,
    codec: str | None,
    budget: "BudgetFlags",
    teacher_options: TeacherOptions,
    other_teacher: bool,
    teacher_licence: str | None,
    images: DataOptions,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run the teacher over many views of the samples that SELECTION keeps; write a selection with their labels.

    Images are read from the selection's train.beton, from where they were scored, or from --data. Views are drawn like
    those of the selection if it has more than one. Run the same command again to resume an interrupted run. Several
    processes can share the work, as with `prune score`.

    \b
    prune label selection --teacher resnet32x4 --checkpoint teacher.safetensors
    prune label selection --views 16 --policy mean --dry-run
    """
    from manifests.card.readme import revision_line, targets_text
    from manifests.manifest import Manifest
    from prune_toolkit.labelling.label_config import (
        LabelConfig,
        Labelling,
        check_selection,
        default_labels,
        planned_recipe,
        planned_targets,
        with_budget,
    )
    from prune_toolkit.labelling.label_pass import label_preview, write_labels
    from prune_toolkit.scoring.score_pass import views_text_of

    parent = Manifest.open(selection)
    check_selection(parent, teacher_licence, is_other=other_teacher)
    typed = asked_for()
    targets = planned_targets(parent, policy, views.views if "views" in typed else None, views.top_k, codec)
    targets, shared = with_budget(targets, budget)
    teacher = teacher_options.load(parent.class_names, None if other_teacher else parent)
    asked = replace(views, views=targets.views)
    config = LabelConfig(
        recipe=planned_recipe(parent, asked, teacher.preprocessing.image_px, typed=typed),
        targets=targets,
        budget=shared,
        labels=labels or default_labels(parent, is_other=other_teacher),
        other_teacher=other_teacher,
        teacher_licence=teacher_licence,
        data=images.spec(),
        batch_size=teacher_options.batch_size,
        loader=teacher_options.loader,
        **settings,
    )
    work = Labelling.of(config, teacher, parent)
    if dry_run:
        tried = label_preview(work)
        echo_json(tried) if as_json else _echo_trial(tried, teacher.info.spec, bare=not config.beton)
        return
    labelled = write_labels(work)
    if labelled is None:
        note("nothing left for this process; once all parts are complete, any process (or --finish) writes the header")
        return
    stored, chosen, beton = labelled.header.labels, labelled.header.selection, labelled.beton_path
    assert stored is not None
    assert chosen is not None
    size_bytes = 0 if beton is None else beton.stat().st_size
    if as_json:
        echo_json(
            {
                "id": labelled.id,
                "path": str(config.out),
                "samples": chosen.count,
                "labels": stored.model_dump(exclude={"class_std"}),
                "views": None if labelled.header.views is None else labelled.header.views.model_dump(),
                "beton_bytes": size_bytes,
                "run": {name: value for name, value in labelled.header.run.items() if name != "parent_run"},
            }
        )
        return
    assert labelled.header.teacher is not None
    each = f"{targets.views} view(s)"
    if stored.budget is not None:
        each = f"{stored.budget.labels / chosen.count:.4g} of {targets.views} view(s) on average,"
    views_text = views_text_of(labelled.header.run, labelled.header.teacher.train_top1)
    beton_text = "no beton" if beton is None else f"train.beton {format_bytes(size_bytes)}"
    click.echo(
        f"{config.out}/: {chosen.count:,} samples x {each} labelled by {teacher.info.spec}"
        f"{views_text}: {targets_text(labelled.header)}; {beton_text}; id {labelled.id[:12]}"
    )
    if revised := revision_line(labelled.header):
        click.echo(revised)
    echo_train_command(config.out, has_beton=beton is not None)


def _echo_trial(tried: dict[str, Any], spec: str, *, bare: bool) -> None:
    each = f"{tried['views']} view(s), {tried['targets']} target(s) each"
    if "labels" in tried:
        mean = tried["labels"] / tried["samples"]
        each = f"{mean:.4g} of {tried['views']} view(s) on average, {tried['labels']:,} labels"
        each += f" for which the teacher sees at most {tried['images']:,} images"
    click.echo(
        f"{tried['samples']:,} samples x {each}: about "
        f"{format_bytes(tried['bytes'])} of {'targets' if bare else 'targets and train.beton, images included'}"
    )
    click.echo(
        f"{spec}, a short trial: {tried['images_per_second']:,.0f} images/s, "
        f"{format_seconds(tried['seconds'])} ({tried['hours']:.2f} hours) for all"
    )
