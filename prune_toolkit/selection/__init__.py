"""Choose the samples to keep from scores and logits, with reasons and targets."""

from prune_toolkit.selection import soften  # noqa: F401  adds its entry
