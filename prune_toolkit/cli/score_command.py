"""`prune score`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.base.progress import format_bytes, format_seconds, note
from manifests.errors import UsageError
from prune_toolkit.cli.options import (
    FOLDER,
    DataOptions,
    TeacherOptions,
    asked_for,
    data_options,
    dry_run_option,
    echo_next,
    json_option,
    rank_options,
    redistributable_option,
    strict_option,
    teacher_licence_option,
    teacher_options,
    trust_beton_option,
    typed,
    view_options,
    workers_option,
)
from trainer.cli.console import echo_json, echo_table

if TYPE_CHECKING:
    from prune_toolkit.scoring.score_config import Scoring
    from prune_toolkit.scoring.view_flags import ViewFlags


@click.command(name="score")
@click.argument("data_argument", metavar="[DATA or MANIFEST]", required=False)
@data_options
@teacher_options
@click.option("--val", help="Validation images with the same classes, to measure the teacher's val_top1.")
@click.option("--val-split", help="Split of --val [default: validation or test, if it has splits].")
@click.option(
    "--out", "-o", type=FOLDER, help="Folder of the manifest [default: manifest; with --dynamics manifest-dynamics]."
)
@click.option("--index", type=FOLDER, default="index", show_default=True, help="Index to use, if it is of this data.")
@view_options(views=1)
@click.option(
    "--score-views",
    type=click.Choice(["all", "0", "train"]),
    help="Views to average scores over [default: train if --views is 2 or more, else 0].",
)
@click.option(
    "--features",
    is_flag=True,
    help="Also store penultimate features, and the scores that need them.",
)
@click.option(
    "--held-out",
    metavar="DATA",
    help="With --features: images on which `influence` measures the loss, not the test set [default: a tenth of DATA].",
)
@click.option("--held-out-split", help="Split of --held-out, such as val.")
@click.option(
    "--dynamics",
    type=FOLDER,
    multiple=True,
    metavar="RUN",
    help="Run no teacher: add scores from a run of `train-student --record-dynamics` to MANIFEST; repeatable.",
)
@click.option(
    "--early-epoch",
    type=int,
    metavar="N",
    help="With --dynamics: the epoch of early scores, from 1 [default: a tenth of those recorded].",
)
@click.option("--window", type=int, metavar="J", help="With --dynamics: epochs of a window of dual and tdds.  [10]")
@workers_option
@trust_beton_option
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Preview on N images spread over the data; write nothing."
)
@click.option(
    "--finish", "finish_only", is_flag=True, help="Score nothing; write the header if all parts are complete."
)
@click.option("--thumbnails", is_flag=True, help="Same as for prune index, for images indexed in the same pass.")
@click.option("--name", help="Name of the data set in the manifest [default: the folder's].")
@click.option("--licence", "--license", "licence", help="Licence of the data, recorded in the manifest.")
@strict_option
@redistributable_option
@teacher_licence_option(help="Licence of the teacher's weights, recorded in the manifest.")
@rank_options
@dry_run_option
@json_option
def command(
    data_argument: str | None,
    images: DataOptions,
    teacher_options: TeacherOptions,
    val: str | None,
    val_split: str | None,
    out: Path | None,
    index: Path,
    views: "ViewFlags",
    features: bool,
    strict: bool,
    held_out: str | None,
    held_out_split: str | None,
    dynamics: tuple[Path, ...],
    early_epoch: int | None,
    window: int | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run the teacher over DATA once; write logits and scores into a manifest.

    DATA may be an index (a folder made by `prune index`) or the images themselves, which are then indexed in the
    same pass. Run the same command again to resume an interrupted run. Several processes share the work if RANK and
    WORLD_SIZE are set (torchrun, a Slurm array, or two shells).

    \b
    prune score photos --split train --teacher torchvision/resnet50:IMAGENET1K_V2
    prune score photos --teacher run/student.safetensors --limit 2000
    prune score manifest --dynamics run
    """
    if dynamics:
        _score_dynamics(data_argument, dynamics, early_epoch, window, out, dry_run=dry_run, as_json=as_json)
        return
    from prune_toolkit.images.data_spec import check_named

    # What can be refused without the engines is refused before their seconds of imports.
    if early_epoch is not None:
        raise UsageError("--early-epoch needs --dynamics RUN")
    if window is not None:
        raise UsageError("--window needs --dynamics RUN")
    teacher_options.spec()
    check_named(images.spec(data_argument), index)
    from prune_toolkit.images.readers import images_of_same_classes, images_to_score
    from prune_toolkit.indexing.reading import tell_reading
    from prune_toolkit.scoring.preview import preview
    from prune_toolkit.scoring.score_config import ScoreConfig, Scoring, check_held_out, check_unlabelled
    from prune_toolkit.scoring.score_pass import build_scores, views_text_of
    from prune_toolkit.scoring.view_flags import recipe_or_none

    check_held_out(held_out, held_out_split, has_features=features)
    training = images_to_score(images.spec(data_argument), index)
    if training.index is None:
        tell_reading(training.source, strict=strict, ranks=settings["ranks"])
    if training.unlabelled:
        check_unlabelled(held_out)
        teacher = teacher_options.load(training.asked_classes)
        training.take_classes(teacher.class_names)
    validated = images.like(val, val_split, held_out=True)
    validation = images_of_same_classes(validated, training)
    influenced = images_of_same_classes(images.like(held_out, held_out_split), training)
    if not training.unlabelled:
        teacher = teacher_options.load(training.asked_classes)
    config = ScoreConfig(
        out=out or Path("manifest"),
        batch_size=teacher_options.batch_size,
        loader=teacher_options.loader,
        recipe=recipe_or_none(views, teacher.preprocessing.image_px, typed=asked_for()),
        view_count=views.views,
        top_k=views.top_k,
        features=features,
        strict=strict,
        **settings,
    )
    work = Scoring(config=config, teacher=teacher, images=training, val=validation, held_out=influenced)
    if dry_run:
        plan = _plan(work)
        echo_json(plan) if as_json else _echo_plan(plan)
        return
    if limit is not None:
        result = preview(work, limit)
        echo_json(result) if as_json else _echo_preview(result, training.count)
        return
    manifest = build_scores(work)
    if manifest is None:
        note("nothing left for this process; once all parts are complete, any process (or --finish) writes the header")
        return
    card, run = manifest.header.teacher, manifest.header.run
    assert card is not None
    if as_json:
        echo_json({"id": manifest.id, "path": str(config.out), "teacher": card.model_dump(), "run": run})
        return
    views_text = views_text_of(run, card.train_top1)
    val_text = "" if card.val_top1 is None else f", {100 * card.val_top1:.2f} % on validation"
    click.echo(
        f"{config.out}/: {manifest.header.data.readable:,} samples scored by {card.spec}: "
        f"{card.top1_text}{views_text}{val_text}{card.ece_text}; "
        f"{run['images_per_second']:,.0f} images/s; id {manifest.id[:12]}"
    )
    if (stored := manifest.header.features) is not None:
        names = ", ".join(f"{spec.set}/{spec.name}" for spec in manifest.header.scores if spec.set == "features")
        click.echo(f"features: {stored.width} wide, the input of layer {stored.layer}; scores {names}")
    echo_next("prune", "select", config.out, "--keep", "0.5")


def _score_dynamics(
    scored: str | None,
    runs: Sequence[Path],
    early_epoch: int | None,
    window: int | None,
    out: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add scores of recorded runs to a manifest; UsageError for typed flags that need a teacher or images."""
    from manifests.manifest import Manifest
    from prune_toolkit.scoring.dynamics_pass import DynamicsPlan, write_dynamics_scores

    if unused := typed() - {"data_argument", "dynamics", "early_epoch", "window", "out", "dry_run", "as_json"}:
        flags = [option.opts[0] for option in click.get_current_context().command.params if option.name in unused]
        raise UsageError(
            f"{', '.join(flags)} cannot be used with --dynamics: no teacher is run and no image is read",
            hint="score first, then: prune score MANIFEST --dynamics RUN",
        )
    plan = DynamicsPlan.of(
        out or Path("manifest-dynamics"), Manifest.open(scored or "manifest"), runs, early_epoch, window
    )
    manifest = None if dry_run else write_dynamics_scores(plan)
    count = len(plan.runs[0].sample_id_N)
    if as_json:
        scores = [entry.name for entry in plan.scores]
        written = {} if manifest is None else {"id": manifest.id, "path": str(plan.out), "run": manifest.header.run}
        echo_json({"samples": count, "runs": plan.run_facts(), "scores": scores, "out": str(plan.out), **written})
        return
    names = ", ".join(f"dynamics/{entry.name}" for entry in plan.scores)
    infos = [record.info for record in plan.runs]
    recorded = ", ".join(f"{info.epochs_recorded} epochs of {info.student} (seed {info.seed})" for info in infos)
    early = ", ".join(dict.fromkeys(map(str, plan.early_epochs)))
    click.echo(f"{count:,} samples, {recorded}; early scores at epoch {early}")
    if manifest is None:
        click.echo(f"would write {plan.out}/ with {names}")
        return
    click.echo(f"{plan.out}/: {names}; id {manifest.id[:12]}")
    echo_next("prune", "select", plan.out, "--keep", "0.5", "--score", f"dynamics/{plan.scores[0].name}")


def _plan(work: "Scoring") -> dict[str, Any]:
    """Return what a run would do, and how long it would take according to a short trial."""
    import numpy as np

    from prune_toolkit.scoring.preview import bytes_on_disk, costs, trial_rate
    from prune_toolkit.work.part_work import ALONE

    config, teacher, images = work.config, work.teacher, work.images
    work.resolved()
    ids = images.readable(np.arange(images.count))
    rate = trial_rate(work, work.open(), ids)
    return {
        "samples": images.count,
        "classes": len(images.class_names),
        "indexed": images.index is not None,
        "teacher": teacher.info.spec,
        "parameters": teacher.parameters,
        "preprocessing": teacher.preprocessing.model_dump(),
        "device": str(teacher.device),
        "dtype": teacher.dtype,
        "views": work.views().model_dump(exclude_none=True),
        **({} if (features := work.features_block()) is None else {"features": features.model_dump()}),
        "parts": len(ALONE.parts(images.count)),
        **costs(images.count * config.view_count, rate, bytes_on_disk(work)),
        "out": str(config.out),
    }


def _echo_plan(plan: dict[str, Any]) -> None:
    views = plan["views"]
    read = "from the index" if plan["indexed"] else "indexed in the same pass"
    click.echo(f"{plan['samples']:,} samples in {plan['classes']} classes, {read}")
    click.echo(f"teacher {plan['teacher']}, {plan['parameters']:,} parameters, {plan['dtype']} on {plan['device']}")
    click.echo(preprocessing_text(plan["preprocessing"]))
    if views["count"] > 1:
        click.echo(f"views: {views['count']} of each sample, {views['recipe']} from 1 on, seed {views['seed']}")
    kept = f"the {views['top_k']} largest " if "top_k" in views else ""
    if "features" in plan:
        click.echo(f"features: {plan['features']['width']} wide, the input of layer {plan['features']['layer']}")
    click.echo(f"{plan['parts']} parts, {format_bytes(plan['bytes'])} of {kept}logits and scores into {plan['out']}/")
    click.echo(
        f"a short trial: {plan['images_per_second']:,.0f} images/s, "
        f"{format_seconds(plan['seconds'])} ({plan['hours']:.2f} hours) for all"
    )


def preprocessing_text(block: dict[str, Any]) -> str:
    """Describe how images are shown to a network."""
    mean = ", ".join(f"{value:.4g}" for value in block["mean"])
    std = ", ".join(f"{value:.4g}" for value in block["std"])
    return (
        f"shown: shorter side to {block['resize_px']} px ({block['interpolation']}), "
        f"centre {block['image_px']}x{block['image_px']}, mean ({mean}), std ({std})"
    )


def _echo_preview(result: dict[str, Any], count: int) -> None:
    judged = "no labels" if "top1" not in result else f"top-1 {100 * result['top1']:.2f} %, ECE {result['ece']:.4f}"
    click.echo(f"{judged} on {result['samples']:,} of {count:,} images")
    click.echo(preprocessing_text(result["preprocessing"]))
    columns = [name for name in ("label", "predicted", "loss", "entropy") if name in result["hardest"][0]]
    echo_table(
        [
            (row["key"], *(f"{row[name]:.3f}" if name in ("loss", "entropy") else row[name] for name in columns))
            for row in result["hardest"]
        ],
        ("hardest", *columns),
    )
    click.echo(
        f"all {count:,}: about {format_seconds(result['seconds_for_all'])} at "
        f"{result['images_per_second']:,.0f} images/s, {format_bytes(result['bytes_for_all'])}"
    )
