"""Policies: the view of each sample that an epoch shows, and the stored label that it is taught with.

replay: a scored view with its own label. mean: a fresh view with the mean label of the stored views. single: a fresh
view with the label of view 0. online: a fresh view that a live teacher labels during training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from manifests.betons.labelled_views import Bits, labels_each, view_of_slot
from manifests.errors import InputError, UsageError
from trainer.data.order import Stream, stream_seed
from trainer.data.stored import StoredLabels
from trainer.data.task import Task
from trainer.data.views import MEAN_VIEW, VIEW_RECIPES, ViewRecipe, default_pad_px, epoch_views
from trainer.models.info import SMALL_PX

POLICIES = ("replay", "mean", "single", "online")
FRESH_VIEWS = 1 << 32
"""More than any number of scored views."""
_FLAGS = {"name": "--augment", "pad_px": "--pad", "scale_min": "--scale-min", "flip": "--flip"}


class ViewOptions(TypedDict, total=False):
    """Requested properties of the views; if None or missing, those of the scored views, or by image size."""

    augment: str | None
    pad_px: int | None
    scale_min: float | None
    flip: bool | None


@dataclass(frozen=True, kw_only=True)
class TrainingViews:
    """The views of a run and the labels that belong to them."""

    policy: str | None
    """None if the loss uses no teacher labels."""
    recipe: ViewRecipe
    view_id_N: NDArray[np.uint64]
    view_count: int
    """Stored targets per sample."""
    labelled_views_N: Bits | None = None
    """Views that have a target, see manifests/betons/labelled_views.py; None if all samples have those of all."""
    first_fresh: int = 0
    """A number above those of all scored views, which depends on the seed of the run."""

    @classmethod
    def of(
        cls,
        task: Task,
        *,
        policy: str | None,
        seed: int = 0,
        image_px: int | None = None,
        **asked: Unpack[ViewOptions],
    ) -> TrainingViews:
        """Return the views of a policy other than auto, which `choose_policy` resolves.

        image_px None is the size at which they were scored.

        Raises InputError if views are to be replayed and the header does not say how they were drawn.
        """
        stored = task.stored
        side = stored.image_px if image_px is None else image_px
        recipe = training_recipe(stored, policy=policy, image_px=side, seed=seed, **asked)
        return cls(
            policy=policy,
            recipe=recipe,
            view_id_N=task.beton.columns["view_id"],
            view_count=stored.view_count,
            labelled_views_N=task.beton.labelled_views_N,
            # Replayed views have the seed of the scoring, so that of the run decides where their numbers go on.
            first_fresh=FRESH_VIEWS + (stream_seed(seed, Stream.VIEWS) >> 32),
        )

    def of_epoch(
        self, epoch: int, rows_n: NDArray[np.int64], *, uses_targets: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return view number and stored label of these rows in an epoch counted from 0, both (n,).

        The label is the number of a target in the beton, which is that of its view unless samples have different views.

        Without `uses_targets`, replay shows fresh views of its recipe too, since no stored label has to fit them.
        """
        if self.policy == "replay" and not uses_targets:
            view_n = self.first_fresh + epoch_views(epoch, self.view_id_N[rows_n], 0)
            return view_n, np.zeros(len(rows_n), np.int64)
        if self.policy == "replay" and self.labelled_views_N is not None:
            bits_n = self.labelled_views_N[rows_n]
            slot_n = epoch_views(epoch, self.view_id_N[rows_n], labels_each(bits_n))
            return view_of_slot(bits_n, slot_n), slot_n
        if self.policy == "replay":
            view_n = epoch_views(epoch, self.view_id_N[rows_n], self.view_count)
            return view_n, view_n
        target_view = MEAN_VIEW if self.policy == "mean" and self.view_count > 1 else 0
        target_view_n = np.full(len(rows_n), target_view, np.int64)
        if self.recipe.name == "none":
            return np.zeros(len(rows_n), np.int64), target_view_n
        return epoch_views(epoch, self.view_id_N[rows_n], 0), target_view_n


def choose_policy(stored: StoredLabels, asked: str | None = None, *, augment: str | None = None) -> str:
    """Return the policy; None or auto depends on the stored labels. Raises UsageError if the labels do not fit it.

    auto: replay if several views are stored and no other augmentation is requested; otherwise mean or single,
    whichever the stored label is.
    """
    if asked is None or asked == "auto":
        is_as_scored = augment is None or (stored.scored is not None and augment == stored.scored.name)
        if stored.view_count > 1 and is_as_scored:
            return "replay"
        return "mean" if stored.policy == "mean" else "single"
    if asked not in POLICIES:
        raise UsageError(f"--policy {asked} is not known", hint=f"known: auto, {', '.join(POLICIES)}")
    if asked == "replay" and stored.view_count < 2:
        raise UsageError(
            f"--policy replay needs stored labels of several views; this manifest has {stored.view_count}",
            hint="store more: prune label SELECTION --views 8; or take --policy single",
        )
    if asked == "mean" and stored.view_count > 1 and stored.top_k is not None:
        raise UsageError(
            f"--policy mean: labels of {stored.top_k} logits per view cannot be averaged",
            hint=f"store the mean: prune label SELECTION --policy mean --top-k {stored.top_k}",
        )
    if stored.view_count == 1 and asked == "mean" and stored.policy != "mean":
        raise UsageError(
            "--policy mean: the only stored label is that of view 0",
            hint="store the mean: prune label SELECTION --policy mean; or take --policy single",
        )
    if stored.view_count == 1 and asked == "single" and stored.policy == "mean":
        raise UsageError(
            f"--policy single: the only stored label is the mean over {stored.scored_views} views",
            hint="take --policy mean",
        )
    return asked


def training_recipe(
    stored: StoredLabels, *, policy: str | None, image_px: int, seed: int = 0, **asked: Unpack[ViewOptions]
) -> ViewRecipe:
    """Return the scored recipe for replay, else a recipe for this run: like the scored one, or by image size.

    seed is the seed of the run. Raises UsageError if views are replayed and other ones are requested.
    """
    augment, scored = asked.get("augment"), stored.scored
    changed: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if augment is not None and augment not in VIEW_RECIPES:
        raise UsageError(
            f"--augment {augment} is not known",
            hint=f"known: {', '.join(VIEW_RECIPES)}; for the scored views give --policy replay",
        )
    if augment is not None:
        changed["name"] = changed.pop("augment")
    if policy == "replay":
        if scored is None:
            raise InputError(
                "labels of several views are stored, but the header does not say how these views are drawn",
                hint="select again from a scored manifest, or take --policy single --augment none",
            )
        padded = scored if scored.pad_px is not None else replace(scored, pad_px=default_pad_px(image_px))
        for name, value in changed.items():
            if value != getattr(padded, name):
                raise UsageError(
                    f"{_FLAGS[name]} {value}: the views with stored labels are {scored.name}"
                    + ("" if name == "name" else f" with {getattr(padded, name)}"),
                    hint="for other augmentation, take --policy single or mean",
                )
        return scored
    if scored is not None and augment in (None, scored.name):
        start = scored
    else:
        start = ViewRecipe(name=augment or default_augmentation(image_px))
    return replace(start, seed=stream_seed(seed, Stream.VIEWS), **changed)


def default_augmentation(image_px: int) -> str:
    """Return the recipe for an image size: small shifts for small images, crops of all sizes for larger ones."""
    return "pad_crop_flip" if image_px <= SMALL_PX else "resized_crop_flip"
