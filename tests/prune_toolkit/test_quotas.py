from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.quotas.quotas import QUOTAS, total_count

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)
KEEPS = st.fractions(min_value=Fraction(1, 200), max_value=1, max_denominator=200)
EXACT = ["proportional", "equal"]


def counts_of(quota: str, sizes: list[int], keep: Fraction | str) -> list[int]:
    counts = QUOTAS[quota](np.array(sizes), keep if isinstance(keep, Fraction) else Keep.parse(keep).fraction)
    assert counts is not None
    assert counts.dtype == np.int64
    return [int(count) for count in counts]


def seats_one_at_a_time(sizes: list[int], seats: int) -> list[int]:
    """Sainte-Lague as the statute says it: every seat to the highest quotient of a class that is not full."""
    counts = [0] * len(sizes)
    for _ in range(seats):
        best = max(
            (c for c in range(len(sizes)) if counts[c] < sizes[c]),
            key=lambda c: (Fraction(sizes[c], 2 * counts[c] + 1), -c),
        )
        counts[best] += 1
    return counts


def water_one_at_a_time(sizes: list[int], seats: int) -> list[int]:
    """Every seat to the emptiest class that is not full, the first among equals."""
    counts = [0] * len(sizes)
    for _ in range(seats):
        open_classes = [c for c in range(len(sizes)) if counts[c] < sizes[c]]
        counts[min(open_classes, key=lambda c: (counts[c], c))] += 1
    return counts


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1/3", Fraction(1, 3)),
        ("50%", Fraction(1, 2)),
        (" 12.5 % ", Fraction(1, 8)),
        ("1", Fraction(1)),
        ("1.", Fraction(1)),
        ("100%", Fraction(1)),
        ("5e-2", Fraction(1, 20)),
        ("0.29", Fraction(29, 100)),
    ],
)
def test_keep_is_the_exact_value_of_its_text(text: str, keep: Fraction) -> None:
    assert Keep.parse(text).fraction == keep
    assert str(Keep.parse(text)) == text


def test_keeps_are_ordered_and_told_apart_by_their_value() -> None:
    texts = ["50%", "1/3", "0.9", "0.5"]
    assert [str(keep) for keep in sorted(map(Keep.parse, texts))] == ["1/3", "50%", "0.5", "0.9"]
    assert len(set(map(Keep.parse, texts))) == 3


@pytest.mark.parametrize(
    "text", ["0", "0.0", "1.01", "101%", "-0.5", "1/0", "nan", "inf", "half", "", "1e-999999999", "0,5", "1_0%", "٣%"]
)
def test_a_keep_outside_its_range_is_a_usage_error_that_says_the_range(text: str) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        Keep.parse(text)


def test_keep_029_of_100_is_29_and_not_28() -> None:
    assert int(0.29 * 100) == 28
    assert total_count(Keep.parse("0.29").fraction, 100) == 29


@pytest.mark.parametrize(("keep", "samples", "total"), [("0.5", 3, 2), ("0.1", 4, 0), ("0.1", 5, 1), ("1/3", 10, 3)])
def test_a_half_sample_is_rounded_up(keep: str, samples: int, total: int) -> None:
    assert total_count(Keep.parse(keep).fraction, samples) == total


def test_proportional_seats_worked_by_hand() -> None:
    # 5 of 10. Quotients n, n/3, n/5: 6, 2, 1.2 | 3, 1 | 1 -> 6, 3, 2, 1.2 and then 1 = 1: the lower class.
    assert counts_of("proportional", [6, 3, 1], "0.5") == [3, 2, 0]
    assert counts_of("proportional", [6, 1, 3], "0.5") == [3, 1, 1]


def test_equal_levels_worked_by_hand() -> None:
    # 8 of 16: the class of 1 is full, 7 are left for two classes: 3 each and one more for the first.
    assert counts_of("equal", [1, 10, 5], "0.5") == [1, 4, 3]
    assert counts_of("equal", [5, 0, 1, 10], "0.5") == [4, 0, 1, 3]


def test_published_counts_worked_by_hand() -> None:
    # floor(16 / 3 * 1/2) = 2 a class, the class of 1 whole: 5 in place of 8.
    assert counts_of("published", [1, 10, 5], "0.5") == [1, 2, 2]


def test_published_floors_the_exact_product() -> None:
    assert int(100 * 0.29) == 28
    assert counts_of("published", [100, 100], "0.29") == [29, 29]


def test_no_quota_a_class_is_none() -> None:
    assert QUOTAS["none"](np.array([3, 4]), Fraction(1, 2)) is None


@pytest.mark.parametrize("quota", ["proportional", "equal", "published"])
def test_keep_1_keeps_everything(quota: str) -> None:
    assert counts_of(quota, [500, 3, 0, 41], "100%") == [500, 3, 0, 41]


@pytest.mark.parametrize("quota", ["proportional", "equal", "published"])
def test_balanced_classes_get_the_same_number_under_every_quota(quota: str) -> None:
    assert counts_of(quota, [500] * 100, "0.3") == [150] * 100


@pytest.mark.parametrize("quota", ["proportional", "equal", "published"])
def test_empty_classes_get_nothing(quota: str) -> None:
    assert counts_of(quota, [0, 0, 0], "0.5") == [0, 0, 0]


@pytest.mark.parametrize("keep", [Fraction(0), Fraction(3, 2)])
def test_a_keep_that_was_not_parsed_is_a_bug(keep: Fraction) -> None:
    with pytest.raises(ValueError, match="outside"):
        QUOTAS["proportional"](np.array([1]), keep)


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, keep=KEEPS)
def test_proportional_is_sainte_lague_one_seat_at_a_time(sizes: list[int], keep: Fraction) -> None:
    assert counts_of("proportional", sizes, keep) == seats_one_at_a_time(sizes, total_count(keep, sum(sizes)))


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, keep=KEEPS)
def test_equal_is_filling_one_sample_at_a_time(sizes: list[int], keep: Fraction) -> None:
    assert counts_of("equal", sizes, keep) == water_one_at_a_time(sizes, total_count(keep, sum(sizes)))


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, keep=KEEPS)
def test_published_follows_the_reference_loop(sizes: list[int], keep: Fraction) -> None:
    if keep < 1:
        number = int(Fraction(sum(sizes), len(sizes)) * keep)
        assert counts_of("published", sizes, keep) == [size if number >= size else number for size in sizes]


@pytest.mark.parametrize("quota", ["proportional", "equal", "published"])
@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, keeps=st.tuples(KEEPS, KEEPS))
def test_counts_fit_their_class_are_exact_and_grow_with_keep(
    quota: str, sizes: list[int], keeps: tuple[Fraction, Fraction]
) -> None:
    fewer, more = (np.array(counts_of(quota, sizes, keep)) for keep in sorted(keeps))
    assert (fewer >= 0).all()
    assert (fewer <= more).all()
    assert (more <= sizes).all()
    if quota in EXACT:
        assert fewer.sum() == total_count(min(keeps), sum(sizes))


@pytest.mark.parametrize("quota", EXACT)
@pytest.mark.parametrize("classes", [1, 1000, 10_000])
def test_quotas_of_large_uneven_data_are_exact(quota: str, classes: int) -> None:
    sizes = np.random.default_rng(0).zipf(1.3, classes).clip(max=10**9)
    for keep in (Fraction(1, 3), Fraction(999, 1000)):
        counts = QUOTAS[quota](sizes, keep)
        assert counts is not None
        assert int(counts.sum()) == total_count(keep, int(sizes.sum()))
        assert (counts <= sizes).all()


def test_proportional_counts_are_within_one_of_their_share_on_imagenet_like_data() -> None:
    sizes = np.random.default_rng(1).integers(732, 1301, 1000)
    counts = np.array(counts_of("proportional", sizes.tolist(), "0.29"))
    assert (np.abs(counts - 0.29 * sizes) < 1).all()
