"""From the flags that ask for views to a recipe, and from a recipe to what a header says of it."""

from collections.abc import Mapping
from typing import Any

from manifests.errors import UsageError
from manifests.header import Views
from trainer.models.info import SMALL_PX
from trainer.views import ViewRecipe, default_pad_px

MOST_VIEWS = 1000
"""Views are numbered with three digits on disk."""


def view_recipe(options: Mapping[str, Any], image_px: int) -> ViewRecipe:
    """The recipe that --augment, --pad, --scale-min, --flip and --seed ask for, for views of a size.

    UsageError for a padding or an area there cannot be.
    """
    name, pad_px = options["augment"], options["pad"]
    if name == "auto":
        name = "pad_crop_flip" if image_px <= SMALL_PX else "resized_crop_flip"
    if name == "pad_crop_flip" and pad_px is None:
        pad_px = default_pad_px(image_px)
    return ViewRecipe(
        name=name, seed=options["seed"], pad_px=pad_px, scale_min=options["scale_min"], flip=options["flip"]
    )


def check_view_count(count: int) -> None:
    """UsageError for a number of views that cannot be stored."""
    if not 1 <= count <= MOST_VIEWS:
        raise UsageError(
            f"--views {count}: 1 to {MOST_VIEWS:,}", hint="view 0 is the evaluation view, those above it are augmented"
        )


def views_to_score(which: str | None, count: int) -> range:
    """The views whose scores are averaged: --score-views all, 0 or train; None is train where there are such views.

    UsageError for train views when only the evaluation view is stored.
    """
    if which is None:
        which = "train" if count > 1 else "0"
    if which == "train" and count == 1:
        raise UsageError("--score-views train needs training views", hint="store some: --views 2 or more")
    return {"all": range(count), "0": range(1), "train": range(1, count)}[which]


def views_text(views: range) -> str:
    """Views as the header names them: 0, 1-7, 0-7."""
    return str(views.start) if len(views) == 1 else f"{views.start}-{views.stop - 1}"


def views_block(recipe: ViewRecipe, count: int, image_px: int, top_k: int | None) -> Views:
    """What a header says of `count` stored views; a single one is the evaluation view, whatever the recipe."""
    if count == 1:
        return Views(recipe="eval", version=1, seed=0, count=1, image_px=image_px, top_k=top_k)
    names = ("pad_px", "scale_min", "scale_max", "ratio_min", "ratio_max", "flip")
    parameters = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
    return Views(
        recipe=recipe.name,
        version=recipe.version,
        seed=recipe.seed,
        count=count,
        image_px=image_px,
        top_k=top_k,
        **parameters,
    )
