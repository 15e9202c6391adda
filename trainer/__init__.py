"""Selections in, students out: models, views, loading, losses, the loop; the `train-student` command."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.dataset import PrunedDataset
    from trainer.losses import distillation_loss

__all__ = ["PrunedDataset", "distillation_loss"]

_HOME = {"PrunedDataset": "trainer.data.dataset", "distillation_loss": "trainer.losses"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch takes seconds, and parts of this package do not need it."""
    if name not in _HOME:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
