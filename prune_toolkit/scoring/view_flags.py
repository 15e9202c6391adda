"""Turn the flags for views into a recipe, and a recipe into its header block."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from manifests.errors import UsageError
from manifests.format.header import Views
from trainer.data.views import ViewRecipe, default_pad_px
from trainer.models.info import SMALL_PX

MOST_VIEWS = 1000
"""Views are numbered with three digits on disk."""
_PARAMETERS = {
    "pad_crop_flip": ("pad_px",),
    "resized_crop_flip": ("scale_min", "scale_max", "ratio_min", "ratio_max"),
}
"""The parameters of a recipe besides flip; nothing else is recorded, so equal views have equal ids."""


@dataclass(frozen=True, kw_only=True)
class ViewFlags:
    """The view options of a command."""

    views: int = 1
    augment: str = "auto"
    pad: int | None = None
    scale_min: float = 0.08
    flip: bool = True
    seed: int = 0
    top_k: int | None = None


def scoring_recipe(asked: ViewFlags, image_px: int) -> ViewRecipe:
    """Return the recipe for these options and views of this size; UsageError for an impossible padding or area."""
    name, pad_px = asked.augment, asked.pad
    if name == "auto":
        name = "pad_crop_flip" if image_px <= SMALL_PX else "resized_crop_flip"
    if name == "pad_crop_flip" and pad_px is None:
        pad_px = default_pad_px(image_px)
    return ViewRecipe(name=name, seed=asked.seed, pad_px=pad_px, scale_min=asked.scale_min, flip=asked.flip)


def check_view_count(count: int) -> None:
    """Raise UsageError for a number of views that cannot be stored."""
    if not 1 <= count <= MOST_VIEWS:
        raise UsageError(
            f"--views {count}: expected 1 to {MOST_VIEWS:,}",
            hint="view 0 is the evaluation view, the others are augmented",
        )


def views_to_score(which: str | None, count: int) -> range:
    """Return the views whose scores are averaged: --score-views all, 0 or train; None: train if there are such views.

    Raises UsageError for train if only the evaluation view is stored.
    """
    if which is None:
        which = "train" if count > 1 else "0"
    if which == "train" and count == 1:
        raise UsageError("--score-views train needs training views", hint="store some: --views 2 or more")
    return {"all": range(count), "0": range(1), "train": range(1, count)}[which]


def views_text(views: range) -> str:
    """Return views as the header names them: 0, 1-7, 0-7."""
    return str(views.start) if len(views) == 1 else f"{views.start}-{views.stop - 1}"


def recipe_or_none(asked: ViewFlags, image_px: int, *, typed: Collection[str]) -> ViewRecipe:
    """Return `scoring_recipe` for several views, or if flags of a recipe were `typed`; else the recipe `none`.

    A seed alone does not count: it only matters for the stored views other than view 0.
    """
    if asked.views == 1 and not {"augment", "pad", "scale_min", "flip"} & set(typed):
        return ViewRecipe()
    return scoring_recipe(asked, image_px)


def views_block(recipe: ViewRecipe, count: int, image_px: int, top_k: int | None, max_side: int | None = None) -> Views:
    """Return the header block of `count` stored views, with the augmentation of views 1 and above, stored or fresh."""
    drawn: dict[str, Any] = {"recipe": "eval", "version": 1, "seed": 0}
    if count > 1 or recipe.name != "none":
        names = (*_PARAMETERS.get(recipe.name, ()), "flip")
        parameters = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
        drawn = {"recipe": recipe.name, "version": recipe.version, "seed": recipe.seed, **parameters}
    return Views(count=count, image_px=image_px, top_k=top_k, max_side=max_side, **drawn)
