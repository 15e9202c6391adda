"""`python -m prune_toolkit` is `prune`."""

from prune_toolkit.entry import prune

prune()
