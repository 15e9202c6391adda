"""Which views are labelled under a budget: worked by hand, against brute force, and the properties of any input."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from manifests.errors import UsageError
from prune_toolkit.labelling.view_budget import Budget, BudgetFlags
from prune_toolkit.labelling.view_rules import (
    VIEW_RULES,
    Seen,
    by_covariance,
    by_sureness,
    expected_traces,
    neyman,
    traces,
)


def seen(logits_nFC, label_n=None, tie_n=None, temperature=1.0) -> Seen:
    logits_nFC = np.asarray(logits_nFC, np.float16)
    count = len(logits_nFC)
    return Seen(
        logits_nFC=logits_nFC,
        label_n=np.zeros(count, np.int64) if label_n is None else np.asarray(label_n),
        tie_n=np.arange(count, dtype=np.uint64) if tie_n is None else np.asarray(tie_n, np.uint64),
        temperature=temperature,
    )


def shared(trace_n, total, least, most, tie_n=None) -> list[int]:
    tie_n = np.arange(len(trace_n)) if tie_n is None else np.array(tie_n)
    return neyman(np.array(trace_n, np.float64), tie_n.astype(np.uint64), total, least, most).tolist()


def test_three_samples_by_hand() -> None:
    """Traces 1, 4 and 16 have roots 1, 2 and 4: seven views are shared 1, 2 and 4, and then each step is the best."""
    assert shared([1, 4, 16], 7, 1, 9) == [1, 2, 4]
    assert shared([1, 4, 16], 14, 1, 9) == [2, 4, 8]
    assert shared([1, 4, 16], 3, 1, 9) == [1, 1, 1]
    assert shared([1, 4, 16], 7, 2, 9) == [2, 2, 3], "none below the least"
    assert shared([1, 4, 16], 9, 1, 4) == [2, 3, 4], "none above the most"
    # 16 / 2 = 8, 16 / 6 = 2.67, 4 / 2 = 2: two steps of the third, then one of the second.
    assert shared([1, 4, 16], 6, 1, 9) == [1, 2, 3]


def test_equal_samples_share_evenly_and_the_rest_goes_by_their_content() -> None:
    assert shared([0, 0, 0], 7, 1, 9, tie_n=[5, 3, 4]) == [2, 3, 2]
    assert shared([2, 2, 2, 2], 10, 2, 9, tie_n=[9, 1, 8, 2]) == [2, 3, 2, 3]
    assert shared([], 0, 2, 5) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_other_allocation_of_the_same_views_is_better(seed: int) -> None:
    generator = np.random.default_rng(seed)
    trace_n = generator.gamma(0.5, 1, 4) * (generator.random(4) > 0.2)
    least, most = 1 + seed % 2, 5
    total = int(generator.integers(4 * least, 4 * most + 1))
    found = shared(trace_n, total, least, most)
    assert sum(found) == total
    assert least <= min(found) <= max(found) <= most
    others = [t for t in product(range(least, most + 1), repeat=4) if sum(t) == total]
    best = min(sum(trace_n / np.array(t)) for t in others)
    assert sum(trace_n / np.array(found)) == pytest.approx(best, rel=1e-12, abs=1e-15)


def test_without_bounds_it_is_the_square_root_of_the_trace() -> None:
    trace_n = np.array([1.0, 9, 25, 100]) * 7
    assert shared(trace_n, 1900, 1, 1900) == [100, 300, 500, 1000]


def test_the_order_of_samples_has_no_say() -> None:
    generator = np.random.default_rng(0)
    trace_n, tie_n = generator.integers(0, 4, 50).astype(float), generator.permutation(50)
    found, order = np.array(shared(trace_n, 300, 2, 15, tie_n)), generator.permutation(50)
    assert np.array_equal(shared(trace_n[order], 300, 2, 15, tie_n[order]), found[order])


def probabilities(logits_nFC, temperature) -> np.ndarray:
    z_nFC = logits_nFC.astype(np.float64) / temperature
    return np.exp(z_nFC) / np.exp(z_nFC).sum(axis=2, keepdims=True)


@pytest.mark.parametrize("first", [5, 6, 8])
def test_the_trace_is_that_of_numpys_covariance_and_its_square_that_of_disjoint_pairs(first: int) -> None:
    logits_nFC = np.random.default_rng(1).normal(0, 3, (6, first, 4)).astype(np.float16)
    for temperature in (1.0, 4.0):
        trace_n, square_n = traces(seen(logits_nFC, temperature=temperature))
        p_nFC = probabilities(logits_nFC, temperature)
        np.testing.assert_allclose(trace_n, [np.trace(np.cov(p_FC[1:], rowvar=False)) for p_FC in p_nFC], rtol=1e-10)
        for p_FC, found in zip(p_nFC, square_n, strict=True):
            half = {
                pair: np.square(p_FC[pair[0]] - p_FC[pair[1]]).sum() / 2 for pair in combinations(range(1, first), 2)
            }
            products = [half[a] * half[b] for a, b in product(half, half) if not {*a} & {*b}]
            assert found == pytest.approx(np.mean(products), rel=1e-9)


def test_noise_is_not_taken_for_a_difference_by_hand() -> None:
    """Estimates 1, 2, 3: mean 2, variance 2/3. Squares that average 4 say that all traces are 2; 4 1/3, half of it."""
    trace_n = np.array([1.0, 2, 3])
    assert expected_traces(trace_n, np.full(3, 4.0)).tolist() == [2, 2, 2]
    np.testing.assert_allclose(expected_traces(trace_n, np.full(3, 13 / 3)), [1.5, 2, 2.5])
    np.testing.assert_allclose(expected_traces(trace_n, np.full(3, 9.0)), trace_n)
    assert expected_traces(trace_n, np.full(3, 1.0)).tolist() == [2, 2, 2], "never beyond the mean"
    assert expected_traces(np.full(2, 3.0), np.full(2, 9.0)).tolist() == [3, 3]
    assert expected_traces(np.zeros(0), np.zeros(0)).tolist() == []


@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_a_chosen_budget_is_better_than_equal_shares_if_samples_differ_and_else_no_worse(deviation: float) -> None:
    """Views of 4,000 samples scatter by a scale of their own; the error is that of the probabilities of many views."""
    generator = np.random.default_rng(7)
    scale_n = np.exp(generator.normal(0, deviation, 4000))
    logits_nVC = generator.normal(0, 2, (4000, 1, 3)) + scale_n[:, None, None] * generator.normal(0, 0.3, (4000, 40, 3))
    trace_n = probabilities(logits_nVC[:, 8:], 1.0).var(axis=1, ddof=1).sum(axis=1)
    chosen_n = by_covariance(seen(logits_nVC[:, :5]), 16, 4000 * 5, 2).sum(axis=1) - 1
    error = (trace_n / chosen_n).sum() / (trace_n / 4).sum()
    assert error < (0.95 if deviation else 1.0)


def test_more_views_where_the_teacher_differs_and_always_the_first() -> None:
    logits = np.zeros((3, 5, 2))
    logits[2, 1:, 0] = [8, -8, 8, -8]  # of the third sample, views differ
    flags_nV = by_covariance(seen(logits), 6, 10, 2)
    assert flags_nV.sum(axis=1).tolist() == [2, 2, 6]
    assert flags_nV[0].tolist() == [True] * 2 + [False] * 4


def test_the_surest_views_by_hand() -> None:
    """p of the label rises with its logit: of view 0, and the two others with the largest; the first of equals."""
    logits = np.zeros((2, 5, 2))
    logits[0, :, 0] = [-9, 1, 3, 2, 3]
    logits[1, :, 1] = [9, 5, 5, 5, 4]
    flags_nV = by_sureness(seen(logits, label_n=[0, 1]), 5, 6, 2)
    assert flags_nV.astype(int).tolist() == [[1, 0, 1, 0, 1], [1, 1, 1, 0, 0]]


@pytest.mark.parametrize("rule", list(VIEW_RULES))
def test_every_rule_labels_as_many_views_as_asked_and_view_0(rule: str) -> None:
    generator = np.random.default_rng(3)
    first = 12 if VIEW_RULES[rule].sees_all else 5
    logits_nFC, label_n = generator.normal(0, 3, (40, first, 5)), generator.integers(0, 5, 40)
    flags_nV = VIEW_RULES[rule].choose(seen(logits_nFC, label_n), 12, 240, 2)
    assert flags_nV.shape == (40, 12)
    assert flags_nV.sum() == 240
    assert flags_nV[:, 0].all()
    assert flags_nV[:, 1:].any(axis=1).all()


def budget(text: str, views: int = 16, **flags: object) -> Budget:
    made = Budget.of(BudgetFlags(view_budget=text, **flags), views, "replay", None)
    assert made is not None
    return made


def test_parts_share_exactly_all_labels_whatever_is_kept_in_each() -> None:
    kept = np.random.default_rng(4).integers(0, 50, 30).tolist()
    for text in ("4", "3.3", "10/3", "2.01", "15.99"):
        asked, shares, before = budget(text), [], 0
        for count in kept:
            shares.append(asked.share(before, count))
            assert 2 * count <= shares[-1] <= 16 * count
            before += count
        assert sum(shares) == asked.total(before) == int(Fraction(text) * before + Fraction(1, 2))


def test_defaults_and_what_the_teacher_is_shown() -> None:
    assert (budget("4").first_views, budget("4").least) == (5, 2)
    assert budget("4").shown(100) == 700, "five of each, and at most two more per label above two"
    mean = Budget.of(BudgetFlags(view_budget="6"), 16, "mean", None)
    assert (mean.least, mean.shown(100)) == (5, 600), "the first views are among those of the mean"
    assert budget("4", view_rule="sure").shown(100) == 1600
    assert Budget.of(BudgetFlags(), 8, "replay", None) is None


@pytest.mark.parametrize(
    ("flags", "views", "policy", "codec", "told"),
    [
        ({"view_budget": "x"}, 8, "replay", None, "--view-budget x: not a number of labels per sample"),
        ({"view_budget": "2"}, 8, "replay", None, "it must be above 2 (view 0 and one other)"),
        ({"view_budget": "5"}, 8, "mean", None, "it must be above 5 (the --first-views"),
        ({"view_budget": "8"}, 8, "replay", None, "and below 8, the --views to choose from"),
        ({"view_budget": "1", "view_rule": "sure"}, 8, "replay", None, "at least 2 (view 0 and one other)"),
        ({"view_budget": "2.5", "view_rule": "sure"}, 8, "replay", None, "labels equally many views of each"),
        ({"view_budget": "4", "view_rule": "sure", "first_views": 3}, 8, "replay", None, "sees all 8 views"),
        ({"view_budget": "4", "first_views": 4}, 8, "replay", None, "--first-views 4: from 5 to 8"),
        ({"view_budget": "3"}, 4, "replay", None, "--views 4: a --view-budget by covariance chooses from 5 or more"),
        ({"view_budget": "4", "view_rule": "x"}, 8, "replay", None, "unknown view rule 'x'"),
        ({"view_budget": "4", "view_temperature": 0.0}, 8, "replay", None, "--view-temperature 0: above 0"),
        ({"view_budget": "4", "view_temperature": float("nan")}, 8, "replay", None, "--view-temperature nan: above 0"),
        ({"view_budget": "4"}, 65, "replay", None, "chooses among at most 64"),
        ({"view_budget": "4"}, 8, "single", None, "--policy single labels only view 0"),
        ({"view_budget": "4"}, 8, "mean", "features", "features of different views per sample are not averaged"),
        ({"view_rule": "sure"}, 8, "replay", None, "--view-rule sure needs --view-budget B"),
        ({"first_views": 4}, 8, "replay", None, "--first-views 4 needs --view-budget B"),
        ({"view_temperature": 4.0}, 8, "replay", None, "--view-temperature 4.0 needs --view-budget B"),
    ],
)
def test_what_cannot_be_is_refused(flags: dict, views: int, policy: str, codec: str | None, told: str) -> None:
    with pytest.raises(UsageError) as error:
        Budget.of(BudgetFlags(**flags), views, policy, codec)
    assert told in error.value.message
