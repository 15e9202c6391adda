"""What a manifest and its beton hold of samples and labels, as far as a configuration depends on it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from trainer.data.views import ViewRecipe

if TYPE_CHECKING:
    from manifests.format.header import Header, Views


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """What a manifest and its beton hold of samples and labels, as far as a configuration depends on it."""

    count: int = 0
    """Samples of the beton."""
    image_px: int = 224
    """Side of the images when nobody asks for another."""
    view_count: int = 0
    """Targets stored a sample; 0 without targets."""
    policy: str | None = None
    """What one stored target is: the mean over the scored views, or view 0's own; None where nobody said."""
    scored: ViewRecipe | None = None
    """How the header says views from 1 on are drawn, stored or not; None where it names no recipe."""
    scored_views: int = 1
    """Views that were scored, view 0 among them."""
    top_k: int | None = None
    """Logits kept a target; None when all are."""

    @classmethod
    def of(cls, header: Header, *, count: int, image_px: int, view_count: int) -> StoredLabels:
        """From a header and what the beton says."""
        views, labels = header.views, header.labels
        return cls(
            count=count,
            image_px=image_px,
            view_count=view_count,
            policy=None if labels is None else labels.policy,
            scored=scored_recipe(views) if views is not None and views.recipe != "eval" else None,
            scored_views=views.count if views is not None else 1,
            top_k=None if labels is None else labels.top_k,
        )


def scored_recipe(views: Views) -> ViewRecipe:
    """The recipe a header describes, with the parameters it names beside the typed fields."""
    known = {field.name for field in fields(ViewRecipe)} - {"name", "version", "seed"}
    extra = {name: value for name, value in (views.model_extra or {}).items() if name in known}
    return ViewRecipe(name=views.recipe, version=views.version, seed=views.seed, **extra)
