"""Which view of each sample an epoch shows, and which stored label goes with it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.order import Stream, stream_seed
from trainer.views import ViewRecipe, epoch_views

if TYPE_CHECKING:
    from manifests.header import Views
    from trainer.recipes import TrainConfig
    from trainer.task import Task


@dataclass(frozen=True)
class TrainingViews:
    """Views of a run: the scored ones with their own labels, or unscored ones with the label of view 0."""

    recipe: ViewRecipe
    view_id_N: NDArray[np.uint64]
    stored_views: int
    """Number of scored views that are replayed; 0 when none are."""

    @classmethod
    def of(cls, task: Task, config: TrainConfig) -> TrainingViews:
        """The views a configuration asks for; those the header tells of when they are replayed."""
        view_id_N = task.beton.columns["view_id"]
        scored = task.manifest.header.views
        if config.augment == "replay" and scored is not None:
            return cls(_scored_recipe(scored), view_id_N, task.beton.view_count)
        recipe = ViewRecipe(
            name=config.augment,
            seed=stream_seed(config.seed, Stream.VIEWS),
            pad_px=config.pad_px,
            scale_min=config.scale_min,
            flip=config.flip,
        )
        return cls(recipe, view_id_N, 0)

    def of_epoch(self, epoch: int, rows_n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """View number and stored label of each of these rows in an epoch counted from 0, both (n,)."""
        if self.recipe.name == "none" and not self.stored_views:
            view_0 = np.zeros(len(rows_n), np.int64)
            return view_0, view_0
        view_n = epoch_views(epoch, self.view_id_N[rows_n], self.stored_views)
        return view_n, view_n if self.stored_views else np.zeros(len(rows_n), np.int64)


def _scored_recipe(scored: Views) -> ViewRecipe:
    """The recipe a header describes, with the parameters it names beside the typed fields."""
    known = {field.name for field in fields(ViewRecipe)} - {"name", "version", "seed"}
    extra = {name: value for name, value in (scored.model_extra or {}).items() if name in known}
    return ViewRecipe(name=scored.recipe, version=scored.version, seed=scored.seed, **extra)
