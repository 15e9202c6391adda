"""What an epoch shows: everything in a new order, or what a dynamic arm chooses anew each time.

All ranks compute it alike, from the seed, the epoch and the losses they share, so that they take the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.errors import UsageError
from trainer.data.order import BatchPlan, Stream, batch_plan, epoch_order, stream_generator

if TYPE_CHECKING:
    from trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class EpochRows:
    """Rows of one epoch before they are cut into batches."""

    order_n: NDArray[np.int64]
    """Rows in the order they are shown."""
    scale_N: NDArray[np.float32] | None = None
    """(N,) factor of each row's loss; None is 1 for all."""


@dataclass(frozen=True, kw_only=True)
class EpochPlan(EpochRows):
    """One epoch as it is trained: whole batches, the same number on every rank."""

    batch_size: int
    """Samples a step over all ranks; smaller than asked when the epoch shows fewer."""
    steps: int
    steps_per_epoch: int
    """Steps it would take if it were not cut short."""


RowsOf = Callable[["TrainConfig", int, int, BatchPlan, NDArray[np.float32] | None], EpochRows]
"""(config, epoch counted from 0, N, how a whole epoch is cut, last loss of each row (N,), nan before there is one)."""


@dataclass(frozen=True, kw_only=True)
class DynamicMethod:
    """A way to choose anew each epoch, and the facts about it."""

    rows_of: RowsOf
    formula: str
    source: str
    options: Mapping[str, float | None] = field(default_factory=dict)
    """Its own values of the configuration with their defaults; None has to be given."""
    needs_losses: bool = False
    """Whether it looks at the last loss of each sample."""
    has_fixed_steps: bool = True
    """Whether the number of steps is known before the run."""


RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "keep": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "prune_ratio": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "anneal": (lambda value: 0 <= value <= 1, "in [0, 1]"),
}
"""Options of arms, those that a configuration has, and what they may be."""


def _check_options(name: str, arm: DynamicMethod) -> None:
    """ValueError for an option that no configuration has, so that nobody could set it."""
    if unknown := sorted(set(arm.options) - set(RANGES)):
        raise ValueError(f"dynamic arm {name!r} has an option {unknown[0]!r}; there are {', '.join(RANGES)}")


DYNAMIC: Registry[DynamicMethod] = Registry("dynamic arm", _check_options)


def dynamic_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the arm that is asked for, with its defaults; UsageError where they contradict each other."""
    name = given.get("dynamic")
    values = {**DYNAMIC[name].options, **given} if name is not None and name in DYNAMIC else given
    check_dynamic(values)
    return {option: values[option] for option in _owners() if option in values}


def check_dynamic(values: Mapping[str, Any]) -> None:
    """UsageError, naming the flag, for options that no arm can have, or not the one that is named."""
    name, owners = values.get("dynamic"), _owners()
    if name is not None and name not in DYNAMIC:
        raise UsageError(f"--dynamic {name} is not known", hint=f"known: {', '.join(DYNAMIC)}")
    for option, arms in owners.items():
        flag, value = f"--{option.replace('_', '-')}", values.get(option)
        if value is None and name in arms:
            raise UsageError(f"--dynamic {name} needs {flag}", hint=f"for example {flag} 0.5")
        if value is not None and name not in arms:
            of = " or ".join(arms)
            raise UsageError(f"{flag} is an option of --dynamic {of}", hint=f"name it too: --dynamic {of}")
        if value is not None and not RANGES[option][0](value):
            raise UsageError(f"{flag} must be {RANGES[option][1]}, not {value}")
    if name is None or DYNAMIC[name].has_fixed_steps:
        return
    for flag, field_ in (("--match-time", "match_s"), ("--steps", "steps")):
        if values.get(field_) is not None:
            raise UsageError(
                f"--dynamic {name} and {flag} contradict each other: how many steps it takes is known at its end",
                hint="give --epochs; its run.json says the steps, so that another run can take as many",
            )


def _owners() -> dict[str, list[str]]:
    """The arms that have each option."""
    arms = {option: [name for name, arm in DYNAMIC.items() if option in arm.options] for option in RANGES}
    return {option: names for option, names in arms.items() if names}


def epoch_plan(
    config: TrainConfig,
    epoch: int,
    *,
    count: int,
    plan: BatchPlan,
    steps: int,
    loss_N: NDArray[np.float32] | None = None,
) -> EpochPlan:
    """The first `steps` batches of an epoch counted from 0, fewer where it does not show as many.

    plan: how a whole epoch of this run is cut. An incomplete last batch is left out.
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
    """The next slice of an endless stream of permutations: all samples come equally often, none twice before all did.

    Permutation k is the order that epoch k of a run on all the data has. Okanovic et al. 2024, without replacement.
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
    """All samples but a random share of those whose last loss is below the mean; the rest of these count for them.

    Everything is shown in the first epoch, in the last `anneal` of them, and where fewer samples than ranks would be
    left. Qin et al. 2024, section 3.
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


def full_epochs(epochs: int, anneal: float) -> int:
    """How many epochs at the end show everything: ceil(anneal * epochs), in exact arithmetic."""
    return math.ceil(Fraction(anneal).limit_denominator(10**6) * epochs)


def last_positions(row_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row comes last, in the order of the rows."""
    return len(row_n) - 1 - np.unique(row_n[::-1], return_index=True)[1]


def soft_pruned(
    loss_N: NDArray[np.float32], ratio: float, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which samples are kept (N,) and the factor of their losses (N,) float32.

    A loss below the mean: dropped with probability `ratio`, else times 1 / (1 - ratio). Others, and samples without a
    loss yet (nan): kept, times 1. So each sample counts 1 in expectation.
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
        formula="last loss < mean: dropped with probability prune_ratio, else loss / (1 - prune_ratio); everything in "
        "the first epoch and in the last anneal of them",
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
        formula="floor(keep N + 1/2) samples an epoch, slice after slice of endless permutations",
        source="Okanovic et al. 2024 (ICLR, arXiv 2305.18424), without replacement",
        options={"keep": None},
    ),
)
