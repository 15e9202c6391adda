import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from manifests.errors import InputError, UsageError
from manifests.format import soft_labels
from prune_toolkit.scoring.logit_scores import (
    SCORES,
    Calibration,
    LogitScore,
    check_finite,
    compute_scores,
    is_near_chance,
    score,
    top1,
)

# Probabilities of a 4 x 3 table that can be worked by hand.
PROBABILITIES = np.array([[1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3], [1 / 8, 1 / 8, 3 / 4]])
LOGITS = np.log(PROBABILITIES).astype(np.float32)
LABELS = np.array([0, 1, 2, 2])
LN2, LN3 = math.log(2), math.log(3)
BY_HAND: dict[str, list[float]] = {
    "loss": [LN2, 2 * LN2, LN3, 2 * LN2 - LN3],
    "confidence": [1 / 2, 1 / 2, 1 / 3, 3 / 4],
    "entropy": [1.5 * LN2, 1.5 * LN2, LN3, 0.75 * LN2 + 0.75 * (2 * LN2 - LN3)],
    "margin": [LN2, -LN2, 0, LN2 + LN3],
    "top2_margin": [1 / 4, 1 / 4, 0, 5 / 8],
    "el2n": [math.sqrt(3 / 8), math.sqrt(7 / 8), math.sqrt(2 / 3), math.sqrt(6) / 8],
    "correct": [1, 0, 0, 1],
}


def calibration_error(logits: NDArray[np.float16], labels: NDArray[np.int64]) -> float:
    calibration = Calibration()
    calibration.add_logits(logits, labels)
    return calibration.ece


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Logits as stored of a real teacher that saw a third of the digits, and all labels."""
    images, labels = load_digits(return_X_y=True)
    teacher = LogisticRegression(max_iter=2000).fit(images[::3] / 16, labels[::3])
    return teacher.decision_function(images / 16).astype(np.float16), labels.astype(np.int64)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_score_of_the_hand_worked_table_is_what_the_formula_gives(name: str) -> None:
    np.testing.assert_allclose(SCORES[name](LOGITS, LABELS), BY_HAND[name], rtol=1e-6, atol=1e-7)


def test_every_registered_score_is_worked_by_hand() -> None:
    assert [entry.name for entry in LogitScore.registered()] == list(BY_HAND)


def test_the_margins_of_integer_logits_are_exact() -> None:
    logits = np.array([[5, 2, 2], [1, 4, 3], [7, 7, 0], [-3, -8, -1]], np.float16)
    np.testing.assert_array_equal(SCORES["margin"](logits, np.array([0, 2, 1, 0])), [3, -1, 0, -2])


@pytest.mark.parametrize("name", [name for name in BY_HAND if name != "correct"])
def test_trap_2_the_less_sure_of_two_correct_samples_is_the_harder_one(name: str) -> None:
    logits = np.array([[8, 0, 0], [4, 0, 0], [2, 0, 0], [0.5, 0, 0]], np.float16)
    values = SCORES[name](logits, np.zeros(4, int))
    difficulty = values if SCORES[name].harder == "high" else -values
    assert (np.diff(difficulty) > 0).all()


def test_a_wrong_prediction_is_harder_than_a_right_one_by_correct() -> None:
    right, wrong = SCORES["correct"](np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([0, 1]))
    assert SCORES["correct"].harder == "low"
    assert (right, wrong) == (1.0, 0.0)


def test_the_first_of_equal_logits_is_the_prediction() -> None:
    logits = np.array([[3, 3, 1], [3, 3, 1]], np.float16)
    assert SCORES["correct"](logits, np.array([0, 1])).tolist() == [1.0, 0.0]


def test_logits_at_the_ends_of_float16_neither_overflow_nor_become_nan() -> None:
    logits = np.array([[65504, -65504], [65504, -65504], [65504, 65504]], np.float16)
    values = compute_scores(logits, np.array([0, 1, 0]))
    np.testing.assert_array_equal(values["loss"], np.array([0, 131008, LN2], np.float32))
    np.testing.assert_array_equal(values["margin"], [131008, -131008, 0])
    np.testing.assert_array_equal(values["entropy"], np.array([0, 0, LN2], np.float32))
    np.testing.assert_allclose(values["el2n"], [0, math.sqrt(2), math.sqrt(1 / 2)], rtol=1e-7)


def test_confident_samples_keep_their_order() -> None:
    logits = np.array([[20, 0], [30, 0], [40, 0]], np.float16)
    exact = [math.log1p(math.exp(-gap)) for gap in (20, 30, 40)]
    np.testing.assert_allclose(SCORES["loss"](logits, np.zeros(3, int)), exact, rtol=1e-6)
    np.testing.assert_allclose(
        SCORES["el2n"](logits, np.zeros(3, int)), np.exp([-20.0, -30.0, -40.0]) * math.sqrt(2), rtol=1e-6
    )
    assert (np.diff(SCORES["entropy"](logits, np.zeros(3, int))) < 0).all()


def test_scores_of_real_logits_agree_with_scipy_and_torch_in_float64(
    digits: tuple[NDArray[np.float16], NDArray[np.int64]],
) -> None:
    logits, labels = digits
    stored = logits.astype(np.float64)
    probabilities, rows = softmax(stored, axis=1), np.arange(len(labels))
    onehot = np.eye(10)[labels]
    values = compute_scores(logits, labels)
    assert all(column.dtype == np.float32 and column.shape == (1797,) for column in values.values())
    oracles: dict[str, NDArray[np.float64]] = {
        "loss": torch.nn.functional.cross_entropy(
            torch.from_numpy(stored), torch.from_numpy(labels), reduction="none"
        ).numpy(),
        "confidence": probabilities.max(axis=1),
        "entropy": scipy_entropy(probabilities, axis=1),
        "margin": stored[rows, labels] - np.where(onehot == 1, -np.inf, stored).max(axis=1),
        "top2_margin": np.diff(np.sort(probabilities, axis=1)[:, -2:], axis=1)[:, 0],
        "el2n": np.linalg.norm(probabilities - onehot, axis=1),
        "correct": (torch.from_numpy(stored).argmax(dim=1).numpy() == labels).astype(float),
    }
    for name, oracle in oracles.items():
        np.testing.assert_allclose(values[name], oracle, rtol=2e-7, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(values["loss"], -log_softmax(stored, axis=1)[rows, labels], rtol=2e-7, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    logits=hnp.arrays(
        np.float16,
        st.tuples(st.integers(1, 12), st.integers(2, 40)),
        elements=st.floats(-65504, 65504, width=16),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sample_scores_the_same_bits_whatever_rows_are_beside_it(logits: NDArray[np.float16], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, logits.shape[1], len(logits))
    together, order = compute_scores(logits, labels), rng.permutation(len(logits))
    permuted = compute_scores(logits[order], labels[order])
    for name, column in together.items():
        assert np.isfinite(column).all()
        np.testing.assert_array_equal(permuted[name], column[order])
        np.testing.assert_array_equal(SCORES[name](logits[:1], labels[:1]), column[:1])


@pytest.mark.parametrize("classes", [2, 1000, 10_000])
def test_scores_do_not_depend_on_how_rows_fall_into_blocks(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(classes)
    logits, labels = rng.normal(0, 4, (150, classes)).astype(np.float16), rng.integers(0, classes, 150)
    in_blocks = compute_scores(logits, labels)
    monkeypatch.setattr(soft_labels, "BLOCK_VALUES", 7 * classes)
    for name, column in compute_scores(logits, labels).items():
        np.testing.assert_array_equal(column, in_blocks[name])
    probabilities = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(in_blocks["entropy"], scipy_entropy(probabilities, axis=1), rtol=2e-7)


def test_adding_a_constant_to_a_row_changes_no_score() -> None:
    logits = np.array([[1, 5, -2], [0, 0.25, 3]], np.float16)
    shifted = compute_scores(logits + np.float16(16), np.array([1, 0]))
    for name, column in compute_scores(logits, np.array([1, 0])).items():
        np.testing.assert_array_equal(shifted[name], column)


def test_only_the_scores_asked_for_are_computed_in_that_order() -> None:
    assert list(compute_scores(LOGITS, LABELS, ["margin", "loss"])) == ["margin", "loss"]


def test_no_samples_have_empty_scores() -> None:
    assert compute_scores(LOGITS[:0], LABELS[:0], ["loss"])["loss"].shape == (0,)
    assert math.isnan(top1(LOGITS[:0], LABELS[:0]))


def test_a_score_name_can_be_taken_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        score("loss", harder="high", formula="", source="")(lambda rows: rows.rest_n)


def test_an_unknown_score_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known: loss, confidence"):
        compute_scores(LOGITS, LABELS, ["lost"])


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_label_outside_the_classes_is_refused(bad: int) -> None:
    with pytest.raises(InputError, match=f"row 2: label {bad} is outside the 3 classes"):
        compute_scores(LOGITS, np.array([0, 1, bad, 2]))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (3, 3)])
def test_a_table_of_another_shape_is_a_bug(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        compute_scores(np.zeros(shape), LABELS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_sample_with_a_logit_that_is_not_finite_is_named(bad: float) -> None:
    logits = LOGITS.astype(np.float16)
    check_finite(logits, [10, 11, 12, 13])
    logits[2, 1] = logits[3, 0] = bad
    with pytest.raises(InputError, match=rf"sample 12: logit 1 is {bad} \(2 of 4"):
        check_finite(logits, np.array([10, 11, 12, 13]))
    with pytest.raises(InputError, match=r"sample train/c\.png: logit 1"):
        check_finite(logits, ["train/a.png", "train/b.png", "train/c.png", "train/d.png"])


def test_top1_is_the_fraction_of_correct_samples() -> None:
    assert top1(LOGITS, LABELS) == 0.5


def test_calibration_error_of_four_samples_by_hand() -> None:
    calibration = Calibration(bins=5)
    calibration.add(np.array([0.6, 0.6, 0.9, 0.9]), np.array([1.0, 0.0, 1.0, 1.0]))
    # (0.4, 0.6]: accuracy 0.5, confidence 0.6; (0.8, 1]: 1 and 0.9; each holds half of the samples.
    assert calibration.count_B.tolist() == [0, 0, 2, 0, 2]
    assert calibration.ece == pytest.approx(0.1)
    assert calibration.top1 == 0.75


def test_calibration_error_of_real_logits_is_guos_sum_over_bins(
    digits: tuple[NDArray[np.float16], NDArray[np.int64]],
) -> None:
    logits, labels = digits
    confidences, predictions = torch.from_numpy(logits).double().softmax(dim=1).max(dim=1)
    accuracies = predictions.eq(torch.from_numpy(labels)).double()
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = confidences.gt(low) & confidences.le(high)
        if inside.any():
            gap = confidences[inside].mean() - accuracies[inside].mean()
            expected += float(gap.abs() * inside.double().mean())
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-7)
    assert 0.9 < top1(logits, labels) == float(accuracies.mean()) < 1


def test_calibration_is_the_same_fed_in_parts(digits: tuple[NDArray[np.float16], NDArray[np.int64]]) -> None:
    logits, labels = digits
    calibration = Calibration()
    for start in range(0, len(labels), 500):
        values = compute_scores(logits[start : start + 500], labels[start : start + 500])
        calibration.add(values["confidence"], values["correct"])
    assert calibration.count == len(labels)
    assert calibration.top1 == top1(logits, labels)
    assert calibration.ece == pytest.approx(calibration_error(logits, labels), abs=1e-12)


def test_calibration_of_nothing_is_nan() -> None:
    assert math.isnan(Calibration().ece)
    assert math.isnan(Calibration().top1)


@pytest.mark.parametrize(
    ("top1", "classes", "expected"),
    [(0.59, 2, True), (0.61, 2, False), (0.43, 3, True), (0.44, 3, False), (0.19, 10, True), (0.2, 10, False),
     (0.0019, 1000, True), (0.002, 1000, False)],
)  # fmt: skip
def test_a_teacher_near_chance_is_doubted(top1: float, classes: int, expected: bool) -> None:
    """Under 2/C from ten classes on; under 1/C + 0.1 of fewer."""
    assert is_near_chance(top1, classes) is expected
