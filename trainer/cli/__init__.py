"""The command line: `train-student`, and what it shares with `prune`."""
