"""What `prune label` does unless someone says otherwise: as the selection was scored, in eight views."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from manifests.errors import UsageError
from manifests.hidden.secret import refuse_hidden
from manifests.manifest import Manifest
from prune_toolkit.scoring.view_flags import ViewOptions, recipe_or_none
from prune_toolkit.selection.targets import TargetPlan
from trainer.data.stored import scored_recipe
from trainer.data.views import ViewRecipe

VIEWS = 8


def check_selection(selection: Manifest) -> None:
    """UsageError for a manifest that keeps nothing to label, or of which no key tells where its images are."""
    if selection.kind != "selection":
        do = f"prune select {selection.where} --keep 0.5" if selection.kind == "scores" else "prune score, prune select"
        raise UsageError(
            f"{selection.where} is of kind {selection.kind}: labelling needs a selection",
            hint=f"make one first: {do}",
        )
    refuse_hidden(selection.header, selection.where)


def check_licence(teacher_licence: str | None, *, is_other: bool) -> None:
    """UsageError for the licence of a teacher that the selection has one of."""
    if teacher_licence is not None and not is_other:
        raise UsageError(
            "--teacher-licence: the selection has its teacher's licence",
            hint="give it to prune score; here it goes with --other-teacher",
        )


def default_labels(selection: Manifest, *, is_other: bool) -> str:
    """The selection's transform; raw for another teacher, with whom nothing was fitted."""
    block = selection.header.labels
    return "raw" if is_other or block is None else block.transform


def planned_targets(selection: Manifest, policy: str | None, views: int | None, top_k: int | None) -> TargetPlan:
    """What is stored of how many views; `views` is None where nobody said."""
    if policy == "single":
        if views is not None and views > 1:
            raise UsageError("--policy single labels view 0 alone", hint=f"leave out --views {views}, or --policy")
        views = 1
    return TargetPlan.resolve(policy, VIEWS if views is None else views, top_k, len(selection.class_names))


def planned_recipe(selection: Manifest, asked: ViewOptions, image_px: int, *, typed: Collection[str]) -> ViewRecipe:
    """The recipe asked for; what was not `typed` is as the selection's views are drawn, where it says how."""
    views, known = selection.header.views, dict[str, Any]()
    if views is not None and views.recipe != "eval":
        recipe = scored_recipe(views)
        known = {
            "augment": recipe.name,
            "pad": recipe.pad_px,
            "scale_min": recipe.scale_min,
            "flip": recipe.flip,
            "seed": recipe.seed,
        }
    asked = replace(asked, **{name: value for name, value in known.items() if name not in typed})
    return recipe_or_none(asked, image_px, typed={*known, *typed})
