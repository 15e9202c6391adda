"""The command line: `train-student`, and what both commands share."""
