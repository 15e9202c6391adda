"""`python -m trainer` is `train-student`."""

from trainer.cli.train_student import main

main()
