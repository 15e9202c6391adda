"""--per-class-min: no class is emptied, and the total stays what it was."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, kept, pool_of

from manifests.errors import UsageError
from prune_toolkit.quotas.quotas import QUOTAS, with_minimum
from prune_toolkit.selection.selectors import choose


def test_what_a_small_class_gets_the_others_share_by_the_quota() -> None:
    # 10 of 90, 9 and 1: Sainte-Lague gives 9, 1, 0. With one for the last, 9 seats of 90 and 9: quotients 90, 30, 18,
    # 12.9, 10, then 9 of the second class, 8.2, 6.9, 6: 8 and 1.
    sizes = np.array([90, 9, 1])
    counts = QUOTAS["proportional"](sizes, Fraction(1, 10))
    assert counts is not None
    assert counts.tolist() == [9, 1, 0]
    assert with_minimum("proportional", sizes, counts, 1).tolist() == [8, 1, 1]
    # At least 3: the two small ones get 3 and all of 1, the large one the rest.
    assert with_minimum("proportional", sizes, counts, 3).tolist() == [6, 3, 1]


def test_a_minimum_that_holds_already_changes_nothing() -> None:
    sizes = np.array([10, 20, 30])
    for quota in ("proportional", "equal", "published"):
        counts = QUOTAS[quota](sizes, HALF)
        assert counts is not None
        assert with_minimum(quota, sizes, counts, int(counts.min())).tolist() == counts.tolist()


def seats_above_minimum(sizes: list[int], least: list[int], total: int) -> list[int]:
    """Sainte-Lague with a floor, seat by seat: classes below their floor come first, then the largest quotient."""
    counts = [0] * len(sizes)
    for _ in range(total):
        short = [c for c in range(len(sizes)) if counts[c] < least[c]]
        free = short or [c for c in range(len(sizes)) if counts[c] < sizes[c]]
        best = max(free, key=lambda c: (Fraction(sizes[c], 2 * counts[c] + 1), -c))
        counts[best] += 1
    return counts


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    keep=st.fractions(HALF / 5, 1, max_denominator=40),
    least=st.integers(0, 6),
)
def test_proportional_with_a_minimum_is_sainte_lague_with_a_floor(sizes: list[int], keep: Fraction, least: int) -> None:
    counts = QUOTAS["proportional"](np.array(sizes), keep) if sum(sizes) else None
    if counts is None or sum(min(size, least) for size in sizes) > counts.sum():
        return
    got = with_minimum("proportional", np.array(sizes), counts, least).tolist()
    expected = seats_above_minimum(sizes, [min(size, least) for size in sizes], int(counts.sum()))
    assert got == expected


def test_without_a_quota_classes_that_fall_short_are_ranked_on_their_own() -> None:
    # The four hardest are all of class 0. With one of class 1, its hardest, and the three hardest of the rest.
    pool = pool_of([0] * 6 + [1] * 3, [10, 11, 12, 13, 14, 15, 0, 2, 1])
    hardest = {"position": "1"}
    options = {"keep": Fraction(4, 9), "quota": "none", "parameters": hardest}
    assert kept(choose("window", pool, **options)) == [2, 3, 4, 5]
    assert kept(choose("window", pool, **options, per_class_min=1)) == [3, 4, 5, 7]
    assert kept(choose("window", pool, **options, per_class_min=2)) == [4, 5, 7, 8]


def test_it_is_repeated_until_every_class_has_its_minimum() -> None:
    # The four hardest are three of class 0 and one of class 1. With one of class 2 on its own, the three hardest of the
    # rest are all of class 0: so class 1 is on its own as well, and two of class 0 are left.
    pool = pool_of([0, 0, 0, 1, 1, 2, 2], [9, 8, 7, 6, 3, 5, 4])
    hardest = {"position": "1"}
    options = {"keep": Fraction(4, 7), "quota": "none", "parameters": hardest}
    assert kept(choose("window", pool, **options)) == [0, 1, 2, 3]
    assert kept(choose("window", pool, **options, per_class_min=1)) == [0, 1, 3, 5]


def test_more_than_there_is_to_keep_is_refused_with_both_numbers() -> None:
    pool = pool_of([0] * 8 + [1] * 2, list(range(10)))
    with pytest.raises(UsageError, match=r"--per-class-min 3 requires 5 samples in 2 classes, but keep 2/5 .* is 4"):
        choose("random", pool, keep=Fraction(2, 5), per_class_min=3)
    with pytest.raises(UsageError, match="--per-class-min 2"):
        choose("random", pool, keep=Fraction(1, 5), quota="published", per_class_min=2)
