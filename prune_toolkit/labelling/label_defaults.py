"""The defaults of `prune label`: eight views, drawn as the selection was scored."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from manifests.errors import UsageError
from manifests.hidden.secret import refuse_hidden
from manifests.manifest import Manifest
from prune_toolkit.scoring.view_flags import ViewFlags, recipe_or_none
from prune_toolkit.selection.targets import TargetPlan
from trainer.data.stored import scored_recipe
from trainer.data.views import ViewRecipe

VIEWS = 8


def check_selection(selection: Manifest) -> None:
    """Raise UsageError for a manifest that is not a selection, or whose keys are hidden."""
    if selection.kind != "selection":
        do = f"prune select {selection.where} --keep 0.5" if selection.kind == "scores" else "prune score, prune select"
        raise UsageError(
            f"{selection.where} is of kind {selection.kind}: labelling needs a selection",
            hint=f"make one first: {do}",
        )
    refuse_hidden(selection.header, selection.where)


def check_licence(teacher_licence: str | None, *, is_other: bool) -> None:
    """Raise UsageError for a teacher licence unless the labels are from another teacher than the scores."""
    if teacher_licence is not None and not is_other:
        raise UsageError(
            "--teacher-licence needs --other-teacher: the selection records the licence of its own teacher",
            hint="give the licence to prune score instead",
        )


def default_labels(selection: Manifest, *, is_other: bool) -> str:
    """Return the selection's label transform; raw for another teacher, to which no transform was fitted."""
    block = selection.header.labels
    return "raw" if is_other or block is None else block.transform


def planned_targets(selection: Manifest, policy: str | None, views: int | None, top_k: int | None) -> TargetPlan:
    """Return the plan of the stored targets; `views` is None for the default number."""
    if policy == "single":
        if views is not None and views > 1:
            raise UsageError("--policy single labels only view 0", hint=f"leave out --views {views}, or --policy")
        views = 1
    return TargetPlan.resolve(policy, VIEWS if views is None else views, top_k, len(selection.class_names))


def planned_recipe(selection: Manifest, asked: ViewFlags, image_px: int, *, typed: Collection[str]) -> ViewRecipe:
    """Return the recipe `asked` for; what was not `typed` is taken from the selection's views, if it has any."""
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
