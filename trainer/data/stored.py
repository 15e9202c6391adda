"""The facts about a manifest's stored samples and labels that a training configuration depends on."""

from dataclasses import dataclass, fields

from manifests.format.header import Views
from trainer.data.views import ViewRecipe


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """Facts about the samples and labels in a manifest and its beton."""

    count: int = 0
    """Number of samples in the beton."""
    image_px: int = 224
    """Default side of the images."""
    view_count: int = 0
    """Stored targets per sample; 0 without targets."""
    least_views: int | None = None
    """Targets of the sample with the fewest, where samples have different numbers of them: `view_count` is the most."""
    mean_views: float = 0.0
    """Targets per sample on average, if `least_views` is set."""
    policy: str | None = None
    """Policy in the header: mean if a stored target is the mean over the scored views; None if unknown."""
    scored: ViewRecipe | None = None
    """Recipe of views 1 and up in the header, stored or not; None if the header names no recipe."""
    scored_views: int = 1
    """Number of views that were scored, including view 0."""
    top_k: int | None = None
    """Logits stored per target; None if all are."""


def scored_recipe(views: Views) -> ViewRecipe:
    """Return the recipe in a header, including parameters that are not typed fields of the header."""
    known = {field.name for field in fields(ViewRecipe)} - {"name", "version", "seed"}
    extra = {name: value for name, value in (views.model_extra or {}).items() if name in known}
    return ViewRecipe(name=views.recipe, version=views.version, seed=views.seed, **extra)
