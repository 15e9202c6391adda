"""The length of each run of a sweep, in epochs or steps."""

from collections.abc import Callable

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Grid, Kind
from trainer.config import TrainConfig
from trainer.data.order import epoch_batches
from trainer.loop.dynamic import full_epochs

EASY_SHARE = 0.65
"""Assumption for InfoBatch: the share of samples whose loss is below the mean. A few large losses raise it above 0.5.

Runs of 5 to 16 epochs on Fashion-MNIST had 0.61 to 0.66.
"""
FEWEST_PRUNED = 2
"""If fewer epochs leave samples out, InfoBatch hardly differs from training on all the data."""


def images_shown(config: TrainConfig, count: int) -> int:
    """Return the largest number of images that a run on `count` samples shows."""
    plan = epoch_batches(config, count, 1)
    return config.total_steps(plan.steps_per_epoch) * plan.batch_size


def budget_flags(
    grid: Grid,
    kind: Kind,
    keep: Keep,
    *,
    count: int,
    selected: int,
    configure: Callable[[tuple[str, ...]], TrainConfig],
) -> tuple[str, ...] | None:
    """Return the flags of train-student for the length of a run and what its epochs show; evaluated only at the end.

    count: samples that the run is trained on; selected: samples of a selection at this keep. configure: returns the
    configuration of a run with further flags. With E epochs: a selection and RS2 take E; all the data with `fewer`
    epochs takes as many steps as a selection; InfoBatch takes the epochs whose expected steps come nearest to these,
    all E at keep 1, and None if it would hardly leave anything out. With fixed steps: the same number for all.
    """
    dynamic = {"rs2": ("--dynamic", "rs2", "--keep", str(keep)), "infobatch": ("--dynamic", "infobatch")}.get(kind, ())
    if grid.steps is not None:
        # An epoch has at least one step, so this evaluates only the last one.
        return (*dynamic, "--steps", str(grid.steps), "--eval-every", str(grid.steps))
    config = configure((*dynamic, *(() if grid.epochs is None else ("--epochs", str(grid.epochs)))))
    epochs = config.epochs
    if kind == "fewer" and not keep.is_whole:
        steps = epochs * epoch_batches(config, selected, 1).steps_per_epoch
        return ("--steps", str(steps), "--eval-every", str(steps))
    if kind == "infobatch":
        if not keep.is_whole:
            epochs = matching_epochs(config, count, epochs * epoch_batches(config, selected, 1).steps_per_epoch)
        if pruned_epochs(config, epochs) < FEWEST_PRUNED:
            return None
    return (*dynamic, "--epochs", str(epochs), "--eval-every", str(epochs))


def matching_epochs(config: TrainConfig, count: int, steps: int) -> int:
    """Return the epochs of InfoBatch on `count` samples whose expected steps come nearest to `steps`; ties: fewer."""
    epochs = 1
    while expected_steps(config, count, epochs) < steps:
        epochs += 1
    above = expected_steps(config, count, epochs) - steps
    return epochs if epochs == 1 or above < steps - expected_steps(config, count, epochs - 1) else epochs - 1


def expected_steps(config: TrainConfig, count: int, epochs: int) -> int:
    """Return the expected steps of `epochs` epochs of InfoBatch: a pruned one shows 1 - prune_ratio * EASY_SHARE."""
    assert config.prune_ratio is not None
    pruned = pruned_epochs(config, epochs)
    shown = max(1, round(count * (1 - config.prune_ratio * EASY_SHARE)))
    full_steps, pruned_steps = (epoch_batches(config, samples, 1).steps_per_epoch for samples in (count, shown))
    return (epochs - pruned) * full_steps + pruned * pruned_steps


def pruned_epochs(config: TrainConfig, epochs: int) -> int:
    """Return how many epochs of InfoBatch leave samples out: all but the first and the last ceil(anneal * epochs)."""
    assert config.anneal is not None
    return max(0, epochs - 1 - full_epochs(epochs, config.anneal))
