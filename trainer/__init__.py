"""Selections in, students out: models, views, loading, losses, the loop; the `train-student` command."""
