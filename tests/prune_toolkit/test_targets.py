"""From views to targets: each policy and transform by hand, in exact arithmetic where it is short."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import InputError, UsageError
from manifests.format.header import Views
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import SoftLabels, TopK, top_k
from prune_toolkit.selection.labels import LABELS, LabelTransform
from prune_toolkit.selection.targets import POLICIES, TargetPlan, carried_views, targets_of

# Three views of two samples. The deviation of two numbers is their distance / sqrt 2, so distances will do:
# sample 10 (class 0) has 2 | 4, 4 and sample 11 (class 1) 2 | 6, 2; over the training views k = 4 for both classes.
LOGITS = np.array([[[0, 2], [4, 0], [1, 5]], [[2, 0], [6, 0], [0, 2]]], np.float16)
LABELS_N, IDS = np.array([0, 1]), np.array([10, 11])


def views_of(logits_nVC: np.ndarray) -> list[FullLogits]:
    return [FullLogits(logits_nVC[:, view]) for view in range(logits_nVC.shape[1])]


def arrays_of(targets: list[SoftLabels]) -> list[np.ndarray]:
    return [target.logits() for target in targets]


def fitted(name: str, logits_nVC: np.ndarray = LOGITS, label_n: np.ndarray = LABELS_N) -> LabelTransform:
    """A transform that has seen the training views."""
    transform = LABELS[name].make(2 if logits_nVC is LOGITS else logits_nVC.shape[2])
    for view in range(1, logits_nVC.shape[1]):
        transform.fit(FullLogits(logits_nVC[:, view]), label_n, np.arange(len(label_n)))
    transform.finish()
    return transform


def rounded(*fractions: str) -> list[np.float16]:
    return [np.float16(float(Fraction(text))) for text in fractions]


RAW = LOGITS.tolist()
RESHAPED = [[[0, 4], [4, 0], [1, 5]], [[4, 0], [4, 0], [0, 4]]]


@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        ("raw", "replay", [[RAW[n][v] for n in range(2)] for v in range(3)]),
        ("raw", "single", [[[0, 2], [2, 0]]]),
        ("raw", "mean", [[rounded("5/3", "7/3"), rounded("8/3", "2/3")]]),
        ("reshape", "replay", [[RESHAPED[n][v] for n in range(2)] for v in range(3)]),
        ("reshape", "single", [[[0, 4], [4, 0]]]),
        ("reshape", "mean", [[rounded("5/3", "3"), rounded("8/3", "4/3")]]),
    ],
)
def test_every_policy_and_transform_by_hand(name: str, policy: str, expected: list[list[list[float]]]) -> None:
    targets = arrays_of(targets_of(views_of(LOGITS), LABELS_N, IDS, fitted(name), policy, None))
    assert [target.dtype for target in targets] == [np.float16] * len(expected)
    np.testing.assert_array_equal(targets, np.array(expected, np.float16))


def test_the_mean_is_rounded_once() -> None:
    # Reshaped to 4/3 [1, 2], [2, 3], [4, 5]: rounding each to float16 before the mean would give 3.1094, not 3.1113.
    logits = np.array([[[1, 2], [2, 3], [4, 5]]], np.float16)
    transform = LABELS["reshape"].make(2)
    transform.restore(np.array([4 / 3 / np.sqrt(2), 0]))
    [target] = arrays_of(targets_of(views_of(logits), np.zeros(1, int), IDS[:1], transform, "mean", None))
    np.testing.assert_array_equal(target, [rounded("28/9", "40/9")])
    views = arrays_of(targets_of(views_of(logits), np.zeros(1, int), IDS[:1], transform, "replay", None))
    assert np.float16(np.mean(views, axis=0, dtype=np.float64)[0, 0]) != target[0, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), views=st.integers(1, 5), classes=st.integers(3, 20))
def test_the_mean_is_numpys_of_the_exact_targets(seed: int, views: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 4, (7, views, classes)).astype(np.float16)
    label_n = generator.integers(0, classes, 7)
    std_C = generator.uniform(0.5, 5, classes)
    transform = LABELS["reshape"].make(classes)
    transform.restore(std_C)
    [target] = arrays_of(targets_of(views_of(logits), label_n, np.arange(7), transform, "mean", None))
    exact = logits.astype(np.longdouble)
    exact = exact / exact.std(axis=2, ddof=1, keepdims=True) * std_C[label_n][:, None, None]
    wrong = target.astype(np.longdouble) - exact.mean(axis=1)
    # Half a unit in the last place of float16, or of its smallest numbers.
    assert (np.abs(wrong) <= np.maximum(np.abs(exact.mean(axis=1)) * 2.0**-11, 2.0**-25) * (1 + 1e-9)).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), views=st.integers(1, 4))
def test_of_one_view_every_policy_says_the_same_and_of_many_each_view_speaks_for_itself(seed: int, views: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 4, (5, views, 6)).astype(np.float16)
    label_n, ids = generator.integers(0, 6, 5), np.arange(5)
    transform = LABELS["reshape"].make(6)
    transform.restore(np.ones(6))

    def made(logits_nVC: np.ndarray, policy: str) -> list[np.ndarray]:
        return arrays_of(targets_of(views_of(logits_nVC), label_n, ids, transform, policy, None))

    replayed = made(logits, "replay")
    assert len(replayed) == views
    for view, target in enumerate(replayed):
        [alone] = made(logits[:, view : view + 1], "single")
        np.testing.assert_array_equal(target, alone)
    [first] = made(logits, "single")
    np.testing.assert_array_equal(first, replayed[0])
    if views == 1:
        np.testing.assert_array_equal(made(logits, "mean"), replayed)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_largest_are_taken_of_what_the_policy_made(policy: str) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (9, 3, 8)).astype(np.float16)
    label_n = np.arange(9) % 8
    transform = fitted("reshape", logits, label_n)
    dense = targets_of(views_of(logits), label_n, np.arange(9), transform, policy, None)
    kept = targets_of(views_of(logits), label_n, np.arange(9), transform, policy, 3)
    assert len(kept) == len(dense)
    for largest, whole in zip(kept, dense, strict=True):
        assert (largest.top_k, whole.top_k) == (3, None)
        np.testing.assert_array_equal(largest.words(), top_k(whole.logits(), label_n, 3).words())


def scored_top_k(classes: int = 8, k: int = 3) -> tuple[np.ndarray, list[TopK], np.ndarray]:
    logits = np.random.default_rng(1).normal(0, 3, (9, 3, classes)).astype(np.float16)
    label_n = np.arange(9) % classes
    return logits, [top_k(logits[:, view], label_n, k) for view in range(3)], label_n


def test_views_scored_as_their_largest_pass_as_they_are_or_scaled_by_the_stored_std() -> None:
    logits, views, label_n = scored_top_k()
    raw = targets_of(views, label_n, np.arange(9), fitted("raw", logits, label_n), "replay", None)
    assert [target.words().tolist() for target in raw] == [view.words().tolist() for view in views]
    transform, dense = LABELS["reshape"].make(8), fitted("reshape", logits, label_n)
    for view in views[1:]:
        transform.fit(view, label_n, np.arange(9))
    transform.finish()
    np.testing.assert_allclose(transform.class_std_C, dense.class_std_C, rtol=1e-6)
    reshaped = targets_of(views, label_n, np.arange(9), transform, "replay", 3)
    for view, target in enumerate(reshaped):
        whole = dense.apply(FullLogits(logits[:, view]), label_n, np.arange(9)).logits()
        assert isinstance(target, TopK)
        np.testing.assert_array_equal(target.class_nK, views[view].class_nK)
        kept = np.take_along_axis(whole, target.class_nK.astype(int), axis=1)
        np.testing.assert_allclose(target.logit_nK.astype(float), kept.astype(float), rtol=2**-10)
        np.testing.assert_allclose(target.std_n, dense.class_std_C[label_n], rtol=1e-6)
    [single] = targets_of(views, label_n, np.arange(9), transform, "single", None)
    assert single.top_k == 3
    np.testing.assert_array_equal(single.words(), reshaped[0].words())


def test_what_the_largest_cannot_give_is_refused_with_what_to_do() -> None:
    logits, views, label_n = scored_top_k()
    transform = fitted("raw", logits, label_n)
    with pytest.raises(UsageError, match="cannot be averaged") as averaged:
        targets_of(views, label_n, np.arange(9), transform, "mean", None)
    assert "prune label --policy mean" in str(averaged.value)
    for asked in (2, 4):
        with pytest.raises(UsageError, match=f"--top-k {asked}: only the 3 largest"):
            targets_of(views, label_n, np.arange(9), transform, "replay", asked)
    assert len(targets_of(views[:1], label_n, np.arange(9), transform, "mean", None)) == 1


def test_a_target_out_of_the_range_of_float16_names_its_sample() -> None:
    logits, views, label_n = scored_top_k()
    transform = LABELS["reshape"].make(8)
    transform.restore(np.full(8, 1e5))
    for form in (views_of(logits), views):
        with pytest.raises(InputError, match=r"sample 20 .*leave the range of float16"):
            targets_of(form, label_n, np.arange(20, 29), transform, "replay", None)
    with pytest.raises(InputError, match="sample 20"):
        targets_of(views_of(logits), label_n, np.arange(20, 29), transform, "mean", None)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_part_of_which_nothing_is_kept_has_empty_targets(policy: str) -> None:
    for k in (None, 1):
        targets = targets_of(views_of(LOGITS[:0]), LABELS_N[:0], IDS[:0], fitted("reshape"), policy, k)
        assert [len(target) for target in targets] == [0] * (3 if policy == "replay" else 1)


@pytest.mark.parametrize(
    ("policy", "views", "top_k", "tables", "read", "shape"),
    [
        (None, 1, None, 1, 1, (1, 10)),
        (None, 4, None, 4, 4, (4, 10)),
        ("replay", 2, 3, 2, 2, (2, 19)),
        ("mean", 4, None, 1, 4, (1, 10)),
        ("single", 4, 9, 1, 1, (1, 31)),
    ],
)
def test_a_plan_says_what_is_read_and_stored(
    policy: str | None, views: int, top_k: int | None, tables: int, read: int, shape: tuple[int, int]
) -> None:
    plan = TargetPlan.resolve(policy, views, top_k, 10)
    assert plan.policy == policy or (policy is None and plan.policy == ("single" if views == 1 else "replay"))
    assert plan.tables == [f"targets/view-{view:03d}" for view in range(tables)]
    assert (plan.read_views, plan.shape) == (read, shape)


@pytest.mark.parametrize(
    ("policy", "views", "top_k", "says"),
    [
        ("often", 2, None, "replay, mean, single"),
        (None, 0, None, "--views 0"),
        (None, 2, 0, "--top-k"),
        (None, 2, 10, "--top-k"),
    ],
)
def test_a_plan_that_cannot_be_is_a_usage_error(policy: str | None, views: int, top_k: int | None, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        TargetPlan.resolve(policy, views, top_k, 10)
    assert says in str(refused.value)


def test_the_header_tells_of_the_views_that_are_carried() -> None:
    scored = Views(recipe="pad_crop_flip", version=1, seed=5, count=4, image_px=8, pad_px=1)
    assert carried_views(scored, 4) == scored
    fewer = carried_views(scored, 2)
    assert (fewer.count, fewer.recipe, fewer.seed, fewer.model_extra) == (2, "pad_crop_flip", 5, {"pad_px": 1})
    # The recipe says how fresh views are drawn, too.
    assert carried_views(scored, 1) == Views(recipe="pad_crop_flip", version=1, seed=5, count=1, image_px=8, pad_px=1)
