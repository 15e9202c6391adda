"""k-center: no sample of a class is far from the nearest kept one."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from selection_support import HALF, hashes, kept, pool_of, pools, reasons, with_features
from sklearn.datasets import load_digits

from manifests.errors import UsageError
from prune_toolkit.selection.pool import Pool
from prune_toolkit.selection.selectors import choose
from prune_toolkit.selection.selectors import k_center as module

X = np.array([0.0, 1.0, 2.0, 10.0, 6.0])


def traversed(values: np.ndarray, count: int) -> list[int]:
    """Farthest-first traversal by its definition, with all distances made by scipy."""
    distance_nn = cdist(values, values)
    taken = [int(np.argmin(cdist(values, values.mean(axis=0, keepdims=True))[:, 0]))]
    while len(taken) < count:
        left = [row for row in range(len(values)) if row not in taken]
        taken.append(max(left, key=lambda row: (min(distance_nn[row, centre] for centre in taken), -row)))
    return taken


def radius(values: np.ndarray, chosen: list[int]) -> float:
    return float(cdist(values, values[chosen]).min(axis=1).max())


def test_k_center_takes_the_farthest_from_what_it_has() -> None:
    # The mean is 3.8: 2 is nearest. Then 10 (off by 8), then 6 (4 from both), then 0 (2 from 2), last 1.
    assert module.farthest_first(X[:, None], 5).tolist() == [2, 3, 4, 0, 1]
    choice = choose("k_center", with_features(pool_of([0] * 5, [0] * 5), X), keep=Fraction(3, 5))
    assert reasons(choice) == ["not chosen", "not chosen", "kept", "kept", "kept"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), width=st.integers(1, 4))
@pytest.mark.parametrize("gram_rows", [0, 4096])
def test_k_center_is_its_definition(gram_rows: int, seed: int, count: int, width: int) -> None:
    values = np.random.default_rng(seed).normal(size=(12, width)).astype(np.float16).astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GRAM_ROWS", gram_rows)
        assert module.farthest_first(values, count).tolist() == traversed(values, count)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_the_radius_is_at_most_twice_the_best_of_all_subsets(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float16).astype(np.float64)
    best = min(radius(values, list(rows)) for rows in combinations(range(9), count))
    assert radius(values, module.farthest_first(values, count).tolist()) <= 2 * best + 1e-9


@settings(max_examples=40, deadline=None)
@given(pool=pools(), keeps=st.tuples(st.fractions(HALF, 1), st.fractions(HALF, 1)))
def test_a_larger_keep_contains_the_smaller(pool: Pool, keeps: tuple[Fraction, Fraction]) -> None:
    fewer, more = (choose("k_center", pool, keep=keep).keep_N for keep in sorted(keeps))
    assert not (fewer & ~more).any()


def test_ties_go_to_the_smaller_content_hash_then_to_the_earlier_key() -> None:
    # Both ends are as far from the middle; then all that is left are copies, at distance 0.
    pool = with_features(pool_of([0] * 5, [0] * 5), [0, 4, -4, 0, 0])
    order = [[9], [2], [1], [5], [5]]
    pool = replace(pool, content_hash_N16=np.array([row + [0] * 15 for row in order], np.uint8))
    found = [set(kept(choose("k_center", pool, keep=Fraction(count, 5)))) for count in range(1, 6)]
    # 3 and 4 have the smallest hash of the three in the middle.
    assert found == [{3}, {2, 3}, {1, 2, 3}, {1, 2, 3, 4}, {0, 1, 2, 3, 4}]


def test_each_digit_is_covered_on_its_own_and_better_than_by_chance() -> None:
    images, labels = load_digits(return_X_y=True)
    pool = with_features(pool_of(labels.tolist(), [0] * len(labels)), images)
    chosen = choose("k_center", pool, keep=Fraction(1, 10)).keep_N
    drawn = choose("random", pool, keep=Fraction(1, 10)).keep_N
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        values = images[rows]
        centres = np.flatnonzero(chosen[rows]).tolist()
        by_hash = np.array(sorted(range(len(rows)), key=lambda i: pool.content_hash_N16[rows[i]].tobytes()))
        assert sorted(by_hash[traversed(values[by_hash], len(centres))].tolist()) == centres
        assert radius(values, centres) < radius(values, np.flatnonzero(drawn[rows]).tolist())


def test_k_center_needs_features() -> None:
    with pytest.raises(UsageError, match="prune score --features"):
        choose("k_center", pool_of([0] * 4, [0] * 4), keep=HALF)
    assert kept(choose("k_center", with_features(pool_of([0] * 2, [0] * 2), hashes(2)[:, :1]), keep=Fraction(1))) == [
        0,
        1,
    ]
