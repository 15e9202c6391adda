"""The configuration of one epoch: that of the run, with the values that it has there. A pure function of the epoch."""

from trainer.config import TrainConfig
from trainer.loop.label_phases import hardened, is_hard
from trainer.losses.annealing import annealed


def epoch_config(config: TrainConfig, epoch: int) -> TrainConfig:
    """Return what an epoch counted from 0 is trained with."""
    now = annealed(config, epoch)
    return hardened(now) if is_hard(config, epoch) else now


def changing_values(config: TrainConfig, epoch: int) -> dict[str, float]:
    """Return the values of an epoch counted from 0 that change over the run; hard_labels is 1 in a hard phase."""
    now = annealed(config, epoch)
    values = {name: float(getattr(now, name)) for name in config.annealed or {}}
    return values | ({} if config.label_schedule is None else {"hard_labels": int(is_hard(config, epoch))})
