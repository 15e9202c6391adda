from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import (
    ALL_QUOTAS,
    HALF,
    KEEPS,
    METHODS,
    expected_count,
    hashes,
    kept,
    pool_of,
    pools,
    reasons,
    selects_nothing,
    take,
    too_few_to_try,
)
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from manifests.errors import InputError, UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.quotas.quotas import QUOTAS, total_count
from prune_toolkit.scoring.logit_scores import SCORES, LogitScore, compute_scores
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.selectors import REASONS, SELECTORS, Choice, Pool, choose, make_groups, selector

RANKED = ["medium", "window", "random"]
"""Selectors of which a larger keep contains a smaller one."""


def test_medium_keeps_the_ranks_around_the_class_median() -> None:
    # Class 0 ascending: rows 3, 1, 5, 0; class 1: rows 6, 2, 7, 4. Half of 4 from rank (4 - 2) // 2 = 1.
    pool = pool_of([0, 0, 1, 0, 1, 0, 1, 1], [0.9, 0.2, 5.0, 0.1, 9.0, 0.4, 3.0, 7.0])
    choice = choose("medium", pool, keep=HALF)
    assert kept(choice) == [1, 2, 5, 7]
    assert reasons(choice) == [
        "too hard",
        "kept",
        "kept",
        "too easy",
        "too hard",
        "kept",
        "too easy",
        "kept",
    ]


def test_trap_3_medium_drops_both_extremes_and_keeps_the_middle() -> None:
    choice = choose("medium", pool_of([0] * 10, list(range(10))), keep=Fraction(2, 5))
    assert kept(choice) == [3, 4, 5, 6]
    assert reasons(choice)[:3] == ["too easy"] * 3
    assert reasons(choice)[7:] == ["too hard"] * 3


def test_a_score_whose_low_end_is_harder_is_turned_around() -> None:
    pool = pool_of([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], harder="low")
    choice = choose("window", pool, keep=Fraction(1, 4), parameters={"position": "1"})
    assert kept(choice) == [0]
    assert reasons(choice)[1:] == ["too easy"] * 3


def test_odd_sizes_worked_by_hand() -> None:
    # n = 5, K = 3: the window starts at (5 - 3) // 2 = 1; as published m = 2, a = 1, b = 2: at 0.
    pool = pool_of([0] * 5, [0, 1, 2, 3, 4])
    assert kept(choose("medium", pool, keep=Fraction(3, 5))) == [1, 2, 3]
    assert kept(choose("medium", pool, keep=Fraction(3, 5), quota="published")) == [0, 1, 2]


@pytest.mark.parametrize("method", RANKED)
def test_classes_of_1_and_2_are_cut_to_their_quota(method: str) -> None:
    pool = pool_of([0, 1, 1, 2, 2, 2, 2, 2], [1, 1, 2, 1, 2, 3, 4, 5])
    choice = choose(method, pool, keep=HALF, quota="equal")
    assert np.bincount(pool.label_N[choice.keep_N], minlength=3).tolist() == [1, 2, 1]


def test_equal_scores_are_ordered_by_content_hash_then_by_key() -> None:
    pool = replace(
        pool_of([0] * 4, [1.0] * 4),
        content_hash_N16=np.array([[9] + [0] * 15, [0] * 15 + [2], [0] * 15 + [1], [0] * 15 + [1]], np.uint8),
    )
    easiest = {"position": "0"}
    assert kept(choose("window", pool, keep=Fraction(1, 4), parameters=easiest)) == [2]
    assert kept(choose("window", pool, keep=Fraction(1, 2), parameters=easiest)) == [2, 3]
    assert kept(choose("window", pool, keep=Fraction(3, 4), parameters=easiest)) == [1, 2, 3]
    later_key_first = replace(pool, sample_id_N=np.array([0, 1, 8, 7]))
    assert kept(choose("window", later_key_first, keep=Fraction(1, 4), parameters=easiest)) == [3]


def test_random_keeps_the_smallest_hashes_of_seed_and_content() -> None:
    pool = replace(pool_of([0] * 100, [0.0] * 100), score_N=None)
    draw = mix64(7, *hash_words(pool.content_hash_N16))
    choice = choose("random", pool, keep=Keep.parse("0.29").fraction, seed=7)
    assert kept(choice) == sorted(np.argsort(draw)[:29].tolist())
    assert set(reasons(choice)) == {"kept", "not drawn"}


def test_random_is_drawn_anew_for_every_seed_and_evenly() -> None:
    pool = pool_of([0] * 400, [0.0] * 400)
    times = np.sum([choose("random", pool, keep=HALF, seed=seed).keep_N for seed in range(100)], axis=0)
    # Binomial(100, 1/2) has deviation 5: none of 400 samples strays by 6 deviations.
    assert 20 < times.min() < times.max() < 80
    assert times.mean() == 50


def literal_published_window(pool: Pool, keep: Fraction) -> set[int]:
    """The published loop in plain Python: per class, a window of floor(N/C * r) ranks around n_c // 2."""
    rows = range(len(pool.label_N))
    number = int(Fraction(len(rows), pool.class_count) * keep)
    assert pool.score_N is not None
    difficulty = (pool.score_N if pool.harder == "high" else -pool.score_N).tolist()
    chosen: set[int] = set()
    for c in range(pool.class_count):
        members = [row for row in rows if pool.label_N[row] == c]
        members.sort(
            key=lambda row: (
                difficulty[row],
                pool.content_hash_N16[row].tobytes(),
                pool.sample_id_N[row],
            )
        )
        if number >= len(members):
            chosen.update(members)
            continue
        half = number // 2
        other_half = number - half
        middle = len(members) // 2
        chosen.update(members[middle - other_half : middle + half])
    return chosen


@settings(max_examples=150, deadline=None)
@given(pool=pools(), keep=KEEPS)
def test_medium_under_the_published_quota_is_the_published_loop(pool: Pool, keep: Fraction) -> None:
    if keep < 1 and not selects_nothing(pool, "published", keep):
        choice = choose("medium", pool, keep=keep, quota="published")
        assert set(kept(choice)) == literal_published_window(pool, keep)


@pytest.mark.parametrize("size", range(1, 13))
def test_the_published_window_differs_from_the_centred_one_by_a_rank_only_where_both_counts_are_odd(
    size: int,
) -> None:
    pool = pool_of([0] * size, list(range(size)))
    for count in range(1, size):
        keep = Fraction(count, size)
        centred, published = (choose("medium", pool, keep=keep, quota=q) for q in ("proportional", "published"))
        shift = 1 if size % 2 and count % 2 else 0
        assert [row - shift for row in kept(centred)] == kept(published)


@settings(max_examples=60, deadline=None)
@given(pool=pools(), keep=KEEPS, quota=st.sampled_from(["proportional", "equal", "none"]))
def test_the_window_at_one_half_is_medium(pool: Pool, keep: Fraction, quota: str) -> None:
    if not selects_nothing(pool, quota, keep):
        for position in ("1/2", "0.5", "50%"):
            window = choose("window", pool, keep=keep, quota=quota, parameters={"position": position})
            np.testing.assert_array_equal(window.reason_N, choose("medium", pool, keep=keep, quota=quota).reason_N)


@pytest.mark.parametrize(("position", "first"), [("0", 0), ("1/3", 2), ("0.28", 1), ("0.3", 2), ("0.999", 6), ("1", 7)])
def test_the_window_starts_at_the_exact_floor_of_its_position(position: str, first: int) -> None:
    choice = choose(
        "window", pool_of([0] * 10, list(range(10))), keep=Fraction(3, 10), parameters={"position": position}
    )
    assert kept(choice) == [first, first + 1, first + 2]


def test_position_029_of_100_spare_ranks_is_29_and_not_28() -> None:
    pool = pool_of([0] * 101, list(range(101)))
    assert kept(choose("window", pool, keep=Fraction(1, 101), parameters={"position": "0.29"})) == [29]


@pytest.mark.parametrize("quota", ALL_QUOTAS)
@pytest.mark.parametrize("name", [score.name for score in LogitScore.registered() if score.name != "correct"])
def test_trap_2_the_hard_side_is_the_unsure_side_under_every_quota(name: str, quota: str) -> None:
    gaps = np.array([8, 4, 2, 0.5, 8, 4, 2, 0.5], np.float16)
    labels = np.repeat([0, 1], 4)
    logits = np.zeros((8, 3), np.float16)
    logits[np.arange(8), labels] = gaps
    pool = replace(pool_of(labels.tolist(), compute_scores(logits, labels)[name].tolist()), harder=SCORES[name].harder)
    hard = choose("window", pool, keep=HALF, quota=quota, parameters={"position": "1"})
    easy = choose("window", pool, keep=HALF, quota=quota, parameters={"position": "0"})
    assert kept(hard) == [2, 3, 6, 7]
    assert kept(easy) == [0, 1, 4, 5]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quota", ALL_QUOTAS)
@settings(max_examples=25, deadline=None)
@given(pool=pools(), keep=KEEPS, seed=st.integers(0, 2**63))
def test_the_quota_is_met_exactly_and_row_order_does_not_matter(
    method: str, quota: str, pool: Pool, keep: Fraction, seed: int
) -> None:
    name, parameters = METHODS[method]
    counts = expected_count(pool, quota, keep)
    if selects_nothing(pool, quota, keep) or too_few_to_try(pool, parameters, counts):
        return
    choice = choose(name, pool, keep=keep, quota=quota, seed=seed, parameters=parameters)
    assert choice.keep_N.dtype == bool
    np.testing.assert_array_equal(choice.keep_N, np.array(choice.reasons)[choice.reason_N] == "kept")
    if counts is None:
        assert choice.keep_N.sum() == total_count(keep, len(pool.label_N))
    else:
        per_class = np.bincount(pool.label_N[choice.keep_N], minlength=pool.class_count)
        np.testing.assert_array_equal(per_class, counts)
    order = np.random.default_rng(seed).permutation(len(pool.label_N))
    permuted = choose(name, take(pool, order), keep=keep, quota=quota, seed=seed, parameters=parameters)
    np.testing.assert_array_equal(permuted.reason_N, choice.reason_N[order])
    assert permuted.found == choice.found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quota", ALL_QUOTAS)
@settings(max_examples=15, deadline=None)
@given(pool=pools(), keep=KEEPS, least=st.integers(1, 8))
def test_every_class_keeps_its_minimum_and_the_total_stays(
    method: str, quota: str, pool: Pool, keep: Fraction, least: int
) -> None:
    name, parameters = METHODS[method]
    # The least of 1 keeps some of every class.
    if selects_nothing(pool, quota, keep) or too_few_to_try(pool, parameters, None):
        return
    sizes = np.bincount(pool.label_N, minlength=pool.class_count)
    counts = expected_count(pool, quota, keep)
    total = total_count(keep, len(pool.label_N)) if counts is None else counts.sum()
    if np.minimum(sizes, least).sum() > total:
        with pytest.raises(UsageError, match=f"--per-class-min {least} requires"):
            choose(name, pool, keep=keep, quota=quota, parameters=parameters, per_class_min=least)
        return
    choice = choose(name, pool, keep=keep, quota=quota, parameters=parameters, per_class_min=least)
    assert choice.keep_N.sum() == total
    assert (np.bincount(pool.label_N[choice.keep_N], minlength=pool.class_count) >= np.minimum(sizes, least)).all()
    order = np.random.default_rng(least).permutation(len(pool.label_N))
    permuted = choose(name, take(pool, order), keep=keep, quota=quota, parameters=parameters, per_class_min=least)
    np.testing.assert_array_equal(permuted.reason_N, choice.reason_N[order])


@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("quota", ["proportional", "equal", "none"])
@settings(max_examples=40, deadline=None)
@given(pool=pools(), keeps=st.tuples(KEEPS, KEEPS))
def test_a_larger_keep_contains_the_smaller(
    method: str, quota: str, pool: Pool, keeps: tuple[Fraction, Fraction]
) -> None:
    if not selects_nothing(pool, quota, min(keeps)):
        fewer, more = (choose(method, pool, keep=keep, quota=quota).keep_N for keep in sorted(keeps))
        assert not (fewer & ~more).any()


@pytest.mark.parametrize("method", RANKED)
@pytest.mark.parametrize("quota", ALL_QUOTAS)
def test_keep_1_keeps_every_sample(method: str, quota: str) -> None:
    assert choose(method, pool_of([0, 1, 1, 4], [3, 1, 2, 2]), keep=Fraction(1), quota=quota).keep_N.all()


def test_without_a_quota_all_classes_are_ranked_together() -> None:
    pool = pool_of([0, 0, 0, 1, 1, 1], [1, 2, 3, 10, 20, 30])
    assert kept(choose("window", pool, keep=HALF, quota="none", parameters={"position": "1"})) == [3, 4, 5]


def test_infinite_scores_are_ends_of_the_ranking() -> None:
    pool = pool_of([0, 0, 0], [np.inf, 0, -np.inf])
    assert reasons(choose("medium", pool, keep=Fraction(1, 3))) == ["too hard", "kept", "too easy"]


def test_negative_zero_and_zero_are_equal_scores() -> None:
    pool = replace(pool_of([0, 0], [0.0, -0.0]), content_hash_N16=np.array([[0] * 16, [1] * 16], np.uint8))
    assert kept(choose("window", pool, keep=HALF, parameters={"position": "0"})) == [0]


def test_a_score_that_is_nan_is_an_input_error_naming_the_first_sample() -> None:
    pool = replace(pool_of([0, 0, 0], [1, np.nan, np.nan]), sample_id_N=np.array([4, 9, 7]))
    with pytest.raises(InputError, match=r"score of sample 7 is nan \(2 of 3"):
        choose("medium", pool, keep=HALF)


def test_a_selector_that_ranks_needs_scores() -> None:
    with pytest.raises(InputError, match="'medium' ranks by a score"):
        choose("medium", replace(pool_of([0], [0]), score_N=None), keep=Fraction(1))


@pytest.mark.parametrize("quota", ALL_QUOTAS)
def test_a_keep_that_amounts_to_no_sample_is_a_usage_error(quota: str) -> None:
    with pytest.raises(UsageError, match="1/10 of 4 samples"):
        choose("random", pool_of([0, 0, 1, 1], [0] * 4), keep=Fraction(1, 10), quota=quota)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("best", {}, "unknown selector 'best'"),
        ("medium", {"position": "0"}, "selector 'medium' has no parameter 'position'"),
        ("window", {"position": "1.5"}, "position is '1.5': it must be between 0 and 1"),
        ("window", {"position": "left"}, "position is 'left'"),
    ],
)
def test_a_wrong_name_or_parameter_is_a_usage_error(method: str, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(method, pool_of([0, 1], [0, 1]), keep=HALF, parameters=parameters)


def test_an_unknown_quota_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown quota 'fair'"):
        choose("random", pool_of([0], [0]), keep=HALF, quota="fair")


def test_a_label_outside_the_classes_is_a_bug() -> None:
    with pytest.raises(ValueError, match="label 3 is outside the 2 classes"):
        choose("random", replace(pool_of([0, 3], [0, 0]), class_count=2), keep=HALF)


def test_resolved_parameters_have_one_canonical_text() -> None:
    texts = [str(SELECTORS["window"].resolve(given)["position"]) for given in ({}, {"position": "0.50"})]
    assert texts == ["1/2", "1/2"]


def test_every_selector_says_its_facts_and_a_name_can_be_taken_once() -> None:
    assert list(SELECTORS) == [
        "medium",
        "window",
        "random",
        "ccs",
        "moderate",
        "herding",
        "k_center",
        "d2",
        "beta",
        "mix",
    ]
    assert {name for name, _ in METHODS.values()} == set(SELECTORS)
    assert all(entry.formula and entry.source for entry in SELECTORS.values())
    assert SELECTORS["medium"].score == "loss"
    assert REASONS[0] == "kept"
    with pytest.raises(ValueError, match="registered already"):
        selector("medium", formula="", source="", score=None)(SELECTORS["random"].function)


def test_a_selector_that_does_not_meet_its_quota_is_found_out() -> None:
    greedy = replace(SELECTORS["random"], name="greedy", function=lambda pool, groups, seed, values: everything(pool))
    pool = pool_of([0, 0, 1, 1], [0] * 4)
    with pytest.raises(UsageError, match="'greedy' is broken: it kept 2 samples of group 0, but the quota is 1"):
        greedy.choose(pool, make_groups(pool, "proportional", HALF), 0, {})


def everything(pool: Pool) -> Choice:
    return Choice(keep_N=np.ones(len(pool.label_N), bool), reason_N=np.zeros(len(pool.label_N), np.int8))


def test_the_methods_page_has_a_row_for_every_method() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in (*QUOTAS, *SELECTORS, *LABELS, *SCORES):
        assert f"\n| `{name}` " in page, name


def test_medium_of_a_real_teacher_keeps_the_middle_losses_of_each_digit() -> None:
    images, labels = load_digits(return_X_y=True)
    teacher = LogisticRegression(max_iter=2000).fit(images[::3] / 16, labels[::3])
    losses = compute_scores(teacher.decision_function(images / 16).astype(np.float16), labels)["loss"]
    choice = choose("medium", pool_of(labels.tolist(), losses.tolist()), keep=HALF)
    assert choice.keep_N.sum() == 899
    for digit in range(10):
        inside, all_of_class = losses[choice.keep_N & (labels == digit)], losses[labels == digit]
        low, high = np.quantile(all_of_class, [0.25, 0.75])
        assert low * 0.95 <= inside.min() <= np.median(all_of_class) <= inside.max() <= high * 1.05


def test_a_selection_of_imagenet_size_is_exact() -> None:
    samples, rng = 1_281_167, np.random.default_rng(0)
    pool = Pool(
        sample_id_N=np.arange(samples),
        label_N=np.sort(rng.integers(0, 1000, samples)).astype(np.int32),
        content_hash_N16=hashes(samples),
        class_count=1000,
        score_N=rng.exponential(size=samples).astype(np.float32),
    )
    assert choose("medium", pool, keep=Keep.parse("30%").fraction).keep_N.sum() == 384_350
