"""`python -m trainer` is `train-student`."""

from trainer.cli import main

main()
