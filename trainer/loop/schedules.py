"""Learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from manifests.base.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning-rate schedule and its parameters; epochs count from 0 and may be fractions."""

    name: str
    lr: float
    """Highest learning rate."""
    epochs: float
    """Length of the run; not always whole if the run has a number of steps."""
    steps_per_epoch: int
    warmup_epochs: float = 0.0
    """The rate rises linearly over these first epochs."""
    milestones: tuple[float, ...] = ()
    """Epochs at which `step` multiplies the rate by gamma."""
    gamma: float = 0.1

    def learning_rate(self, step: int) -> float:
        """Return the rate of one optimiser step; steps count from 0 over all epochs."""
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if step < warmup_steps:
            return self.lr * min(1.0, (step + 1) / warmup_steps)
        return self.lr * SCHEDULES[self.name](self, step / self.steps_per_epoch)


SCHEDULES: Registry[Callable[[Schedule, float], float]] = Registry("schedule")


def cosine(schedule: Schedule, epoch: float) -> float:
    """Return half a cosine, from 1 after the warm-up to 0 at the end (Loshchilov & Hutter 2017, no restarts)."""
    span = schedule.epochs - schedule.warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - schedule.warmup_epochs) / span))


def step_down(schedule: Schedule, epoch: float) -> float:
    """Return gamma to the power of the number of milestones passed."""
    return math.prod(schedule.gamma for milestone in schedule.milestones if epoch >= milestone)


def constant(schedule: Schedule, epoch: float) -> float:
    """Return 1."""
    return 1.0


SCHEDULES.add("cosine", cosine)
SCHEDULES.add("step", step_down)
SCHEDULES.add("constant", constant)
