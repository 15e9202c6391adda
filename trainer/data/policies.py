"""Which view of each sample an epoch shows, and which stored label goes with it: the policies.

replay: a scored view with its own label. mean: a fresh view with the mean label of the stored views. single: a fresh
view with the label of view 0. online: a fresh view that a live teacher labels as it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from trainer.data.order import Stream, stream_seed
from trainer.data.views import VIEW_RECIPES, ViewRecipe, default_pad_px, epoch_views
from trainer.models.info import SMALL_PX

if TYPE_CHECKING:
    from trainer.data.task import Task
from trainer.data.stored import StoredLabels

POLICIES = ("replay", "mean", "single", "online")
_FLAGS = {"name": "--augment", "pad_px": "--pad", "scale_min": "--scale-min", "flip": "--flip"}


class ViewOptions(TypedDict, total=False):
    """What is asked of the views; what is None or missing is as they were scored, or by image size."""

    augment: str | None
    pad_px: int | None
    scale_min: float | None
    flip: bool | None


@dataclass(frozen=True, kw_only=True)
class TrainingViews:
    """Views of a run and the labels that go with them."""

    policy: str | None
    """None when nobody looks at the labels."""
    recipe: ViewRecipe
    view_id_N: NDArray[np.uint64]
    view_count: int
    """Targets stored a sample."""

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
        """The views of a policy; `choose_policy` resolves auto, image_px None is the size they were scored at.

        InputError when views are to be replayed and the header does not say which they are.
        """
        stored = task.stored
        side = stored.image_px if image_px is None else image_px
        recipe = training_recipe(stored, policy=policy, image_px=side, seed=seed, **asked)
        return cls(policy=policy, recipe=recipe, view_id_N=task.beton.columns["view_id"], view_count=stored.view_count)

    def of_epoch(self, epoch: int, rows_n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """View number and stored label of each of these rows in an epoch counted from 0, both (n,)."""
        if self.policy == "replay":
            view_n = epoch_views(epoch, self.view_id_N[rows_n], self.view_count)
            return view_n, view_n
        target_view_n = np.zeros(len(rows_n), np.int64)
        if self.policy == "mean" and self.view_count > 1:
            from trainer.data.batches import MEAN_VIEW

            target_view_n[:] = MEAN_VIEW
        if self.recipe.name == "none":
            return np.zeros(len(rows_n), np.int64), target_view_n
        return epoch_views(epoch, self.view_id_N[rows_n], 0), target_view_n


def choose_policy(stored: StoredLabels, asked: str | None = None, *, augment: str | None = None) -> str:
    """The policy that is meant, `asked` None or auto by what is stored; UsageError for one the labels do not serve.

    auto: replay where several views are stored and no augmentation but theirs is asked for, else what one label
    stands for.
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
            hint="label it with more: prune label SELECTION --views 8; or take --policy single",
        )
    if asked == "mean" and stored.view_count > 1 and stored.top_k is not None:
        raise UsageError(
            f"--policy mean: labels of {stored.top_k} logits a view cannot be averaged",
            hint=f"let the mean be stored: prune label SELECTION --policy mean --top-k {stored.top_k}",
        )
    if stored.view_count == 1 and asked == "mean" and stored.policy != "mean":
        raise UsageError(
            "--policy mean: the one label stored is that of view 0",
            hint="let the mean be stored: prune label SELECTION --policy mean; or take --policy single",
        )
    if stored.view_count == 1 and asked == "single" and stored.policy == "mean":
        raise UsageError(
            f"--policy single: the one label stored is the mean over {stored.scored_views} views",
            hint="take --policy mean",
        )
    return asked


def training_recipe(
    stored: StoredLabels, *, policy: str | None, image_px: int, seed: int = 0, **asked: Unpack[ViewOptions]
) -> ViewRecipe:
    """The scored recipe itself under replay, else one of the run's own: like the scored one, or by image size.

    seed is that of the run. UsageError when views are replayed and something else is asked for.
    """
    augment, scored = asked.get("augment"), stored.scored
    changed: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if augment is not None and augment not in VIEW_RECIPES:
        raise UsageError(
            f"--augment {augment} is not known",
            hint=f"known: {', '.join(VIEW_RECIPES)}; the scored views themselves are --policy replay",
        )
    if augment is not None:
        changed["name"] = changed.pop("augment")
    if policy == "replay":
        if scored is None:
            raise InputError(
                "the stored labels are of several views, but the header does not say which",
                hint="select again from a scored manifest, or take --policy single --augment none",
            )
        padded = scored if scored.pad_px is not None else replace(scored, pad_px=default_pad_px(image_px))
        for name, value in changed.items():
            if value != getattr(padded, name):
                raise UsageError(
                    f"{_FLAGS[name]} {value}: the views with labels of their own are {scored.name}"
                    + ("" if name == "name" else f" with {getattr(padded, name)}"),
                    hint="take --policy single or mean for augmentation that was not scored",
                )
        return scored
    if scored is not None and augment in (None, scored.name):
        start = scored
    else:
        start = ViewRecipe(name=augment or default_augmentation(image_px))
    return replace(start, seed=stream_seed(seed, Stream.VIEWS), **changed)


def default_augmentation(image_px: int) -> str:
    """Shifts by a few pixels for small images, crops of all sizes for larger ones."""
    return "pad_crop_flip" if image_px <= SMALL_PX else "resized_crop_flip"
