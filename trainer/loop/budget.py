"""The length of a run that matches another run's time: a short trial, then a fixed number of steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.base.files import write_atomic
from manifests.errors import InputError
from trainer.loop.distributed import from_main
from trainer.loop.run_folder import BUDGET_NAME, RUN_NAME

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.loop.distributed import Ranks
    from trainer.loop.session import TrainingSession

WARM_UP_STEPS = 8
"""Steps before the timing starts: compilation, memory pools, caches."""
TRIAL_S = 20.0
"""Longest time that a trial measures, in seconds; it is also at most a twentieth of the budget."""
MIN_STEPS, MAX_STEPS = 10, 1000
"""Smallest and largest number of timed steps."""


@dataclass(frozen=True, kw_only=True)
class MatchTime:
    """A request for as many steps as fit into the training time of another run."""

    run: str
    """The other run's folder, as the user gave it."""
    seconds: float
    configure: Callable[[int], TrainConfig]
    """Returns the configuration of a run with this number of steps."""


def training_seconds(run: Path) -> float:
    """Return the seconds that a finished run waited for data and computed; raises InputError if they are missing."""
    path = run / RUN_NAME
    if not path.is_file():
        raise InputError(f"{run} holds no {RUN_NAME}: not a run, or an unfinished one", hint="let it finish first")
    try:
        times = json.loads(path.read_bytes())["time"]
        seconds = float(times["waiting_for_data_s"]) + float(times["compute_s"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"{path} does not say how long the run trained", hint="train it again with --fresh")
    return seconds


def asked_seconds(run: Path, out: Path | None) -> float:
    """Return `training_seconds` of a run; if it was deleted, the value stored when the run in `out` was started."""
    kept = None if out is None or (run / RUN_NAME).is_file() else _kept(out, "asked_s", run=str(run))
    return training_seconds(run) if kept is None else kept


def kept_steps(out: Path, digest: str) -> int | None:
    """Return the steps that a trial of this configuration found for the run in `out`, None before the trial."""
    steps = _kept(out, "steps", digest=digest)
    return None if steps is None else int(steps)


def _kept(out: Path, name: str, **of: str) -> float | None:
    try:
        content = json.loads((out / BUDGET_NAME).read_bytes())
        return float(content[name]) if content == content | of else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def keep_steps(out: Path, digest: str, match: MatchTime, steps: int, seconds_per_step: float) -> None:
    """Write what a trial found, so that an interrupted run resumes with the same number of steps."""
    asked = {"run": match.run, "asked_s": match.seconds}
    content = {"digest": digest, **asked, "steps": steps, "seconds_per_step": seconds_per_step}
    write_atomic(out / BUDGET_NAME, (json.dumps(content, indent=1) + "\n").encode())


def timed_trial(session: TrainingSession, ranks: Ranks, seconds: float) -> float:
    """Return the seconds per step of a session, as rank 0 measured them; its student is unusable afterwards.

    Short epochs are timed as a whole, because the wait for their first batch is part of the time.
    """
    _take(session, WARM_UP_STEPS, 0)
    guess_s = _take(session, MIN_STEPS, 1)
    steps = from_main(ranks, lambda: timed_steps(seconds, guess_s, session.plan.steps_per_epoch))
    measured_s = _take(session, steps, 2)
    return from_main(ranks, lambda: measured_s)


def timed_steps(seconds: float, seconds_per_step: float, steps_per_epoch: int) -> int:
    """Return how many steps a trial times, given a guess of the time per step: a part of an epoch, or whole epochs."""
    wanted = round(min(TRIAL_S, seconds / 20) / max(seconds_per_step, 1e-9))
    steps = min(max(MIN_STEPS, wanted), MAX_STEPS)
    if steps < steps_per_epoch:
        return steps
    whole = steps // steps_per_epoch * steps_per_epoch
    return whole if whole >= MIN_STEPS else whole + steps_per_epoch


def _take(session: TrainingSession, steps: int, first_epoch: int) -> float:
    """Train `steps` steps, epoch by epoch as a run does; returns the seconds per step."""
    per_epoch = session.plan.steps_per_epoch
    parts = enumerate(range(0, steps, per_epoch), first_epoch)
    return sum(session.epoch(number, steps=min(per_epoch, steps - done)).training_s for number, done in parts) / steps
