"""Phases of soft and hard labels: whole epochs that learn from the teacher's labels, or from smoothed hard ones alone.

In a hard phase the loss is the cross-entropy with heavily smoothed labels, of images mixed by cutmix. HALD (arXiv
2512.15647) takes soft, hard, soft: hard labels hold for any crop, also where few crops have a stored label.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.loop.dynamic import DYNAMIC
from trainer.losses import LOSSES

KINDS = ("soft", "hard")
DEFAULTS = {"hard_smoothing": 0.8, "hard_cutmix": 1.0}
"""Ours: the paper says heavily smoothed, and no number that we could read."""
EXAMPLE = "soft:0.4,hard:0.2,soft:0.4"

Phases = tuple[tuple[str, int], ...]
"""(kind, epochs) of each phase, in order."""


def phase_values(given: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the phases of a run of this many epochs and what a hard one is trained with; all None without phases.

    Raises UsageError, naming the flag, for values out of range or lengths that do not add up.
    """
    asked = given.get("label_schedule")
    if asked is None:
        for name in DEFAULTS:
            if given.get(name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} has no effect without --label-schedule", hint=f"for example {EXAMPLE}")
        return dict.fromkeys(("label_schedule", *DEFAULTS))
    values = {name: default if given.get(name) is None else given[name] for name, default in DEFAULTS.items()}
    if not 0 <= values["hard_smoothing"] < 1:
        raise UsageError(f"--hard-smoothing must be in [0, 1), not {values['hard_smoothing']:g}")
    if not (math.isfinite(values["hard_cutmix"]) and values["hard_cutmix"] >= 0):
        raise UsageError(f"--hard-cutmix must be 0 or more, not {values['hard_cutmix']:g}", hint="0 turns it off")
    return values | {"label_schedule": phases_of(str(asked), epochs)}


def phases_of(text: str, epochs: int) -> Phases:
    """Return the phases in KIND:LENGTH,...: lengths are shares that sum to 1, or numbers of epochs that sum to all.

    Shares end at the nearest whole epoch, halves at the later one. Raises UsageError for anything else.
    """
    flag = f"--label-schedule {text}"
    parts = [part.strip().split(":") for part in text.split(",")]
    try:
        lengths = [(kind, _share(length)) for kind, length in parts]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{flag} is not KIND:LENGTH,...", hint=f"for example {EXAMPLE}") from None
    if unknown := next((kind for kind, _ in lengths if kind not in KINDS), None):
        raise UsageError(f"{flag}: {unknown} is not known", hint=f"known: {', '.join(KINDS)}")
    if missing := next((kind for kind in KINDS if kind not in dict(lengths)), None):
        raise UsageError(f"{flag} has no {missing} phase", hint=f"for example {EXAMPLE}")
    whole = sum((length for _, length in lengths), Fraction(0))
    if whole not in (1, epochs):
        raise UsageError(
            f"{flag}: the lengths sum to {float(whole):g}",
            hint=f"give shares of the run that sum to 1, or epochs that sum to its {epochs}",
        )
    ends, done = [0], Fraction(0)
    for _, length in lengths:
        done += length * epochs / whole
        ends.append(math.floor(done + Fraction(1, 2)))
    found = tuple((kind, end - start) for (kind, _), start, end in zip(lengths, ends, ends[1:], strict=False))
    if empty := next((kind for kind, count in found if count < 1), None):
        raise UsageError(f"{flag}: a {empty} phase is shorter than one of the {epochs} epochs", hint="train longer")
    return found


def check_phases(config: TrainConfig) -> None:
    """Raise UsageError for a configuration that phases contradict."""
    if config.label_schedule is None:
        return
    arm = config.dynamic
    refused = {
        f"--loss {config.loss}": (not LOSSES[config.loss].needs_targets, "it has no soft labels"),
        f"--dynamic {arm}": (
            arm is not None and DYNAMIC[arm].needs_losses,
            "it compares losses, which are not on one scale in phases of both kinds",
        ),
        "--hard-cutmix and --record-dynamics": (
            config.record_dynamics and bool(config.hard_cutmix),
            "that records the answer to each image by itself; --hard-cutmix 0 turns mixing off",
        ),
    }
    for other, (applies, why) in refused.items():
        if applies:
            raise UsageError(f"--label-schedule and {other} contradict each other: {why}", hint="leave one of them out")


def is_hard(config: TrainConfig, epoch: int) -> bool:
    """Return whether an epoch, counted from 0, is in a hard phase."""
    end = 0
    for kind, length in config.label_schedule or ():
        end += length
        if epoch < end:
            return kind == "hard"
    return False


def hardened(config: TrainConfig) -> TrainConfig:
    """Return the configuration of an epoch in a hard phase: no targets, no teacher."""
    assert config.hard_smoothing is not None
    return replace(
        config,
        loss="ce",
        loss_options={},
        # The optimiser still has both buffers; that of the KD term fades.
        dot=None,
        policy=None,
        revise_eta=None,
        unsure_below=None,
        unsure_smoothing=None,
        label_smoothing=config.hard_smoothing,
        mixup=None,
        cutmix=config.hard_cutmix or None,
        mix_prob=1.0 if config.hard_cutmix else None,
    )


def described_phases(config: TrainConfig, *, replays: bool) -> str:
    """Return the phases on one line; replays: stored views are shown again in soft phases."""
    phases = ", ".join(f"{kind} {length}" for kind, length in config.label_schedule or ())
    mixed = f"cutmix {config.hard_cutmix:g}, " if config.hard_cutmix else ""
    views = "; they show fresh views, which need no stored label" if replays else ""
    return f"labels by epochs: {phases}; hard ones smoothed by {config.hard_smoothing:g}, {mixed}no teacher{views}"


def _share(text: str) -> Fraction:
    text = text.strip()
    value = Fraction(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    if value <= 0:
        raise ValueError(text)
    return value
