import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from manifests.errors import InputError, UsageError
from manifests.format.soft_labels import FullLogits, row_std
from prune_toolkit.selection.labels import LABELS, label_transform, reshape

# Unbiased deviations 2, 4 (class 0, mean 3) and sqrt(3) (class 1).
LOGITS = np.array([[0, 2, 4], [0, 4, 8], [1, 1, 4]], np.float16)
LABELS_N = np.array([0, 0, 1])
IDS = np.array([10, 11, 12])


def reshaped(
    logits: NDArray[np.float16], labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    transform = LABELS["reshape"].make(classes)
    sample_ids = np.arange(len(labels))
    transform.fit(FullLogits(logits), labels, sample_ids)
    transform.finish()
    assert transform.class_std_C is not None
    return transform.apply(FullLogits(logits), labels, sample_ids).logits(), transform.class_std_C


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    teacher = LogisticRegression(max_iter=2000).fit(images[::3] / 16, labels[::3])
    return teacher.decision_function(images / 16).astype(np.float16), labels.astype(np.int64)


def test_raw_targets_are_the_stored_bits() -> None:
    transform = LABELS["raw"].make(3)
    transform.fit(FullLogits(LOGITS), LABELS_N, IDS)
    transform.finish()
    target = transform.apply(FullLogits(LOGITS), LABELS_N, IDS).logits()
    assert target.dtype == np.float16
    np.testing.assert_array_equal(target.view(np.int16), LOGITS.view(np.int16))
    assert transform.class_std_C is None
    assert not LABELS["raw"].needs_fit


def test_reshape_worked_by_hand() -> None:
    target, class_std = reshaped(LOGITS, LABELS_N, 2)
    assert LABELS["reshape"].needs_fit
    np.testing.assert_allclose(class_std, [3, np.sqrt(3)], rtol=1e-15)
    assert target.dtype == np.float16
    np.testing.assert_array_equal(target, [[0, 3, 6], [0, 3, 6], [1, 1, 4]])


def test_the_std_is_the_unbiased_one() -> None:
    np.testing.assert_array_equal(row_std(np.array([[1, 3]], np.float16)), [np.sqrt(2)])


def test_class_means_count_samples_that_selection_drops() -> None:
    transform = LABELS["reshape"].make(2)
    transform.fit(FullLogits(LOGITS), LABELS_N, IDS)
    transform.finish()
    np.testing.assert_array_equal(
        transform.apply(FullLogits(LOGITS[1:2]), LABELS_N[1:2], IDS[1:2]).logits(), [[0, 3, 6]]
    )


def test_the_views_of_a_sample_are_pooled_into_its_class() -> None:
    transform = LABELS["reshape"].make(2)
    for view in (LOGITS, LOGITS * np.float16(3)):
        transform.fit(FullLogits(view), LABELS_N, IDS)
    transform.finish()
    assert transform.class_std_C is not None
    np.testing.assert_allclose(transform.class_std_C, [6, 2 * np.sqrt(3)], rtol=1e-15)


def test_a_class_without_samples_has_std_0() -> None:
    assert reshaped(LOGITS, LABELS_N, 4)[1].tolist()[2:] == [0.0, 0.0]


def test_row_std_of_real_logits_is_torchs_unbiased_std(digits: tuple[NDArray[np.float16], NDArray[np.int64]]) -> None:
    logits, _ = digits
    oracle = torch.from_numpy(logits).double().std(dim=1, unbiased=True).numpy()
    np.testing.assert_allclose(row_std(logits), oracle, rtol=1e-13)


def test_reshape_of_real_logits_is_the_published_formula_in_float64(
    digits: tuple[NDArray[np.float16], NDArray[np.int64]],
) -> None:
    logits, labels = digits
    target, class_std = reshaped(logits, labels, 10)
    exact = torch.from_numpy(logits).double()
    stds = exact.std(dim=1, unbiased=True, keepdim=True)
    means = torch.stack([stds[torch.from_numpy(labels) == c].mean() for c in range(10)])
    np.testing.assert_allclose(class_std, means.numpy(), rtol=1e-13)
    oracle = (exact / stds * means[torch.from_numpy(labels)][:, None]).numpy()
    np.testing.assert_allclose(target.astype(np.float64), oracle, rtol=2**-11, atol=2**-25)


def test_reshape_is_a_teacher_temperature_of_each_sample(
    digits: tuple[NDArray[np.float16], NDArray[np.int64]],
) -> None:
    logits, labels = digits
    target, class_std = reshaped(logits, labels, 10)
    temperature = 4.0
    own_temperature = temperature * row_std(logits) / class_std[labels]
    np.testing.assert_allclose(
        softmax(target.astype(np.float64) / temperature, axis=1),
        softmax(logits.astype(np.float64) / own_temperature[:, None], axis=1),
        rtol=5e-3,
        atol=1e-6,
    )


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 30),
    classes=st.integers(5, 40),
    scale=st.sampled_from([0.25, 3, 50]),
)
def test_reshape_keeps_the_largest_logit_and_gives_the_class_std(
    seed: int, rows: int, classes: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(rng.normal(0, scale), scale, (rows, classes)).astype(np.float16)
    logits[:, 0] += np.float16(scale)
    labels = rng.integers(0, classes, rows)
    target, class_std = reshaped(logits, labels, classes)
    top = logits.argmax(axis=1)
    np.testing.assert_array_equal(target[np.arange(rows), top], target.max(axis=1))
    # Half a unit in the last place of float16, of the largest target of a row.
    error = np.abs(target.astype(np.float64)).max(axis=1) * 2**-11
    assert (np.abs(row_std(target) - class_std[labels]) <= 2 * error).all()


def test_class_means_are_the_same_in_parts(digits: tuple[NDArray[np.float16], NDArray[np.int64]]) -> None:
    logits, labels = digits
    whole = reshaped(logits, labels, 10)[1]
    transform = LABELS["reshape"].make(10)
    for start in range(0, len(labels), 100):
        part = slice(start, start + 100)
        transform.fit(FullLogits(logits[part]), labels[part], np.arange(len(labels))[part])
    transform.finish()
    assert transform.class_std_C is not None
    np.testing.assert_allclose(transform.class_std_C, whole, rtol=1e-14)


@pytest.mark.parametrize("value", [0.0, 1.3330078125, -65504.0])
@pytest.mark.parametrize("classes", [2, 7, 10_000])
def test_a_constant_row_is_refused_with_its_sample_and_class(value: float, classes: int) -> None:
    logits = np.full((2, classes), value, np.float16)
    logits[0, 0] += np.float16(64)
    transform = LABELS["reshape"].make(classes)
    transform.fit(FullLogits(logits), LABELS_N[1:], IDS[1:])
    transform.finish()
    with pytest.raises(InputError, match=re.escape("sample 12 (class 1): all its logits are equal")):
        transform.apply(FullLogits(logits), LABELS_N[1:], IDS[1:])


def test_a_constant_row_that_is_dropped_does_no_harm() -> None:
    logits = np.array([[0, 2, 4], [5, 5, 5]], np.float16)
    transform = LABELS["reshape"].make(1)
    transform.fit(FullLogits(logits), np.zeros(2, int), IDS[:2])
    transform.finish()
    np.testing.assert_array_equal(
        transform.apply(FullLogits(logits[:1]), np.zeros(1, int), IDS[:1]).logits(), [[0, 1, 2]]
    )


def test_a_target_beyond_float16_is_refused_with_its_sample_and_class() -> None:
    logits = np.array([[60000, 60001, 60032], [0, 20000, 60000]], np.float16)
    transform = LABELS["reshape"].make(2)
    transform.fit(FullLogits(logits), np.array([1, 1]), IDS[1:])
    transform.finish()
    with pytest.raises(InputError, match=re.escape("sample 11 (class 1): its reshaped logits leave the range")):
        transform.apply(FullLogits(logits), np.array([1, 1]), IDS[1:])


@pytest.mark.parametrize("name", ["raw", "reshape"])
def test_logits_that_are_not_finite_are_refused_with_their_sample(name: str) -> None:
    logits = LOGITS.copy()
    logits[1, 2] = np.nan
    transform = LABELS[name].make(2)
    transform.fit(FullLogits(LOGITS), LABELS_N, IDS)
    transform.finish()
    with pytest.raises(InputError, match="sample 11: logit 2 is nan"):
        transform.apply(FullLogits(logits), LABELS_N, IDS)
    if LABELS[name].needs_fit:
        with pytest.raises(InputError, match="sample 11: logit 2 is nan"):
            transform.fit(FullLogits(logits), LABELS_N, IDS)


def test_applying_before_fitting_is_a_bug() -> None:
    transform = LABELS["reshape"].make(2)
    with pytest.raises(RuntimeError, match="finish"):
        transform.apply(FullLogits(LOGITS), LABELS_N, IDS)
    transform.fit(FullLogits(LOGITS[:2]), LABELS_N[:2], IDS[:2])
    transform.finish()
    with pytest.raises(RuntimeError, match="every class"):
        transform.apply(FullLogits(LOGITS), LABELS_N, IDS)


@pytest.mark.parametrize("name", ["raw", "reshape"])
def test_a_part_of_which_nothing_is_kept_has_no_targets(name: str) -> None:
    transform = LABELS[name].make(2)
    transform.fit(FullLogits(LOGITS), LABELS_N, IDS)
    transform.finish()
    assert transform.apply(FullLogits(LOGITS[:0]), LABELS_N[:0], IDS[:0]).logits().shape == (0, 3)


def test_stored_class_means_reshape_further_views() -> None:
    np.testing.assert_array_equal(
        reshape(FullLogits(LOGITS[:1] * np.float16(2)), LABELS_N[:1], IDS[:1], np.array([3.0, 0.0])).logits(),
        [[0, 3, 6]],
    )


def test_a_restored_transform_gives_the_targets_of_the_fitted_one() -> None:
    expected, class_std = reshaped(LOGITS, LABELS_N, 3)
    transform = LABELS["reshape"].make(3)
    transform.restore(class_std)
    np.testing.assert_array_equal(transform.apply(FullLogits(LOGITS), LABELS_N, IDS).logits(), expected)
    with pytest.raises(RuntimeError, match="every class"):
        transform.apply(FullLogits(LOGITS), LABELS_N + 1, IDS)
    raw = LABELS["raw"].make(3)
    raw.restore(class_std)
    assert raw.class_std_C is None


@pytest.mark.parametrize("name", ["raw", "reshape"])
def test_targets_for_a_mean_are_not_rounded(name: str) -> None:
    transform = LABELS[name].make(2)
    transform.restore(np.array([1.0, 1.0]))
    exact = transform.exact(LOGITS, LABELS_N, IDS)
    assert exact.dtype == np.float64
    scale = 1 if name == "raw" else 1 / LOGITS.astype(np.float64).std(axis=1, ddof=1, keepdims=True)
    np.testing.assert_allclose(exact, LOGITS * scale, rtol=1e-15)
    np.testing.assert_array_equal(exact.astype(np.float16), transform.apply(FullLogits(LOGITS), LABELS_N, IDS).logits())


def test_label_transforms_are_listed_and_a_name_can_be_taken_once() -> None:
    assert list(LABELS) == ["raw", "revise", "reshape", "soften"]
    assert all(entry.formula and entry.source for entry in LABELS.values())
    with pytest.raises(UsageError, match="unknown label transform 'soft'"):
        LABELS["soft"]
    with pytest.raises(ValueError, match="registered already"):
        label_transform("raw", formula="", source="", needs_fit=False)(LABELS["raw"].make)
