"""SeTa: groups and windows by hand, k-means against scikit-learn and every partition, and what epochs show."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from manifests.errors import UsageError
from trainer.data.order import epoch_batches, epoch_order
from trainer.data.stored import StoredLabels
from trainer.loop.dynamic import epoch_plan
from trainer.loop.recipes import resolve
from trainer.loop.seta import in_window, loss_groups, window


def config(count=100, **flags):
    stored = StoredLabels(count=count, image_px=32, view_count=1)
    values = {"batch_size": 10, "epochs": 16, "dynamic": "seta", "keep": 0.5} | flags
    return resolve(values, recipe="cifar", stored=stored)


def shown(config, epoch, loss_N, count=100, world_size=1):
    plan = epoch_batches(config, count, world_size)
    return epoch_plan(config, epoch, count=count, plan=plan, steps=10**9, loss_N=loss_N).order_n


def inertia(values, groups):
    values = np.asarray(values, np.float64)
    return sum(((values[groups == k] - values[groups == k].mean()) ** 2).sum() for k in set(groups))


def test_groups_by_hand():
    # Of the values 0, 1, 4, 9 two start as means: 1 and 9. 5 is between them, so 4 goes down: means 5/3 and 9.
    assert loss_groups(np.array([9, 0, 4, 1], np.float32), 2).tolist() == [1, 0, 0, 0]
    # Started at 0, 2, 5: edges 1 and 3.5.
    assert loss_groups(np.array([5, 0, 0, 2], np.float32), 3).tolist() == [2, 0, 0, 1]
    # 0 and 2 start, 1 is as far from both and goes down: mean 2/3 of 0, 1, 1, edge 4/3.
    assert loss_groups(np.array([2, 1, 0, 1], np.float32), 2).tolist() == [1, 0, 0, 0]
    assert loss_groups(np.full(3, 7, np.float32), 4).tolist() == [0, 0, 0]
    assert loss_groups(np.zeros(0, np.float32), 4).tolist() == []


def test_the_window_moves_from_easy_to_hard_and_begins_again_by_hand():
    # ceil(.5 * 5) = 3 of 5 groups: three places.
    assert [window(5, 0.5, epoch) for epoch in range(1, 6)] == [(1, 4), (2, 5), (0, 3), (1, 4), (2, 5)]
    assert [window(4, 1.0, epoch) for epoch in range(3)] == [(0, 4)] * 3
    assert window(3, 1 / 3, 0) == (0, 1)
    assert window(10, 0.001, 12) == (2, 3)


@settings(max_examples=60)
@given(groups=st.integers(1, 30), percent=st.integers(1, 100), epochs=st.integers(1, 70))
def test_windows_have_one_width_and_reach_every_group(groups, percent, epochs):
    found = [window(groups, percent / 100, epoch) for epoch in range(epochs)]
    width = -(-Fraction(percent, 100) * groups // 1)
    assert {end - first for first, end in found} == {width}
    assert all(first >= 0 and end <= groups for first, end in found)
    places = groups - width + 1
    assert [first for first, _ in found] == [epoch % places for epoch in range(epochs)]
    if epochs >= places:
        assert {group for first, end in found for group in range(first, end)} == set(range(groups))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), groups=st.integers(1, 8))
def test_groups_are_those_of_scikit_learn_from_the_same_start(seed, count, groups):
    loss_n = np.random.default_rng(seed).exponential(size=count).astype(np.float32)
    values = np.unique(loss_n.astype(np.float64))
    groups = min(groups, len(values))
    start = np.array([values[int((k + 0.5) / groups * len(values))] for k in range(groups)])
    found_n = loss_groups(loss_n, groups)
    if len({*found_n.tolist()}) < groups:
        return  # scikit-learn fills an empty group again
    oracle = KMeans(groups, init=start[:, None], n_init=1, tol=0).fit(loss_n.astype(np.float64)[:, None])
    np.testing.assert_array_equal(found_n, oracle.labels_)


@settings(max_examples=40)
@given(values=st.lists(st.integers(0, 50), min_size=2, max_size=9), groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_groups_are_intervals_in_which_each_loss_is_nearest_to_its_own_mean(values, groups, seed):
    loss_n = np.array(values, np.float32)
    found_n = loss_groups(loss_n, groups)
    means = [loss_n[found_n == k].mean() for k in sorted(set(found_n))]
    assert means == sorted(means)
    own_n = np.abs(loss_n - np.array([loss_n[found_n == k].mean() for k in found_n]))
    assert (own_n <= np.abs(loss_n[:, None] - np.array(means)).min(axis=1) + 1e-5).all()
    ordered = np.sort(loss_n)
    cuts = combinations(range(1, len(ordered)), min(groups, len(set(values))) - 1)
    parts = (np.searchsorted(np.array(cut), np.arange(len(ordered)), side="right") for cut in cuts)
    assert inertia(loss_n, found_n) >= min(inertia(ordered, part) for part in parts) - 1e-4
    order = np.random.default_rng(seed).permutation(len(loss_n))
    np.testing.assert_array_equal(loss_groups(loss_n[order], groups), found_n[order])


def test_three_clear_groups_are_found():
    generator = np.random.default_rng(0)
    truth_n = generator.integers(0, 3, 500)
    loss_n = (np.array([0.0, 5.0, 20.0])[truth_n] + generator.uniform(0, 1, 500)).astype(np.float32)
    np.testing.assert_array_equal(loss_groups(loss_n, 3), truth_n)


def test_a_sample_without_a_loss_is_shown():
    loss_n = np.array([0, np.nan, 10, 20], np.float32)
    assert in_window(loss_n, 3, 0.3, 1).tolist() == [False, True, True, False]
    assert in_window(np.full(3, np.nan, np.float32), 3, 0.3, 1).all()


def test_an_epoch_shows_those_of_its_draw_that_are_in_the_window_by_brute_force():
    recipe = config(groups=4, window=0.5)
    loss_N = np.array([(7 * row) % 100 // 25 * 10.0 for row in range(100)], np.float32)  # 0, 10, 20, 30
    assert np.array_equal(shown(recipe, 0, None), epoch_order(0, 0, 100)[:50])
    for epoch in range(1, 14):
        easy = [0, 10, 20][epoch % 3]
        want = [row for row in epoch_order(0, epoch, 100)[:50] if loss_N[row] in (easy, easy + 10)]
        assert np.array_equal(shown(recipe, epoch, loss_N), want[: len(want) // 10 * 10])
        assert len(want) < 50
    for epoch in (14, 15):
        assert np.array_equal(shown(recipe, epoch, loss_N), epoch_order(0, epoch, 100)[:50])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_window_with_fewer_samples_than_ranks_shows_all_that_are_drawn(world_size):
    recipe = config(8, keep=1.0, batch_size=8, groups=2, window=0.5)
    loss_N = np.array([0, 0, 0, 0, 0, 0, 0, 9], np.float32)
    rows = shown(recipe, 1, loss_N, 8, world_size)
    assert len(rows) == (1 if world_size == 1 else 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"keep": None}, "--dynamic seta needs --keep"),
        ({"groups": 0}, "--groups must be at least 1, not 0"),
        ({"window": 0.0}, r"--window must be in \(0, 1\], not 0\.0"),
        ({"dynamic": "rs2", "window": 0.5}, "--window is an option of --dynamic seta"),
        ({"epochs": None, "steps": 9}, "--dynamic seta and --steps contradict each other"),
    ],
)
def test_wrong_options_are_refused_with_the_flag(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


def test_it_brings_the_values_of_the_published_code():
    recipe = config()
    assert (recipe.groups, recipe.window, recipe.anneal, recipe.prune_ratio) == (10, 0.5, 0.125, None)
