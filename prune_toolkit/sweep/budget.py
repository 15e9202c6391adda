"""How long each run of a sweep is: what train-student will make of its flags, before it is called."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.flags import train_options
from prune_toolkit.sweep.grid import Grid, Kind
from prune_toolkit.sweep.selections import PlannedSelection
from trainer.config import TrainConfig
from trainer.data.order import epoch_batches
from trainer.loop.dynamic import full_epochs
from trainer.loop.recipes import resolve
from trainer.losses.settings import under_flags

EASY_SHARE = 0.65
"""Assumed of InfoBatch: the share of samples whose loss is below the mean. A few large losses put it above a half.

Runs of 5 to 16 epochs on Fashion-MNIST had 0.61 to 0.66.
"""
FEWEST_PRUNED = 2
"""With fewer epochs that leave samples out InfoBatch is all the data by another name."""


def run_config(chosen: PlannedSelection, flags: Sequence[str]) -> TrainConfig:
    """The configuration that train-student makes of these flags; UsageError for one that no run can have."""
    given = train_options(flags)
    names = {field.name for field in fields(TrainConfig)} - {"recipe"}
    asked = under_flags(chosen.published, {name: value for name, value in given.items() if name in names})
    return resolve(asked, recipe=given.get("recipe", "auto"), stored=chosen.stored)


def images_shown(config: TrainConfig, count: int) -> int:
    """Images that a run on so many samples shows, at most."""
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
    """Flags of train-student that say how long a run is and what an epoch shows; it is evaluated at its end alone.

    count: samples of what it learns from; selected: of a selection at this keep. configure: the configuration of a run
    with some further flags. Fixed epochs, E of them: a selection and RS2 take E; all the data `fewer` epochs as many
    steps as a selection; InfoBatch the epochs whose steps are expected to come nearest to these, all E at keep 1, and
    None where it would hardly leave anything out. Fixed steps: as many for all.
    """
    dynamic = {"rs2": ("--dynamic", "rs2", "--keep", str(keep)), "infobatch": ("--dynamic", "infobatch")}.get(kind, ())
    if grid.steps is not None:
        # An epoch has a step at least, so this evaluates the last one alone.
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
    """The epochs of InfoBatch on so many samples whose expected steps come nearest to `steps`; the fewer of two."""
    epochs = 1
    while expected_steps(config, count, epochs) < steps:
        epochs += 1
    above = expected_steps(config, count, epochs) - steps
    return epochs if epochs == 1 or above < steps - expected_steps(config, count, epochs - 1) else epochs - 1


def expected_steps(config: TrainConfig, count: int, epochs: int) -> int:
    """Steps that so many epochs of InfoBatch are expected to take: a pruned one shows 1 - prune_ratio EASY_SHARE."""
    assert config.prune_ratio is not None
    pruned = pruned_epochs(config, epochs)
    shown = max(1, round(count * (1 - config.prune_ratio * EASY_SHARE)))
    full_steps, pruned_steps = (epoch_batches(config, samples, 1).steps_per_epoch for samples in (count, shown))
    return (epochs - pruned) * full_steps + pruned * pruned_steps


def pruned_epochs(config: TrainConfig, epochs: int) -> int:
    """How many of so many epochs of InfoBatch leave samples out: all but the first and the last ceil(anneal epochs)."""
    assert config.anneal is not None
    return max(0, epochs - 1 - full_epochs(epochs, config.anneal))
