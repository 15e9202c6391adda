"""The entry points `prune` and `train-student`: they obey Ctrl-C before they import anything that takes a moment."""

from trainer.cli.stops import obey_at_once


def prune() -> None:
    """Run `prune`."""
    obey_at_once("prune")
    from prune_toolkit.main import main

    main()


def train() -> None:
    """Run `train-student`: in this package, which checks whether a file shadows a module it needs."""
    obey_at_once("train-student")
    from trainer.cli.train_student import main

    main()
