"""The length of each run of a sweep, in epochs or steps."""

from collections.abc import Callable

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import DYNAMICS, OF_OPEN_LENGTH, Grid, Kind
from trainer.config import TrainConfig
from trainer.data.order import batch_plan, epoch_batches, epoch_samples
from trainer.loop.dynamic import full_epochs
from trainer.loop.seta import window

EASY_SHARE = 0.65
"""Assumption for InfoBatch: the share of samples whose loss is below the mean. A few large losses raise it above 0.5.

Runs of 5 to 16 epochs on Fashion-MNIST had 0.61 to 0.66.
"""
FEWEST_PRUNED = 2
"""If fewer epochs leave samples out, InfoBatch and SeTa hardly differ from training on all the data, or RS2."""


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
    epochs takes as many steps as a selection; InfoBatch, and SeTa that draws as many samples as a selection has, take
    the epochs whose expected steps come nearest to these, InfoBatch all E at keep 1, and None if they would hardly
    leave anything out. With fixed steps: the same number for all.
    """
    dynamic: tuple[str, ...] = ("--dynamic", kind) if kind in DYNAMICS else ()
    dynamic += ("--keep", str(keep)) if kind in ("rs2", "seta") else ()
    if grid.steps is not None:
        # An epoch has at least one step, so this evaluates only the last one.
        return (*dynamic, "--steps", str(grid.steps), "--eval-every", str(grid.steps))
    config = configure((*dynamic, *(() if grid.epochs is None else ("--epochs", str(grid.epochs)))))
    epochs = config.epochs
    if kind == "fewer" and not keep.is_whole:
        steps = epochs * _steps(config, selected)
        return ("--steps", str(steps), "--eval-every", str(steps))
    if kind in OF_OPEN_LENGTH:
        if not keep.is_whole:
            epochs = matching_epochs(config, count, epochs * _steps(config, selected))
        if pruned_epochs(config, epochs) < FEWEST_PRUNED:
            return None
    return (*dynamic, "--epochs", str(epochs), "--eval-every", str(epochs))


def matching_epochs(config: TrainConfig, count: int, steps: int) -> int:
    """Return the epochs of such an arm on `count` samples whose expected steps come nearest to `steps`; ties: fewer."""
    epochs = 1
    while expected_steps(config, count, epochs) < steps:
        epochs += 1
    above = expected_steps(config, count, epochs) - steps
    return epochs if epochs == 1 or above < steps - expected_steps(config, count, epochs - 1) else epochs - 1


def expected_steps(config: TrainConfig, count: int, epochs: int) -> int:
    """Return the expected steps of `epochs` epochs of InfoBatch or SeTa; `shown_share` is what a pruned one shows."""
    pruned, drawn = pruned_epochs(config, epochs), epoch_samples(count, config.keep)
    full_steps, pruned_steps = (
        _steps(config, samples) for samples in (drawn, max(1, round(drawn * shown_share(config))))
    )
    return (epochs - pruned) * full_steps + pruned * pruned_steps


def shown_share(config: TrainConfig) -> float:
    """Return the share of its samples that a pruned epoch is expected to show.

    1 - prune_ratio * EASY_SHARE for InfoBatch. For SeTa the share of the groups in the window: an assumption, which
    holds for groups of equal size.
    """
    if config.groups is not None and config.window is not None:
        first, end = window(config.groups, config.window, 0)
        return (end - first) / config.groups
    assert config.prune_ratio is not None
    return 1 - config.prune_ratio * EASY_SHARE


def _steps(config: TrainConfig, samples: int) -> int:
    return batch_plan(samples, config.batch_size, 1).steps_per_epoch


def pruned_epochs(config: TrainConfig, epochs: int) -> int:
    """Return how many epochs of such an arm leave samples out: all but the first and the last ceil(anneal * epochs)."""
    assert config.anneal is not None
    return max(0, epochs - 1 - full_epochs(epochs, config.anneal))
