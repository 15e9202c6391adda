"""`python -m prune_toolkit` is `prune`."""

from prune_toolkit.cli import main

main()
