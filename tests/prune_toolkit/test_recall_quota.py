"""Quotas by the teacher's recall: worked by hand, against one seat at a time, and at their ends."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_toolkit.quotas.quotas import QUOTAS, total_count, with_minimum

RECALLS = st.fractions(min_value=0, max_value=1, max_denominator=20)


def counts(sizes: list[int], keep: Fraction, recalls: list[Fraction]) -> list[int]:
    found = QUOTAS["recall"](np.array(sizes), keep, recalls)
    assert found is not None
    return found.tolist()


def one_at_a_time(sizes: list[int], keep: Fraction, recalls: list[Fraction]) -> list[int]:
    """Sainte-Lague literally: each seat to the largest w / (2 K + 1) of the classes that are not full."""
    seats, given = total_count(keep, sum(sizes)), [0] * len(sizes)
    weights = [size * (1 - recall) for size, recall in zip(sizes, recalls, strict=True)]
    for _ in range(seats):
        left = [c for c, size in enumerate(sizes) if given[c] < size]
        known = [c for c in left if weights[c] > 0]
        # Of classes that the teacher knows wholly, only once all others are full, and then by their sizes.
        shares = weights if known else sizes
        best = max(known or left, key=lambda c: (Fraction(shares[c]) / (2 * given[c] + 1), -c))
        given[best] += 1
    return given


def test_by_hand() -> None:
    # Weights 100 (1 - .9), 100 (1 - .7), 100 (1 - .6) = 10, 30, 40; 80 of 300 samples.
    recalls = [Fraction(9, 10), Fraction(7, 10), Fraction(6, 10)]
    assert counts([100, 100, 100], Fraction(80, 300), recalls) == [10, 30, 40]
    # 160: 20, 60, 80. 240: 30, 90, 120 is too much for the last; its 20 go to the others as 10 to 30.
    assert counts([100, 100, 100], Fraction(160, 300), recalls) == [20, 60, 80]
    assert counts([100, 100, 100], Fraction(240, 300), recalls) == [40, 100, 100]


def test_a_class_that_the_teacher_knows_comes_last() -> None:
    recalls = [Fraction(1), Fraction(1, 2), Fraction(1)]
    assert counts([10, 10, 20], Fraction(1, 4), recalls) == [0, 10, 0]
    assert counts([10, 10, 20], Fraction(1, 2), recalls) == [3, 10, 7]


@given(st.lists(st.tuples(st.integers(0, 30), RECALLS), min_size=1, max_size=6), st.fractions(0, 1, max_denominator=40))
def test_seats_are_those_of_one_at_a_time(classes: list[tuple[int, Fraction]], keep: Fraction) -> None:
    sizes, recalls = [size for size, _ in classes], [recall for _, recall in classes]
    if not keep or not sum(sizes):
        return
    assert counts(sizes, keep, recalls) == one_at_a_time(sizes, keep, recalls)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.fractions(0, 1, max_denominator=40))
def test_equal_recall_is_proportional(sizes: list[int], keep: Fraction) -> None:
    if not keep:
        return
    proportional = QUOTAS["proportional"](np.array(sizes), keep)
    assert proportional is not None
    assert counts(sizes, keep, [Fraction(1, 3)] * len(sizes)) == proportional.tolist()


def test_a_minimum_is_kept_of_every_class() -> None:
    sizes, recalls = np.array([10, 10, 20]), [Fraction(1), Fraction(1, 2), Fraction(1)]
    without = QUOTAS["recall"](sizes, Fraction(1, 4), recalls)
    assert without is not None
    assert with_minimum("recall", sizes, without, 2, recalls).tolist() == [2, 6, 2]


def test_recall_must_be_known() -> None:
    with pytest.raises(ValueError, match="needs the recall of each class"):
        QUOTAS["recall"](np.array([3, 4]), Fraction(1, 2))
