"""The Beta draw: weights worked by hand, its two ends (random, a window), exact counts, and what it draws."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare
from selection_support import (
    ALL_QUOTAS,
    HALF,
    KEEPS,
    expected_count,
    hashes,
    kept,
    pool_of,
    pools,
    reasons,
    selects_nothing,
    take,
)

from manifests.errors import UsageError
from prune_toolkit.selection.beta_weights import draw_order, log_weights, percentiles
from prune_toolkit.selection.selectors import choose, make_groups


def test_percentiles_are_ranks_within_the_class_from_easy_to_hard() -> None:
    pool = pool_of([0, 0, 1, 0, 0, 1], [0.3, 0.1, 5.0, 0.4, 0.2, 4.0])
    found_N = percentiles(pool, make_groups(pool, "proportional", HALF))
    assert found_N.tolist() == [0.625, 0.125, 0.75, 0.875, 0.375, 0.25]
    low = percentiles(replace(pool, harder="low"), make_groups(pool, "proportional", HALF))
    assert low.tolist() == [0.375, 0.875, 0.25, 0.125, 0.625, 0.75]


def test_weights_by_hand() -> None:
    # mu 1/2, tau 2: sqrt(s)^2 sqrt(1 - s)^2 = s (1 - s): 3/16, 1/4 and 3/16 at 1/4, 1/2 and 3/4.
    s = np.array([0.25, 0.5, 0.75])
    assert np.exp(log_weights(s, 0.5, 2.0)) == pytest.approx([3 / 16, 1 / 4, 3 / 16])
    # mu 0, tau 3: (1 - s)^3.
    assert np.exp(log_weights(s, 0.0, 3.0)) == pytest.approx([27 / 64, 1 / 8, 1 / 64])
    assert log_weights(s, 0.3, 0.0).tolist() == [0, 0, 0]


@given(st.floats(0, 1), st.floats(0, 50))
def test_weights_are_those_of_the_beta_distribution(mode: float, sharpness: float) -> None:
    s = np.linspace(0.05, 0.95, 7)
    published = beta_distribution.logpdf(s, 1 + sharpness * mode, 1 + sharpness * (1 - mode))
    ours = log_weights(s, mode, sharpness)
    assert ours - ours[0] == pytest.approx(published - published[0], abs=1e-6)


@given(pools(), KEEPS, st.sampled_from(ALL_QUOTAS), st.integers(0, 3))
@settings(deadline=None)
def test_sharpness_0_draws_what_random_draws(pool, keep: Fraction, quota: str, seed: int) -> None:
    if selects_nothing(pool, quota, keep):
        return
    arguments = {"keep": keep, "quota": quota, "seed": seed}
    flat = choose("beta", pool, parameters={"mode": "0.7", "sharpness": "0"}, **arguments)
    assert kept(flat) == kept(choose("random", pool, **arguments))


def test_a_flat_draw_is_uniform() -> None:
    pool, times_N = pool_of([0] * 20, list(range(20))), np.zeros(20)
    for seed in range(600):
        times_N += choose(
            "beta", pool, keep=Fraction(1, 4), seed=seed, parameters={"mode": "1", "sharpness": "0"}
        ).keep_N
    assert chisquare(times_N).pvalue > 0.01


def test_first_draws_have_the_probability_of_their_weight() -> None:
    pool, first_N = pool_of([0] * 8, list(range(8))), np.zeros(8)
    weight_N = np.exp(log_weights(percentiles(pool, make_groups(pool, "none", HALF)), 0.25, 4.0))
    for seed in range(2000):
        choice = choose("beta", pool, keep=Fraction(1, 8), seed=seed, parameters={"mode": "0.25", "sharpness": "4"})
        first_N += choice.keep_N
    assert chisquare(first_N, 2000 * weight_N / weight_N.sum()).pvalue > 0.01


def test_the_order_is_that_of_draws_without_replacement() -> None:
    """Of two samples of weights 1 and 3, the heavier comes first in three of four draws."""
    pool = pool_of([0, 0], [0.0, 1.0])
    log_weight = np.log([1.0, 3.0])
    heavier = sum(int(np.argmin(draw_order(pool, log_weight, seed)) == 1) for seed in range(2000))
    assert heavier == pytest.approx(1500, abs=5 * math.sqrt(2000 * 3 / 16))


@given(pools(), KEEPS, st.sampled_from(["proportional", "equal", "none"]), st.sampled_from(["0", "1/2", "1"]))
@settings(deadline=None)
def test_a_large_sharpness_is_a_window(pool, keep: Fraction, quota: str, mode: str) -> None:
    if selects_nothing(pool, quota, keep):
        return
    # Where an odd number of samples is left over, the middle window may start at either of two ranks.
    groups = make_groups(pool, quota, keep)
    if mode == "1/2" and ((groups.size_G - groups.keep_G) % 2).any():
        return
    arguments = {"keep": keep, "quota": quota}
    sharp = choose("beta", pool, parameters={"mode": mode, "sharpness": "1000000"}, **arguments)
    assert kept(sharp) == kept(choose("window", pool, parameters={"position": mode}, **arguments))


@given(pools(), KEEPS, st.sampled_from(ALL_QUOTAS), st.integers(0, 3))
@settings(deadline=None)
def test_counts_are_exact_and_rows_may_come_in_any_order(pool, keep: Fraction, quota: str, seed: int) -> None:
    if selects_nothing(pool, quota, keep):
        return
    arguments = {"keep": keep, "quota": quota, "seed": seed, "parameters": {"mode": "0.4", "sharpness": "8"}}
    choice = choose("beta", pool, **arguments)
    counts = expected_count(pool, quota, keep)
    if counts is not None:
        assert np.bincount(pool.label_N[choice.keep_N], minlength=pool.class_count).tolist() == counts.tolist()
    row_N = np.random.default_rng(seed).permutation(len(pool.label_N))
    assert choose("beta", take(pool, row_N), **arguments).keep_N.tolist() == choice.keep_N[row_N].tolist()


def test_a_large_pool_is_drawn_by_the_density() -> None:
    count = 20_000
    pool = replace(pool_of([0] * count, np.arange(count).tolist()), content_hash_N16=hashes(count))
    choice = choose("beta", pool, keep=Fraction(1, 100), parameters={"mode": "0.2", "sharpness": "20"})
    drawn_n = (np.flatnonzero(choice.keep_N) + 0.5) / count
    published = beta_distribution(5, 17)
    assert drawn_n.mean() == pytest.approx(published.mean(), abs=5 * published.std() / math.sqrt(len(drawn_n)))
    assert set(reasons(choice)) == {"kept", "not drawn"}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("mode", "1.5", "between 0 and 1, or auto"),
        ("mode", "middle", "between 0 and 1, or auto"),
        ("sharpness", "-1", "between 0 and 1,000,000, or auto"),
        ("sharpness", "nan", "between 0 and 1,000,000, or auto"),
        ("sharpness", "sharp", "between 0 and 1,000,000, or auto"),
    ],
)
def test_wrong_values_are_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        choose("beta", pool_of([0, 0], [0, 1]), keep=HALF, parameters={name: text})
