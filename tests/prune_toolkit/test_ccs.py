"""Coverage-centric selection, moderate selection, and the traps of the public code of both."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, KEEPS, kept, pool_of, pools, reasons, selects_nothing

from manifests.errors import UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.quotas.quotas import QUOTAS
from prune_toolkit.selection.selectors import Pool, choose
from prune_toolkit.selection.selectors.ccs import published_beta, strata_budgets

SCORES = [0, 1, 2, 3, 10, 11, 20, 21, 22, 23, 90, 99]


def test_the_hardest_are_dropped_and_strata_of_equal_width_share_the_rest() -> None:
    # b = 1/6 of 12 drops 90 and 99. Strata of 0 .. 23 in three: {0, 1, 2, 3}, {10, 11}, {20, 21, 22, 23}.
    # 6 to keep: the smallest first, min(2, 6 // 3) = 2, then 4 // 2 = 2 of the easier of the equal ones, then 2.
    pool = pool_of([0] * 12, SCORES)
    choice = choose("ccs", pool, keep=HALF, parameters={"beta": "1/6", "strata": "3"})
    got = kept(choice)
    assert [sum(low <= row < high for row in got) for low, high in ((0, 4), (4, 6), (6, 10), (10, 12))] == [2, 2, 2, 0]
    assert reasons(choice)[10:] == ["too hard", "too hard"]
    assert {reasons(choice)[row] for row in range(10) if row not in got} == {"not drawn"}


def test_a_stratum_that_is_too_small_gives_its_share_to_larger_ones() -> None:
    assert strata_budgets(np.array([[1, 9, 0, 4]]), np.array([10])).tolist() == [[1, 5, 0, 4]]
    assert strata_budgets(np.array([[3, 3, 3]]), np.array([7])).tolist() == [[2, 2, 3]]
    # A group of its own each.
    assert strata_budgets(np.array([[2, 2], [0, 5]]), np.array([1, 4])).tolist() == [[0, 1], [0, 4]]


def test_what_is_to_be_kept_wins_over_what_is_to_be_dropped() -> None:
    choice = choose("ccs", pool_of([0] * 10, list(range(10))), keep=Fraction(9, 10), parameters={"beta": "0.5"})
    assert choice.keep_N.sum() == 9
    assert reasons(choice)[9] == "too hard"


def test_the_hard_end_is_the_low_one_of_a_margin() -> None:
    pool = pool_of([0] * 10, list(range(10)), harder="low")
    choice = choose("ccs", pool, keep=HALF, parameters={"beta": "0.2"})
    assert reasons(choice)[:2] == ["too hard", "too hard"]


def literal_ccs(pool: Pool, keep: Fraction, beta: Fraction, strata: int, seed: int) -> set[int]:
    """The paper's algorithm for every class, in plain Python; smallest draw first in place of a random permutation."""
    assert pool.score_N is not None
    sign = 1 if pool.harder == "high" else -1
    difficulty = [sign * float(score) for score in pool.score_N]
    draw = mix64(seed, *hash_words(pool.content_hash_N16)).tolist()
    ties = [(pool.content_hash_N16[row].tobytes(), int(pool.sample_id_N[row])) for row in range(len(draw))]
    counts = QUOTAS["proportional"](np.bincount(pool.label_N, minlength=pool.class_count), keep)
    chosen: set[int] = set()
    for c in range(pool.class_count):
        members = sorted(np.flatnonzero(pool.label_N == c).tolist(), key=lambda row: (difficulty[row], ties[row]))
        count = int(counts[c])
        dropped = min(int(beta * len(members)), len(members) - count)
        left = members[: len(members) - dropped]
        if not left:
            continue
        low, width = difficulty[left[0]], difficulty[left[-1]] - difficulty[left[0]]
        cells: list[list[int]] = [[] for _ in range(strata)]
        for row in left:
            share = (difficulty[row] - low) / width if width else 0.0
            cells[min(int(share * strata), strata - 1)].append(row)
        for place, number in enumerate(sorted(range(strata), key=lambda stratum: len(cells[stratum]))):
            take = min(len(cells[number]), count // (strata - place))
            chosen |= set(sorted(cells[number], key=lambda row: (draw[row], ties[row]))[:take])
            count -= take
        assert count == 0
    return chosen


@settings(max_examples=80, deadline=None)
@given(
    pool=pools(),
    keep=KEEPS,
    beta=st.sampled_from(["0", "0.1", "1/3", "0.5"]),
    strata=st.sampled_from([1, 3, 50]),
    seed=st.integers(0, 99),
)
def test_ccs_is_the_papers_algorithm_class_by_class(
    pool: Pool, keep: Fraction, beta: str, strata: int, seed: int
) -> None:
    if not selects_nothing(pool, "proportional", keep):
        parameters = {"beta": beta, "strata": str(strata)}
        choice = choose("ccs", pool, keep=keep, seed=seed, parameters=parameters)
        assert set(kept(choice)) == literal_ccs(pool, keep, Fraction(beta), strata, seed)


def test_trap_5_each_class_has_its_own_size_and_not_the_last_ones() -> None:
    labels = np.array([0] * 10 + [1] * 4)
    pool = pool_of(labels.tolist(), [*range(10), *range(4)])

    def with_the_last_class_size() -> list[int]:
        size = int((labels == labels.max()).sum())
        return [min(int((labels == c).sum()), size // 2) for c in (0, 1)]

    choice = choose("ccs", pool, keep=HALF, parameters={"beta": "0.2"})
    assert np.bincount(labels[choice.keep_N]).tolist() == [5, 2]
    assert with_the_last_class_size() == [2, 2]
    # So is what is dropped first: 0.2 of 10 is 2, and of 4 none.
    assert [row for row, reason in enumerate(reasons(choice)) if reason == "too hard"] == [8, 9]


PUBLISHED = {10: [0, 0, 0.1, 0.1, 0.3], 100: [0.1, 0.2, 0.2, 0.4, 0.5], 1000: [0, 0.1, 0.2, 0.2, 0.3]}
"""The paper's beta of CIFAR-10, CIFAR-100 and ImageNet at keep 0.7, 0.5, 0.3, 0.2, 0.1."""


@pytest.mark.parametrize("classes", PUBLISHED)
def test_the_published_beta_is_the_papers(classes: int) -> None:
    got = [float(published_beta(Fraction(keep), classes)) for keep in ("0.7", "0.5", "0.3", "0.2", "0.1")]
    assert got == PUBLISHED[classes]


@pytest.mark.parametrize(
    ("keep", "classes", "beta"),
    [
        # Between the published ones on a line; beyond them as at the end, and nothing at keep 1.
        ("0.4", 10, "0.05"),
        ("0.15", 100, "0.45"),
        ("0.05", 10, "0.3"),
        ("0.85", 100, "0.05"),
        ("1", 1000, "0"),
        # By the number of classes.
        ("0.3", 2, "0.1"),
        ("0.3", 11, "0.2"),
        ("0.7", 101, "0"),
    ],
)
def test_beta_between_the_published_ones(keep: str, classes: int, beta: str) -> None:
    assert published_beta(Fraction(keep), classes) == Fraction(beta)


def test_the_published_beta_goes_into_the_header() -> None:
    choice = choose("ccs", pool_of([0] * 20 + [1] * 20, list(range(40))), keep=Fraction(2, 5))
    assert choice.found == {"beta": "1/20", "beta_by": "published for CIFAR-10"}
    given_beta = choose("ccs", pool_of([0] * 20, list(range(20))), keep=HALF, parameters={"beta": "0.1"})
    assert given_beta.found == {}


def test_infinite_scores_do_not_stretch_the_strata() -> None:
    pool = pool_of([0] * 8, [-np.inf, 0, 1, 2, 3, 4, 5, np.inf])
    choice = choose("ccs", pool, keep=HALF, parameters={"beta": "0", "strata": "2"})
    assert [sum(row < 4 for row in kept(choice)), sum(row >= 4 for row in kept(choice))] == [2, 2]
    ends = choose("ccs", pool_of([0] * 4, [np.inf] * 4), keep=HALF, parameters={"strata": "2"})
    assert ends.keep_N.sum() == 2


def test_another_seed_draws_other_samples_of_the_same_strata() -> None:
    pool = pool_of([0] * 200, list(range(200)))
    one, two = (kept(choose("ccs", pool, keep=HALF, seed=seed, parameters={"strata": "5"})) for seed in (0, 1))
    assert one != two
    assert [sum(row // 40 == stratum for row in one) for stratum in range(5)] == [20] * 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beta": "1"}, "beta is '1'"),
        ({"beta": "-0.1"}, "beta is '-0.1'"),
        ({"beta": "most"}, "beta is 'most'"),
        ({"strata": "0"}, "strata is '0'"),
        ({"strata": "2.5"}, "strata is '2.5'"),
        ({"strata": "999999999999"}, "strata is"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose("ccs", pool_of([0, 1], [0, 1]), keep=HALF, parameters=parameters)


def test_moderate_keeps_the_middle_distances_of_each_class_and_trap_3_keeps_both_extremes() -> None:
    distances = np.array([0.1, 0.9, 0.5, 0.4, 0.8, 0.2, 0.6, 0.3])
    # Ascending 0, 5, 7, 3, 2, 6, 4, 1; half of them from rank 2.
    choice = choose("moderate", pool_of([0] * 8, distances.tolist()), keep=HALF)

    def both_extremes(count: int) -> list[int]:
        order = np.argsort(distances)
        return sorted([*order[: count // 2].tolist(), *order[len(order) - count // 2 :].tolist()])

    assert kept(choice) == [2, 3, 6, 7]
    assert both_extremes(4) == [0, 1, 4, 5]
    assert reasons(choice)[0] == "too easy"
    assert reasons(choice)[1] == "too hard"


@settings(max_examples=40, deadline=None)
@given(pool=pools(), keep=KEEPS)
def test_moderate_without_a_quota_keeps_the_papers_global_quantiles(pool: Pool, keep: Fraction) -> None:
    if selects_nothing(pool, "none", keep):
        return
    pool = replace(pool, score_N=np.random.default_rng(0).permutation(len(pool.label_N)) * 1.0, harder="high")
    assert pool.score_N is not None
    inside = np.sort(pool.score_N[choose("moderate", pool, keep=keep, quota="none").keep_N])
    samples = len(pool.label_N)
    low, high = samples * (HALF - keep / 2), samples * (HALF + keep / 2)
    # Ranks are whole numbers: each end is within one of the quantile.
    assert abs(inside[0] - low) <= 1
    assert abs(inside[-1] + 1 - high) <= 1
    assert (np.diff(inside) == 1).all()
