"""`python -m prune_toolkit` is `prune`."""

from prune_toolkit.main import main

main()
