"""What dynamic arms show: by hand, as properties, and whether dropping samples leaves the gradient unbiased."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from trainer.data.order import epoch_batches, epoch_order, epoch_samples, rank_rows
from trainer.data.stored import StoredLabels
from trainer.loop.dynamic import (
    DYNAMIC,
    DynamicMethod,
    epoch_plan,
    full_epochs,
    infobatch,
    last_positions,
    soft_pruned,
)
from trainer.loop.recipes import resolve


def config(count=100, **flags):
    stored = StoredLabels(count=count, image_px=32, view_count=1)
    return resolve({"batch_size": 10, "epochs": 8} | flags, recipe="cifar", stored=stored)


def planned(config, epoch, count=100, loss_N=None, world_size=1, steps=10**9):
    plan = epoch_batches(config, count, world_size)
    return epoch_plan(config, epoch, count=count, plan=plan, steps=steps, loss_N=loss_N)


class Draws:
    """A generator whose numbers are known."""

    def __init__(self, values):
        self.values = np.array(values)

    def random(self, count):
        assert count == len(self.values)
        return self.values


def test_a_loss_below_the_mean_is_dropped_or_counts_double_by_hand():
    # The mean of the four known losses is 2; the one of 2 is not below it.
    loss_N = np.array([1.0, 2.0, 4.0, 1.0, np.nan], np.float32)
    kept_N, scale_N = soft_pruned(loss_N, 0.5, Draws([0.4, 0.4, 0.4, 0.5, 0.4]))
    assert kept_N.tolist() == [False, True, True, True, True]
    assert scale_N.tolist() == [2, 1, 1, 2, 1]
    _, scale_N = soft_pruned(loss_N, 0.75, Draws([0.9] * 5))
    assert scale_N.tolist() == [4, 1, 1, 4, 1]


def test_without_any_loss_or_with_equal_ones_everything_is_kept():
    for loss_N in (np.full(4, np.nan, np.float32), np.full(4, 3.0, np.float32)):
        kept_N, scale_N = soft_pruned(loss_N, 0.9, Draws([0.0] * 4))
        assert kept_N.all()
        assert (scale_N == 1).all()


@given(seed=st.integers(0, 10**6), count=st.integers(1, 200), ratio=st.floats(0, 0.95))
def test_what_is_at_or_above_the_mean_always_stays_and_counts_once(seed, count, ratio):
    generator = np.random.default_rng(seed)
    loss_N = generator.exponential(size=count).astype(np.float32)
    kept_N, scale_N = soft_pruned(loss_N, ratio, generator)
    is_hard_N = loss_N >= loss_N.mean(dtype=np.float64)
    assert kept_N[is_hard_N].all()
    assert (scale_N[is_hard_N] == 1).all()
    assert np.allclose(scale_N[~is_hard_N], 1 / (1 - ratio))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_the_gradient_of_what_is_kept_is_the_whole_gradient_in_expectation(ratio):
    # Of a linear softmax classifier; one gradient (a vector) a sample. A dropped-or-scaled term g_i has the variance
    # g_i^2 r / (1 - r), and draws are independent over samples and epochs.
    generator = np.random.default_rng(0)
    count, epochs = 300, 2000
    inputs, label = (
        torch.from_numpy(generator.normal(size=(count, 6))),
        torch.from_numpy(generator.integers(0, 4, count)),
    )
    weight = torch.from_numpy(generator.normal(size=(6, 4)))
    logits = inputs @ weight
    loss_N = torch.nn.functional.cross_entropy(logits, label, reduction="none").numpy().astype(np.float32)
    error = logits.softmax(1) - torch.nn.functional.one_hot(label, 4)
    gradient_ND = (inputs[:, :, None] * error[:, None, :]).reshape(count, -1).numpy()
    whole_D = gradient_ND.sum(0)
    sum_D, shown = np.zeros_like(whole_D), 0
    recipe = config(count, dynamic="infobatch", prune_ratio=ratio, anneal=0.0, epochs=epochs)
    for epoch in range(epochs):
        plan = planned(recipe, epoch, count, loss_N)
        assert plan.steps == len(plan.order_n) // 10
        # The incomplete last batch, left out in static runs as well, is no part of this.
        rows = infobatch(recipe, epoch, count, epoch_batches(recipe, count, 1), loss_N).order_n
        sum_D += (plan.scale_N[rows, None] * gradient_ND[rows]).sum(0)
        shown += len(rows)
    is_easy_N = loss_N < loss_N.mean(dtype=np.float64)
    deviation_D = np.sqrt((gradient_ND[is_easy_N] ** 2).sum(0) * ratio / (1 - ratio) / epochs)
    assert (np.abs(sum_D / epochs - whole_D) < 4.5 * deviation_D).all()
    # The bound can fail: without the factor the sum is off by many deviations.
    biased_D = gradient_ND[~is_easy_N].sum(0) + (1 - ratio) * gradient_ND[is_easy_N].sum(0)
    assert (np.abs(biased_D - whole_D) > 4.5 * deviation_D).any()
    expected = count - ratio * is_easy_N.sum()
    assert shown / epochs == pytest.approx(expected, abs=4.5 * np.sqrt(is_easy_N.sum() * ratio * (1 - ratio) / epochs))


def test_infobatch_shows_everything_first_and_last_and_the_kept_ones_in_the_order_of_the_epoch():
    recipe = config(dynamic="infobatch")
    loss_N = np.arange(100, dtype=np.float32)
    assert len(planned(recipe, 0).order_n) == 100
    assert np.array_equal(planned(recipe, 0).order_n, epoch_order(0, 0, 100))
    for epoch in range(1, 7):
        plan = planned(recipe, epoch, loss_N=loss_N)
        kept = epoch_order(0, epoch, 100)
        kept = kept[np.isin(kept, plan.order_n)]
        assert np.array_equal(plan.order_n, kept[: len(plan.order_n)])
        assert 50 < len(plan.order_n) < 100
        assert len(plan.order_n) == 10 * plan.steps
    last = planned(recipe, 7, loss_N=loss_N)
    assert (len(last.order_n), last.scale_N) == (100, None)


def test_another_epoch_or_seed_drops_others_and_the_same_one_the_same():
    loss_N = np.arange(100, dtype=np.float32)
    recipe, other = config(dynamic="infobatch"), config(dynamic="infobatch", seed=1)
    rows = [set(planned(c, e, loss_N=loss_N).order_n) for c, e in ((recipe, 1), (recipe, 1), (recipe, 2), (other, 1))]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert rows[0] != rows[3]


def test_full_epochs_at_the_end_are_those_of_the_published_code():
    # There: epochs whose number, from 1, is above (1 - anneal) times their count.
    for epochs in range(1, 300):
        published = sum(number > Fraction(7, 8) * epochs for number in range(1, epochs + 1))
        assert full_epochs(epochs, 0.125) == published
    assert (full_epochs(30, 0.1), full_epochs(10, 0.0), full_epochs(10, 1.0)) == (3, 0, 10)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_epoch_of_few_samples_still_has_a_step_on_every_rank(world_size):
    loss_N = np.zeros(8, np.float32)
    loss_N[0] = 100
    recipe = config(8, dynamic="infobatch", batch_size=8, prune_ratio=0.9, epochs=40)
    for epoch in range(1, 30):
        plan = planned(recipe, epoch, 8, loss_N, world_size)
        rows = [
            rank_rows(plan.order_n, batch_size=plan.batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert plan.steps == 1
        assert {len(part) for part in rows} == {plan.batch_size // world_size}
        assert len(set(np.concatenate(rows))) == plan.batch_size


def test_an_epoch_of_rs2_shows_the_next_slice_of_endless_permutations_by_hand():
    recipe = config(10, dynamic="rs2", keep=0.4, batch_size=2)
    stream = np.concatenate([epoch_order(0, k, 10) for k in range(3)])
    for epoch in range(6):
        assert np.array_equal(planned(recipe, epoch, 10).order_n, stream[4 * epoch : 4 * epoch + 4])


@settings(max_examples=40)
@given(
    count=st.integers(1, 60),
    keep=st.integers(1, 100).map(lambda percent: percent / 100),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 30),
)
def test_rs2_shows_all_samples_equally_often(count, keep, batch_size, epochs):
    recipe = config(count, dynamic="rs2", keep=keep, batch_size=batch_size, epochs=epochs)
    plans = [planned(recipe, epoch, count) for epoch in range(epochs)]
    want = epoch_batches(recipe, count, 1)
    assert {(plan.steps, plan.batch_size) for plan in plans} == {(want.steps_per_epoch, want.batch_size)}
    shown = np.bincount(np.concatenate([plan.order_n for plan in plans]), minlength=count)
    assert shown.max() - shown.min() <= 1


def test_rs2_of_everything_is_the_order_of_a_static_run():
    for epoch in range(4):
        static = planned(config(), epoch)
        dynamic = planned(config(dynamic="rs2", keep=1.0), epoch)
        assert np.array_equal(static.order_n, dynamic.order_n)
        assert np.array_equal(static.order_n, epoch_order(0, epoch, 100))
        assert static.scale_N is None


def test_a_cut_epoch_has_its_first_batches():
    for flags in ({}, {"dynamic": "rs2", "keep": 0.5}):
        whole, cut = planned(config(**flags), 1), planned(config(**flags), 1, steps=3)
        assert (cut.steps, cut.steps_per_epoch) == (3, whole.steps)
        assert np.array_equal(cut.order_n, whole.order_n[:30])


def test_the_samples_of_an_epoch_are_counted_exactly():
    assert [epoch_samples(50, 0.29), epoch_samples(100, 0.29), epoch_samples(3, 1 / 6)] == [15, 29, 1]
    assert [epoch_samples(7, None), epoch_samples(7, 1.0), epoch_samples(7, 1e-9)] == [7, 7, 1]
    assert (
        epoch_batches(config(1281167, dynamic="rs2", keep=0.3, batch_size=256), 1281167, 1).steps_per_epoch
        == 384350 // 256
    )


def test_a_budget_of_steps_counts_the_epochs_of_rs2():
    recipe = config(dynamic="rs2", keep=0.3, epochs=None, steps=25)
    assert (epoch_batches(recipe, 100, 1).steps_per_epoch, recipe.epochs) == (3, 9)
    assert recipe.milestones == pytest.approx([25 / 3 * share for share in (150 / 240, 180 / 240, 210 / 240)])


def test_the_last_of_equal_rows_is_the_one_that_counts():
    row_n = np.array([5, 2, 5, 9, 2])
    assert row_n[last_positions(row_n)].tolist() == [2, 5, 9]
    assert last_positions(row_n).tolist() == [4, 2, 3]
    assert last_positions(np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dynamic": "forget"}, "--dynamic forget is not known"),
        ({"dynamic": "rs2"}, "--dynamic rs2 needs --keep"),
        ({"keep": 0.5}, "--keep is an option of --dynamic rs2"),
        ({"dynamic": "infobatch", "keep": 0.5}, "--keep is an option of --dynamic rs2"),
        ({"dynamic": "rs2", "keep": 0.5, "anneal": 0.1}, "--anneal is an option of --dynamic infobatch"),
        ({"prune_ratio": 0.5}, "--prune-ratio is an option of --dynamic infobatch"),
        ({"dynamic": "rs2", "keep": 0.0}, r"--keep must be in \(0, 1\], not 0\.0"),
        ({"dynamic": "rs2", "keep": float("nan")}, r"--keep must be in \(0, 1\], not nan"),
        ({"dynamic": "rs2", "keep": 1.5, "epochs": None, "steps": 9}, r"--keep must be in \(0, 1\], not 1\.5"),
        ({"dynamic": "infobatch", "prune_ratio": 1.0}, r"--prune-ratio must be in \[0, 1\), not 1\.0"),
        ({"dynamic": "infobatch", "anneal": -0.1}, r"--anneal must be in \[0, 1\], not -0\.1"),
        ({"dynamic": "infobatch", "epochs": None, "steps": 9}, "--dynamic infobatch and --steps contradict each other"),
        ({"dynamic": "infobatch", "match_s": 9.0}, "--dynamic infobatch and --match-time contradict each other"),
        (
            {"dynamic": "infobatch", "match_s": 9.0, "epochs": None, "steps": 9},
            "--dynamic infobatch and --match-time contradict each other",
        ),
        ({"record_grand": -1}, "--record-grand must be 0 or more, not -1"),
    ],
)
def test_options_that_contradict_each_other_are_refused_with_the_flag(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


def test_an_arm_with_an_option_that_no_configuration_has_is_refused_when_it_is_added():
    arm = DynamicMethod(rows_of=infobatch, formula="", source="", options={"speed": 1.0})
    with pytest.raises(ValueError, match="dynamic arm 'fast' has an option 'speed'; known: keep, prune_ratio"):
        DYNAMIC.add("fast", arm)
    assert "fast" not in DYNAMIC


def test_two_arms_may_have_an_option_of_one_name(monkeypatch):
    arm = DynamicMethod(rows_of=DYNAMIC["rs2"].rows_of, formula="", source="", options={"keep": 0.25})
    monkeypatch.setitem(DYNAMIC._entries, "quarter", arm)
    assert config(dynamic="quarter").keep == 0.25
    assert config(dynamic="rs2", keep=0.5).keep == 0.5
    with pytest.raises(UsageError, match="--keep is an option of --dynamic rs2 or seta or quarter"):
        config(keep=0.5)
    with pytest.raises(UsageError, match="--dynamic rs2 needs --keep"):
        config(dynamic="rs2")


def test_an_arm_brings_its_published_values_and_gradient_norms_bring_the_record():
    recipe = config(dynamic="infobatch")
    assert (recipe.prune_ratio, recipe.anneal, recipe.keep) == (0.5, 0.125, None)
    assert config(dynamic="infobatch", prune_ratio=0.3).prune_ratio == 0.3
    assert (config().dynamic, config().prune_ratio, config().record_dynamics) == (None, None, False)
    assert config(record_grand=2).record_dynamics
    for arm in DYNAMIC.values():
        assert arm.formula
        assert arm.source
