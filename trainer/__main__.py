"""`python -m trainer` is `train-student`."""

from trainer.cli.stops import obey_at_once


def train() -> None:
    """Obey Ctrl-C, then import the command."""
    obey_at_once("train-student")
    from trainer.cli.train_student import main

    main()


train()
