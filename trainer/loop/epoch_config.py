"""The configuration of one epoch: that of the run, with the values that it has there. A pure function of the epoch."""

from trainer.config import TrainConfig
from trainer.losses.annealing import annealed


def epoch_config(config: TrainConfig, epoch: int) -> TrainConfig:
    """Return what an epoch counted from 0 is trained with."""
    return annealed(config, epoch)
