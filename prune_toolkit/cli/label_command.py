"""`prune label`."""

from typing import Any

import click

from prune_toolkit.cli.options import (
    FOLDER,
    MANIFEST,
    asked_for,
    data_of,
    data_options,
    dry_run_option,
    echo_train_command,
    json_option,
    rank_options,
    teacher_of,
    teacher_options,
    view_options,
    workers_option,
)


@click.command(name="label")
@click.argument("selection", type=MANIFEST, default="selection")
@view_options(views=8)
@click.option(
    "--labels",
    help="What becomes of the logits: raw, reshape or revise [default: the selection's; raw with --other-teacher].",
)
@click.option("--policy", help="What is stored: replay, mean or single [default: replay; single with --views 1].")
@teacher_options
@click.option("--other-teacher", is_flag=True, help="Let a teacher label that is not the one that scored.")
@click.option("--teacher-licence", help="Licence of the weights of --other-teacher, recorded in the manifest.")
@click.option("--out", "-o", type=FOLDER, default="labelled", show_default=True, help="Folder of the new selection.")
@click.option("--beton/--no-beton", default=True, help="Write train.beton with the new targets.")
@data_options
@workers_option
@click.option("--finish", is_flag=True, help="Label nothing; write the header if all parts are there.")
@rank_options
@dry_run_option
@json_option
def command(**options: Any) -> None:
    """Run the teacher over many views of the samples that SELECTION keeps; write a selection with their labels.

    The images are those of the selection's train.beton, or where they were scored, or --data. Views are drawn as the
    selection's were, where it has more than one. A killed run goes on where it stopped; several processes share the
    work as with `prune score`.

    \b
    prune label selection --teacher resnet32x4 --checkpoint teacher.safetensors
    prune label selection --views 16 --policy mean --dry-run
    """
    from manifests.base.progress import format_bytes, note
    from manifests.card.readme import revision_line, targets_text
    from manifests.manifest import Manifest
    from prune_toolkit.labelling.label_defaults import (
        check_licence,
        check_selection,
        default_labels,
        planned_recipe,
        planned_targets,
    )
    from prune_toolkit.labelling.label_pass import LabelConfig, Labelling, label_preview, write_labels
    from prune_toolkit.scoring.score_pass import views_text_of
    from prune_toolkit.work.part_work import WorkShare
    from trainer.cli.console import echo_json

    selection = Manifest.open(options["selection"])
    check_selection(selection)
    check_licence(options["teacher_licence"], is_other=options["other_teacher"])
    asked = asked_for()
    given_views = options["views"] if "views" in asked else None
    targets = planned_targets(selection, options["policy"], given_views, options["top_k"])
    card = selection.header.teacher
    if card is not None and not options["other_teacher"]:
        # The teacher of the selection, shown images of the size it scored, needs no flag but its weights.
        options["teacher"] = options["teacher"] or card.spec
        options["image_size"] = options["image_size"] or card.preprocessing.image_px
    teacher = teacher_of(options, selection.class_names)
    given = {name: value for name, value in options.items() if name in asked}
    config = LabelConfig(
        out=options["out"],
        recipe=planned_recipe(selection, given, targets.views, teacher.preprocessing.image_px),
        targets=targets,
        labels=options["labels"] or default_labels(selection, is_other=options["other_teacher"]),
        other_teacher=options["other_teacher"],
        teacher_licence=options["teacher_licence"],
        beton=options["beton"],
        data=data_of(options),
        batch_size=options["batch_size"],
        workers=options["workers"],
        loader=options["loader"],
        ranks=WorkShare.resolve(options["rank"], options["world_size"]),
        finish_only=options["finish"],
    )
    work = Labelling.of(config, teacher, selection)
    if options["dry_run"]:
        tried = label_preview(work)
        echo_json(tried) if options["as_json"] else _echo_trial(tried, teacher.info.spec, bare=not config.beton)
        return
    labelled = write_labels(work)
    if labelled is None:
        note("nothing left for this process; when all parts are there, any process (or --finish) writes the header")
        return
    labels, chosen, beton = labelled.header.labels, labelled.header.selection, labelled.beton_path
    assert labels is not None
    assert chosen is not None
    size_bytes = 0 if beton is None else beton.stat().st_size
    if options["as_json"]:
        echo_json(
            {
                "id": labelled.id,
                "path": str(config.out),
                "samples": chosen.count,
                "labels": labels.model_dump(exclude={"class_std"}),
                "views": None if labelled.header.views is None else labelled.header.views.model_dump(),
                "beton_bytes": size_bytes,
                "run": {name: value for name, value in labelled.header.run.items() if name != "parent_run"},
            }
        )
        return
    assert labelled.header.teacher is not None
    views_text = views_text_of(labelled.header.run, labelled.header.teacher.train_top1)
    beton_text = "no beton" if beton is None else f"train.beton {format_bytes(size_bytes)}"
    click.echo(
        f"{config.out}/: {chosen.count:,} samples x {targets.views} view(s) labelled by {teacher.info.spec}"
        f"{views_text}: {targets_text(labelled.header)}; {beton_text}; id {labelled.id[:12]}"
    )
    if revised := revision_line(labelled.header):
        click.echo(revised)
    echo_train_command(config.out, has_beton=beton is not None)


def _echo_trial(tried: dict[str, Any], spec: str, *, bare: bool) -> None:
    from manifests.base.progress import format_bytes, format_seconds

    click.echo(
        f"{tried['samples']:,} samples x {tried['views']} view(s), {tried['targets']} target(s) each: about "
        f"{format_bytes(tried['bytes'])} of {'targets' if bare else 'targets and train.beton, images included'}"
    )
    click.echo(
        f"{spec}, a short trial: {tried['images_per_second']:,.0f} images/s, "
        f"{format_seconds(tried['seconds'])} ({tried['hours']:.2f} hours) for all"
    )
