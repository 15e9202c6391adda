"""--distill-fraction: which of the kept samples learn from the teacher, and which from their label alone."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, pool_of, pools

from manifests.errors import InputError, UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.quotas.quotas import QUOTAS, total_count
from prune_toolkit.selection.choose_samples import distilled
from prune_toolkit.selection.pool import Pool, ScoreColumn


def test_the_easy_end_of_each_class_is_distilled() -> None:
    pool = pool_of([0, 0, 0, 0, 1, 1], [0] * 6)
    values = np.array([4.0, 1.0, 3.0, 2.0, 9.0, 5.0])
    # Half of 4 and half of 2: the two and the one that are easiest.
    high = distilled(pool, ScoreColumn(value_N=values, harder="high"), HALF, 0)
    assert high.tolist() == [False, True, False, True, False, True]
    # Of a score whose low end is harder, such as the margin, the largest.
    low = distilled(pool, ScoreColumn(value_N=values, harder="low"), HALF, 0)
    assert low.tolist() == [True, False, True, False, True, False]


def test_classes_share_the_number_by_sainte_lague() -> None:
    # 3 of 7, classes of 4, 2 and 1: quotients 4, 2, 4/3, then 1: two of the first class and one of the second.
    pool = pool_of([0, 0, 0, 0, 1, 1, 2], [0] * 7)
    chosen = distilled(pool, ScoreColumn(value_N=np.arange(7.0)), Fraction(3, 7), 0)
    assert np.flatnonzero(chosen).tolist() == [0, 1, 4]


@settings(max_examples=60, deadline=None)
@given(pool=pools(), fraction=st.fractions(HALF / 5, 1, max_denominator=30), seed=st.integers(0, 9))
def test_the_count_is_exact_and_row_order_does_not_matter(pool: Pool, fraction: Fraction, seed: int) -> None:
    if not total_count(fraction, len(pool.label_N)):
        return
    assert pool.score_N is not None
    order = np.random.default_rng(seed).permutation(len(pool.label_N))
    for column in (None, ScoreColumn(value_N=pool.score_N, harder=pool.harder)):
        chosen = distilled(pool, column, fraction, seed)
        expected = QUOTAS["proportional"](np.bincount(pool.label_N, minlength=pool.class_count), fraction)
        np.testing.assert_array_equal(np.bincount(pool.label_N[chosen], minlength=pool.class_count), expected)
        turned = None if column is None else replace(column, value_N=column.value_N[order])
        np.testing.assert_array_equal(distilled(pool.take(order), turned, fraction, seed), chosen[order])


def test_random_draws_are_apart_from_those_of_random_selection() -> None:
    pool = pool_of([0] * 1000, [0] * 1000)
    chosen = distilled(pool, None, HALF, 0)
    smallest = np.argsort(mix64(0, *hash_words(pool.content_hash_N16)))[:500]
    # 250 of the 500 that random selection takes first, with a deviation of 11.
    assert abs(int(chosen[smallest].sum()) - 250) < 60
    assert (distilled(pool, None, HALF, 1) != chosen).any()


def test_nothing_to_distill_and_a_score_that_is_nan_are_errors() -> None:
    pool = pool_of([0] * 4, [0] * 4)
    with pytest.raises(UsageError, match="1/10 of 4 kept samples leaves no samples"):
        distilled(pool, None, Fraction(1, 10), 0)
    with pytest.raises(InputError, match="score of sample 2 is nan"):
        distilled(pool, ScoreColumn(value_N=np.array([0, 1, np.nan, 3])), HALF, 0)
