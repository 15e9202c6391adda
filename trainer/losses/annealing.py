"""Temperature and KD weight that change over a run, FROM:TO[:SHAPE]: a pure function of the epoch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.losses.loss import LOSSES

ANNEALED = ("temperature", "kd_weight")
"""Values of a configuration that can change over a run."""
SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    "step": lambda progress: float(progress >= 0.5),
}
"""From the progress of the run, 0 in the first epoch and 1 in the last, to the share of the way from FROM to TO."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A value that goes from one number to another."""

    start: float
    end: float
    shape: str = "linear"

    @classmethod
    def parse(cls, text: str, flag: str) -> "Ramp":
        """Read FROM:TO or FROM:TO:SHAPE; raises UsageError, naming the flag, for anything else."""
        start, end, *shape = text.split(":")
        try:
            ramp = cls(start=float(start), end=float(end), shape=shape[0].strip() if shape else "linear")
        except ValueError:
            ramp = None
        if ramp is None or len(shape) > 1 or not all(map(math.isfinite, (ramp.start, ramp.end))):
            raise UsageError(f"{flag} {text!r} is not FROM:TO or FROM:TO:SHAPE", hint=f"for example {flag} 4:1:cosine")
        if ramp.shape not in SHAPES:
            raise UsageError(f"{flag} {text}: {ramp.shape!r} is not a known shape", hint=f"known: {', '.join(SHAPES)}")
        return ramp

    def at(self, epoch: int, epochs: int) -> float:
        """Return the value in an epoch counted from 0: FROM in the first one, TO in the last and any after it."""
        # A trial for --match-time can be longer than the recipe that it starts from.
        moved = SHAPES[self.shape](min(1.0, epoch / (epochs - 1)) if epochs > 1 else 0.0)
        return (1 - moved) * self.start + moved * self.end


def annealed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are given as FROM:TO as their first number, and `annealed`, which has the rest or is None.

    Raises UsageError for a text that says neither a number nor how it changes.
    """
    found: dict[str, Any] = {}
    ramps: dict[str, Any] = {}
    for name in ANNEALED:
        if isinstance(text := values.get(name), str):
            flag = flag_of(name)
            if ":" not in text:
                found[name] = _number(text, flag)
                continue
            ramp = Ramp.parse(text, flag)
            found[name] = ramp.start
            if ramp.start != ramp.end:
                ramps[name] = {"to": ramp.end, "shape": ramp.shape}
    return found | {"annealed": ramps or None}


def check_annealing(config: TrainConfig) -> None:
    """Raise UsageError for values out of range at the end of the run, or that cannot change."""
    for name in config.annealed or {}:
        flag = f"{flag_of(name)} {spelled(config, name)}"
        if not LOSSES[config.loss].needs_targets:
            raise UsageError(f"{flag} and --loss {config.loss} contradict each other", hint="it has no KD term")
        is_open = config.match_s is not None and config.steps is None
        if config.epochs < 2 and not is_open:
            raise UsageError(f"{flag} needs at least 2 epochs: the first has one value, the last the other",
                             hint="train longer, or give one value")  # fmt: skip
    annealed(config, config.epochs - 1)


def annealed(config: TrainConfig, epoch: int) -> TrainConfig:
    """Return the configuration of an epoch counted from 0, with the values that it has there."""
    if config.annealed is None:
        return config
    now: dict[str, Any] = {name: _ramp(config, name).at(epoch, config.epochs) for name in config.annealed}
    return replace(config, annealed=None, **now)


def spelled(config: TrainConfig, name: str) -> str:
    """Return a value as it would be typed: 4, 4:1 or 4:1:cosine."""
    if name not in (config.annealed or {}):
        return f"{getattr(config, name):g}"
    ramp = _ramp(config, name)
    return f"{ramp.start:g}:{ramp.end:g}" + (f":{ramp.shape}" if ramp.shape != "linear" else "")


def flag_of(name: str) -> str:
    """Return the flag of a value."""
    return f"--{name.replace('_', '-')}"


def _ramp(config: TrainConfig, name: str) -> Ramp:
    said = (config.annealed or {})[name]
    return Ramp(start=getattr(config, name), end=said["to"], shape=said["shape"])


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not a number, nor FROM:TO", hint=f"for example {flag} 4:1") from None
