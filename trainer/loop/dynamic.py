"""The rows that an epoch shows: all of them in a new order, or those that a dynamic arm chooses for it.

All ranks compute the same rows, from the seed, the epoch and the shared losses, so that they take the same steps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.data.order import BatchPlan, Stream, batch_plan, epoch_order, epoch_samples, stream_generator
from trainer.loop.seta import in_window


@dataclass(frozen=True, kw_only=True)
class EpochRows:
    """The rows of one epoch before they are cut into batches."""

    order_n: NDArray[np.int64]
    """Rows in the order in which they are shown."""
    scale_N: NDArray[np.float32] | None = None
    """(N,) factor of each row's loss; None means 1 for all."""


@dataclass(frozen=True, kw_only=True)
class EpochPlan(EpochRows):
    """One epoch of training: whole batches, the same number on every rank."""

    batch_size: int
    """Samples per step over all ranks; smaller than requested if the epoch shows fewer."""
    steps: int
    steps_per_epoch: int
    """Steps of the epoch if it were not cut short."""


RowsOf = Callable[[TrainConfig, int, int, BatchPlan, NDArray[np.float32] | None], EpochRows]
"""(config, epoch counted from 0, N, batches of a whole epoch, last loss of each row (N,), nan before the first)."""


@dataclass(frozen=True, kw_only=True)
class DynamicMethod:
    """A way to choose the rows of each epoch, and the facts about it."""

    rows_of: RowsOf
    formula: str
    source: str
    options: Mapping[str, float | None] = field(default_factory=dict)
    """The values of the configuration that belong to it, with defaults; None marks a required one."""
    needs_losses: bool = False
    """True if it uses the last loss of each sample."""
    has_fixed_steps: bool = True
    """True if the number of steps is known before the run."""


RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "keep": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "prune_ratio": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "anneal": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "groups": (lambda value: value >= 1, "at least 1"),
    "window": (lambda value: 0 < value <= 1, "in (0, 1]"),
}
"""Options of arms that a configuration has, and their valid values."""


def _check_options(name: str, arm: DynamicMethod) -> None:
    """Raise ValueError for an option that no configuration has, since it could not be set."""
    if unknown := sorted(set(arm.options) - set(RANGES)):
        raise ValueError(f"dynamic arm {name!r} has an option {unknown[0]!r}; known: {', '.join(RANGES)}")


DYNAMIC: Registry[DynamicMethod] = Registry("dynamic arm", _check_options)


def dynamic_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the requested arm, with its defaults.

    Raises UsageError, naming the flag, for options that are out of range or belong to another arm.
    """
    name = given.get("dynamic")
    if name is not None and name not in DYNAMIC:
        raise UsageError(f"--dynamic {name} is not known", hint=f"known: {', '.join(DYNAMIC)}")
    arm = None if name is None else DYNAMIC[name]
    values = given if arm is None else {**arm.options, **given}
    for option, (is_valid, what) in RANGES.items():
        flag, value = f"--{option.replace('_', '-')}", values.get(option)
        arms = [other for other, entry in DYNAMIC.items() if option in entry.options]
        if value is None and name in arms:
            raise UsageError(f"--dynamic {name} needs {flag}", hint=f"for example {flag} 0.5")
        if value is not None and name not in arms:
            of = " or ".join(arms)
            raise UsageError(f"{flag} is an option of --dynamic {of}", hint=f"name it too: --dynamic {of}")
        if value is not None and not is_valid(value):
            raise UsageError(f"{flag} must be {what}, not {value}")
    if arm is not None and not arm.has_fixed_steps:
        for flag, option in (("--match-time", "match_s"), ("--steps", "steps")):
            if values.get(option) is not None:
                raise UsageError(
                    f"--dynamic {name} and {flag} contradict each other: its number of steps is known only at the end",
                    hint="give --epochs; to give another run as many steps, take `steps` from run.json",
                )
    return {option: values[option] for option in RANGES if option in values}


def epoch_plan(
    config: TrainConfig,
    epoch: int,
    *,
    count: int,
    plan: BatchPlan,
    steps: int,
    loss_N: NDArray[np.float32] | None = None,
) -> EpochPlan:
    """Return the first `steps` batches of an epoch counted from 0, or fewer if it does not show as many.

    plan: the batches of a whole epoch of this run. An incomplete last batch is left out.
    """
    if config.dynamic is None:
        shown = EpochRows(order_n=epoch_order(config.seed, epoch, count))
    else:
        shown = DYNAMIC[config.dynamic].rows_of(config, epoch, count, plan, loss_N)
    cut = batch_plan(len(shown.order_n), plan.batch_size, plan.world_size)
    steps = min(steps, cut.steps_per_epoch)
    return EpochPlan(
        order_n=shown.order_n[: steps * cut.batch_size],
        scale_N=shown.scale_N,
        batch_size=cut.batch_size,
        steps=steps,
        steps_per_epoch=cut.steps_per_epoch,
    )


def rs2(config: TrainConfig, epoch: int, count: int, plan: BatchPlan, loss_N: NDArray[np.float32] | None) -> EpochRows:
    """Return the next slice of an endless stream of permutations: no sample comes twice before all have come once.

    Permutation k is the order of epoch k in a run on all the data. Okanovic et al. 2024, without replacement.
    """
    length = plan.steps_per_epoch * plan.batch_size
    start, stop = epoch * length, (epoch + 1) * length
    pieces = [
        epoch_order(config.seed, k, count)[max(start - k * count, 0) : stop - k * count]
        for k in range(start // count, (stop - 1) // count + 1)
    ]
    return EpochRows(order_n=np.concatenate(pieces))


def infobatch(
    config: TrainConfig, epoch: int, count: int, plan: BatchPlan, loss_N: NDArray[np.float32] | None
) -> EpochRows:
    """Leave out a random share of the samples whose last loss is below the mean; the rest of these count more.

    All samples are shown in the first epoch, in the last share `anneal` of the epochs, and if fewer samples than ranks
    would be left. Qin et al. 2024, section 3.
    """
    order_N = epoch_order(config.seed, epoch, count)
    assert config.prune_ratio is not None
    assert config.anneal is not None
    if loss_N is None or epoch >= config.epochs - full_epochs(config.epochs, config.anneal):
        return EpochRows(order_n=order_N)
    generator = stream_generator(config.seed, Stream.PRUNE, epoch)
    kept_N, scale_N = soft_pruned(loss_N, config.prune_ratio, generator)
    if kept_N.sum() < plan.world_size:
        return EpochRows(order_n=order_N)
    return EpochRows(order_n=order_N[kept_N[order_N]], scale_N=scale_N)


def seta(config: TrainConfig, epoch: int, count: int, plan: BatchPlan, loss_N: NDArray[np.float32] | None) -> EpochRows:
    """Draw a share `keep` of the samples, and show those of them whose last loss is in the epoch's window of groups.

    All that are drawn are shown in the first epoch, in the last share `anneal` of the epochs, and if fewer samples than
    ranks would be left. Zhou et al. 2025.
    """
    assert config.anneal is not None
    assert config.groups is not None
    assert config.window is not None
    drawn_n = epoch_order(config.seed, epoch, count)[: epoch_samples(count, config.keep)]
    if loss_N is None or epoch >= config.epochs - full_epochs(config.epochs, config.anneal):
        return EpochRows(order_n=drawn_n)
    shown_n = drawn_n[in_window(loss_N[drawn_n], config.groups, config.window, epoch)]
    return EpochRows(order_n=drawn_n if len(shown_n) < plan.world_size else shown_n)


def full_epochs(epochs: int, anneal: float) -> int:
    """Return how many epochs at the end show all samples: ceil(anneal * epochs), in exact arithmetic."""
    return math.ceil(Fraction(anneal).limit_denominator(10**6) * epochs)


def last_positions(row_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of the last occurrence of each row, in the order of the rows."""
    return len(row_n) - 1 - np.unique(row_n[::-1], return_index=True)[1]


def soft_pruned(
    loss_N: NDArray[np.float32], ratio: float, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which samples are kept (N,) and the factor of their losses (N,) float32.

    A sample with a loss below the mean is dropped with probability `ratio`, else its factor is 1 / (1 - ratio). Other
    samples, and those without a loss yet (nan), are kept with factor 1. So each sample counts 1 in expectation.
    """
    known_n = loss_N[~np.isnan(loss_N)]
    mean = known_n.mean(dtype=np.float64) if len(known_n) else 0.0
    is_easy_N = loss_N < mean
    dropped_N = is_easy_N & (generator.random(len(loss_N)) < ratio)
    return ~dropped_N, np.where(is_easy_N, 1 / (1 - ratio), 1.0).astype(np.float32)


DYNAMIC.add(
    "infobatch",
    DynamicMethod(
        rows_of=infobatch,
        formula="last loss < mean: dropped with probability prune_ratio, else loss / (1 - prune_ratio); all samples in "
        "the first epoch and in the last share anneal of the epochs",
        source="Qin et al. 2024 (ICLR)",
        options={"prune_ratio": 0.5, "anneal": 0.125},
        needs_losses=True,
        has_fixed_steps=False,
    ),
)
DYNAMIC.add(
    "rs2",
    DynamicMethod(
        rows_of=rs2,
        formula="floor(keep N + 1/2) samples per epoch, slice after slice of endless permutations",
        source="Okanovic et al. 2024 (ICLR, arXiv 2305.18424), without replacement",
        options={"keep": None},
    ),
)
DYNAMIC.add(
    "seta",
    DynamicMethod(
        rows_of=seta,
        formula="of floor(keep N + 1/2) random samples those in a window of groups by last loss (k-means), which "
        "slides from easy to hard; all of them in the first epoch and in the last share anneal of the epochs",
        source="SeTa, Zhou et al. 2025 (CVPR, arXiv 2503.13385)",
        options={"keep": None, "groups": 10, "window": 0.5, "anneal": 0.125},
        needs_losses=True,
        has_fixed_steps=False,
    ),
)
