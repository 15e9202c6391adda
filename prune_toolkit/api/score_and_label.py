"""Run a teacher over images for scores and labels; the teacher is a spec or your own module."""

import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_spec, opened, optional, said_outputs, teacher_spec, threads, whole
from prune_toolkit.api.torch_state import torch_as_it_was
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.readers import ImagesAtHand, images_of_same_classes, images_to_score
from prune_toolkit.indexing.reading import tell_reading
from prune_toolkit.labelling.label_config import (
    LabelConfig,
    Labelling,
    check_selection,
    default_labels,
    planned_recipe,
    planned_targets,
    with_budget,
)
from prune_toolkit.labelling.label_pass import write_labels
from prune_toolkit.labelling.view_budget import BudgetFlags
from prune_toolkit.scoring.dynamics_pass import DynamicsPlan, write_dynamics_scores
from prune_toolkit.scoring.score_config import ScoreConfig, Scoring, check_held_out, check_unlabelled
from prune_toolkit.scoring.score_pass import build_scores
from prune_toolkit.scoring.view_flags import ViewFlags, recipe_or_none
from prune_toolkit.work.part_work import WorkShare
from trainer.cli.shared_options import local_path
from trainer.models.images_said import ImagesSaid
from trainer.teachers.teacher import Teacher, load_teacher
from trainer.teachers.teacher_spec import TeacherSpec


def score(
    data: Manifest | DataSpec | Place | None = None,
    *,
    teacher: str | nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    checkpoint: Place | None = None,
    checkpoint_key: str | None = None,
    image_size: int | None = None,
    mean: float | str | Sequence[float | str] | None = None,
    std: float | str | Sequence[float | str] | None = None,
    interpolation: str | None = None,
    resize_size: int | None = None,
    outputs: Place | Sequence[str] | None = None,
    probabilities: bool = False,
    output: str | int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    loader: str = "auto",
    random_weights: bool = False,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    val: Place | DataSpec | None = None,
    val_split: str | None = None,
    out: Place | None = None,
    index: Place = "index",
    views: int = 1,
    augment: str | None = None,
    pad: int | None = None,
    scale_min: float | None = None,
    flip: bool | None = None,
    seed: int = 0,
    top_k: int | None = None,
    score_views: str | None = None,
    features: bool = False,
    held_out: Place | DataSpec | None = None,
    held_out_split: str | None = None,
    dynamics: Place | Sequence[Place] = (),
    early_epoch: int | None = None,
    window: int | None = None,
    strict: bool = False,
    thumbnails: bool = False,
    name: str | None = None,
    licence: str | None = None,
    redistributable: bool | None = None,
    teacher_licence: str | None = None,
    trust_beton: bool = False,
    workers: int | None = None,
) -> Manifest:
    """Run the teacher over `data` once; like `prune score`, into the folder `manifest` unless `out` is given.

    teacher: a spec, or an nn.Module that takes normalised (n, 3, S, S) images and returns logits (n, classes). A module
    is copied and run in evaluation mode, and recorded as module:ClassName with the sha256 of its weights; yours is not
    changed. preprocessing: how images are prepared. mean, std, interpolation, resize_size: parts of it, as the flags of
    `prune score`; with image_size they say enough of a module, unless its attributes do. outputs: the class of each
    output of the teacher, in their order, or a file of them; probabilities: it returns those of a softmax or of
    sigmoids; output: the key or position of its logits.
    dynamics: run no teacher, but add scores of the training dynamics that these runs recorded to the manifest `data`.
    """
    if dynamics:
        if isinstance(data, DataSpec):
            raise UsageError("dynamics=RUN adds scores to a manifest: name one, not images")
        runs = [dynamics] if isinstance(dynamics, Place) else dynamics
        plan = DynamicsPlan.of(
            local_path(out or "manifest-dynamics"),
            opened(data or "manifest"),
            [local_path(run) for run in runs],
            early_epoch,
            window,
        )
        return write_dynamics_scores(plan)
    if early_epoch is not None:
        raise UsageError("early_epoch needs dynamics=RUN")
    if window is not None:
        raise UsageError("window needs dynamics=RUN")
    check_held_out(None if held_out is None else str(held_out), held_out_split, has_features=features)
    said = ImagesSaid.of(mean=mean, std=std, interpolation=interpolation, resize_size=resize_size)
    spec = teacher_spec(
        teacher,
        preprocessing,
        checkpoint,
        checkpoint_key,
        image_size,
        said,
        said_outputs(outputs, output, probabilities=probabilities),
        random_weights=random_weights,
    )
    if isinstance(data, Manifest):
        images = ImagesAtHand.of_index(data)
    else:
        images = images_to_score(data_spec(data, split, classes, label), local_path(index))
    if images.index is None:
        tell_reading(images.source, strict=strict)
    if images.unlabelled:
        check_unlabelled(None if held_out is None else str(held_out))
        images.classes = optional(classes) or images.classes
    drawn = {"augment": augment, "pad": pad, "scale_min": scale_min, "flip": flip}
    given: dict[str, Any] = {name: value for name, value in drawn.items() if value is not None}
    with torch_as_it_was():
        loaded = _loaded(spec, images.asked_classes, device, dtype)
        images.take_classes(loaded.class_names)
        on_val = images_of_same_classes(data_spec(val, val_split, classes, label, held_out=True), images)
        apart = images_of_same_classes(data_spec(held_out, held_out_split, classes, label), images)
        config = ScoreConfig(
            out=local_path(out or "manifest"),
            batch_size=batch_size,
            trust_beton=trust_beton,
            workers=threads(workers),
            loader=loader,
            ranks=WorkShare.resolve(None, None),
            name=name,
            licence=licence,
            redistributable=redistributable,
            teacher_licence=teacher_licence,
            recipe=recipe_or_none(
                ViewFlags(views=views, seed=seed, **given), loaded.preprocessing.image_px, typed=given
            ),
            view_count=views,
            top_k=top_k,
            score_views=score_views,
            features=features,
            strict=strict,
            thumbnails=thumbnails,
        )
        return whole(build_scores(Scoring(config=config, teacher=loaded, images=images, val=on_val, held_out=apart)))


def label(
    selection: Manifest | Place = "selection",
    *,
    views: int | None = None,
    teacher: str | nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    checkpoint: Place | None = None,
    checkpoint_key: str | None = None,
    image_size: int | None = None,
    mean: float | str | Sequence[float | str] | None = None,
    std: float | str | Sequence[float | str] | None = None,
    interpolation: str | None = None,
    resize_size: int | None = None,
    outputs: Place | Sequence[str] | None = None,
    probabilities: bool = False,
    output: str | int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    loader: str = "auto",
    random_weights: bool = False,
    augment: str | None = None,
    pad: int | None = None,
    scale_min: float | None = None,
    flip: bool | None = None,
    seed: int | None = None,
    top_k: int | None = None,
    codec: str | None = None,
    view_budget: float | str | None = None,
    view_rule: str | None = None,
    first_views: int | None = None,
    view_temperature: float | None = None,
    labels: str | None = None,
    policy: str | None = None,
    other_teacher: bool = False,
    teacher_licence: str | None = None,
    out: Place = "labelled",
    beton: bool = True,
    data: Place | DataSpec | None = None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    trust_beton: bool = False,
    workers: int | None = None,
) -> Manifest:
    """Run the teacher over many views of the samples that a selection keeps; like `prune label`.

    views: 8 by default. view_budget: labels per sample on average, of these views; view_rule, first_views and
    view_temperature say which.

    teacher: as for `score`; None for the spec that scored. A module must be given again. Images
    are prepared as the selection says that they were scored; outputs, probabilities and output are as then where they
    are not given.
    """
    chosen = opened(selection)
    check_selection(chosen, teacher_licence, is_other=other_teacher)
    asked = BudgetFlags(
        view_budget=None if view_budget is None else str(view_budget),
        view_rule=view_rule,
        first_views=first_views,
        view_temperature=view_temperature,
    )
    targets, budget = with_budget(planned_targets(chosen, policy, views, top_k, codec), asked)
    said = ImagesSaid.of(mean=mean, std=std, interpolation=interpolation, resize_size=resize_size)
    spec = teacher_spec(
        teacher,
        preprocessing,
        checkpoint,
        checkpoint_key,
        image_size,
        said,
        said_outputs(outputs, output, probabilities=probabilities),
        random_weights=random_weights,
        scored=None if other_teacher or chosen.header.teacher is None else chosen,
    )
    drawn = {"augment": augment, "pad": pad, "scale_min": scale_min, "flip": flip, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in drawn.items() if value is not None}
    with torch_as_it_was():
        loaded = _loaded(spec, chosen.class_names, device, dtype)
        config = LabelConfig(
            out=local_path(out),
            recipe=planned_recipe(
                chosen, ViewFlags(views=targets.views, **given), loaded.preprocessing.image_px, typed=given
            ),
            targets=targets,
            budget=budget,
            labels=labels or default_labels(chosen, is_other=other_teacher),
            other_teacher=other_teacher,
            teacher_licence=teacher_licence,
            beton=beton,
            data=data_spec(data, split, classes, label),
            batch_size=batch_size,
            trust_beton=trust_beton,
            workers=threads(workers),
            loader=loader,
            ranks=WorkShare.resolve(None, None),
        )
        return whole(write_labels(Labelling.of(config, loaded, chosen)))


def _loaded(spec: TeacherSpec, class_names: list[str] | None, device: str, dtype: str | None) -> Teacher:
    return load_teacher(
        spec, class_names, device=device, local_rank=int(os.environ.get("LOCAL_RANK", "0")), dtype=dtype
    )
