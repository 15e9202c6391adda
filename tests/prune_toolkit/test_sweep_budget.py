"""How long the arms of a sweep are, by hand and against what training would do."""

import numpy as np
import pytest

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.quotas.quotas import total_count
from prune_toolkit.sweep.flags import train_options
from prune_toolkit.sweep.grid import Grid, Kind
from prune_toolkit.sweep.run_lengths import EASY_SHARE, budget_flags, expected_steps, matching_epochs, pruned_epochs
from trainer.config import TrainConfig
from trainer.data.order import epoch_batches
from trainer.data.stored import StoredLabels
from trainer.loop.dynamic import epoch_plan
from trainer.loop.recipes import resolve

BATCH = 64


def config_of(count: int, *flags: str) -> TrainConfig:
    stored = StoredLabels(count=count, image_px=32, view_count=1, policy="single")
    return resolve({"batch_size": BATCH, "schedule": "cosine"} | train_options(flags), recipe="cifar", stored=stored)


def budget(kind: Kind, keep: str, count: int, *flags: str, epochs: int = 16) -> tuple[str, ...] | None:
    kept = Keep.parse(keep)
    return budget_flags(
        Grid(keeps=(kept,), epochs=epochs),
        kind,
        kept,
        count=count,
        selected=total_count(kept.fraction, count),
        configure=lambda further: config_of(count, *flags, *further),
    )


def test_fewer_epochs_of_all_the_data_take_exactly_the_steps_of_a_selection() -> None:
    # 4,000 samples are 62 whole batches an epoch; .1 and .3 of 16 times 62 would be 99 and 298 steps.
    assert budget("fewer", "0.1", 4000) == ("--steps", str(16 * 6), "--eval-every", str(16 * 6))
    assert budget("fewer", "0.3", 4000) == ("--steps", str(16 * 18), "--eval-every", str(16 * 18))
    for keep, count in (("0.1", 400), ("0.3", 1200)):
        static = config_of(count, *(budget("static", keep, count) or ()))
        fewer = config_of(4000, *(budget("fewer", keep, 4000) or ()))
        steps = static.total_steps(epoch_batches(static, count, 1).steps_per_epoch)
        assert fewer.total_steps(epoch_batches(fewer, 4000, 1).steps_per_epoch) == steps


def infobatch(epochs: int) -> tuple[str, ...]:
    return ("--dynamic", "infobatch", "--epochs", str(epochs), "--eval-every", str(epochs))


def test_epochs_of_infobatch_by_hand() -> None:
    # 10,000 samples: 156 steps in a full epoch, 105 in one that shows 1 - .5 * .65 of them.
    # .3: 16 * 46 = 736 steps; 6 epochs, 2 of them full, are 312 + 420 = 732, 5 are 627.
    assert budget("infobatch", "0.3", 10_000) == infobatch(6)
    # .7: 16 * 109 = 1,744; 15 epochs, 3 of them full, are 468 + 1,260 = 1,728, 16 are 1,833.
    assert budget("infobatch", "0.7", 10_000) == infobatch(15)
    assert budget("infobatch", "1", 10_000) == infobatch(16)
    # .1: 16 * 15 = 240; 2 epochs, both full, come nearest.
    assert budget("infobatch", "0.1", 10_000) is None


def test_infobatch_follows_its_own_flags() -> None:
    flags = ("--prune-ratio", "0.25", "--anneal", "0.5")
    # 130 steps in a pruned epoch; 12 epochs, 1 + 6 of them full, are 1,092 + 650 = 1,742 of 1,744 steps.
    assert budget("infobatch", "0.7", 10_000, *flags) == infobatch(12)
    # 5 epochs, 1 + 3 of them full, come nearest to 736: one is pruned.
    assert budget("infobatch", "0.3", 10_000, *flags) is None
    assert budget("infobatch", "1", 10_000, "--anneal", "1") is None


def test_epochs_of_seta_by_hand() -> None:
    # .3: 3,000 samples are drawn, 46 steps in a full epoch, 23 in one of 5 of 10 groups; 16 * 46 = 736 steps.
    # 28 epochs, 1 + 4 of them full, are 230 + 23 * 23 = 759; 27 are 736.
    flags = ("--dynamic", "seta", "--keep", "0.3", "--epochs", "27", "--eval-every", "27")
    assert budget("seta", "0.3", 10_000) == flags
    # 41 steps in an epoch of 9 of 10 groups: 18 epochs, 1 + 3 of them full, are 184 + 574 = 758; 17 are 717.
    assert budget("seta", "0.3", 10_000, "--window", "0.9") == (*flags[:4], "--epochs", "17", "--eval-every", "17")


def test_of_equally_near_numbers_of_epochs_the_smaller_is_taken() -> None:
    config = config_of(6400, "--dynamic", "infobatch", "--prune-ratio", "0", "--epochs", "9")
    # 100 steps an epoch, whatever is pruned.
    assert [matching_epochs(config, 6400, steps) for steps in (1, 149, 150, 151, 250, 300)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("epochs", [1, 2, 4, 9, 16])
def test_expected_steps_are_those_of_training_with_so_many_samples_below_the_mean(epochs: int) -> None:
    count = 10_000
    config = config_of(count, "--dynamic", "infobatch", "--epochs", str(epochs))
    loss_N = np.where(np.arange(count) < EASY_SHARE * count, 0.0, 1.0).astype(np.float32)
    plan = epoch_batches(config, count, 1)
    epochs_taken = [
        epoch_plan(config, k, count=count, plan=plan, steps=10_000, loss_N=None if k == 0 else loss_N)
        for k in range(epochs)
    ]
    assert sum(len(taken.order_n) < count // BATCH * BATCH for taken in epochs_taken) == pruned_epochs(config, epochs)
    # A random share is dropped: half of 6,500 samples, give or take 40 or two thirds of a step.
    taken = sum(taken.steps for taken in epochs_taken)
    assert abs(taken - expected_steps(config, count, epochs)) <= pruned_epochs(config, epochs)
