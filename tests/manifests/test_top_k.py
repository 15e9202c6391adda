import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from top_k_words import from_words

from manifests.errors import InputError, UsageError
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import (
    KNOWN_BETAS,
    TEMPERATURES,
    SoftLabels,
    TopK,
    keep_largest,
    tail_at,
    tail_weights,
    top_k,
    words_count,
)

finite = st.floats(-60, 60, width=16)


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@st.composite
def tables(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """(logits (n, C) float16, labels (n,), k), ties likely."""
    rows, classes = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    values = st.one_of(finite, st.sampled_from([0.0, -0.0, 1.0, 2.0]))
    logits = draw(hnp.arrays(np.float16, (rows, classes), elements=values))
    label = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return logits, label, draw(st.integers(1, classes - 1))


def test_five_classes_of_which_two_are_kept_by_hand() -> None:
    z = np.array([[1.0, 4.0, 0.0, 3.0, 2.0]])
    kept = top_k(z, np.array([4]), 2)
    assert kept.class_nK.tolist() == [[1, 3]]
    assert kept.logit_nK.tolist() == [[4.0, 3.0]]
    assert kept.label_logit_n.tolist() == [2.0]
    assert kept.mean_n.tolist() == [2.0]
    # Deviations -1, 2, -2, 1, 0: squares sum to 10, over 5 - 1.
    assert kept.std_n.tolist() == pytest.approx([math.sqrt(2.5)])
    # Not kept: logits 1, 0 and 2.
    by_hand = {
        0.5: math.log(math.e**2 + 1 + math.e**4),
        1.0: math.log(math.e + 1 + math.e**2),
        2.0: math.log(math.e**0.5 + 1 + math.e),
        4.0: math.log(math.e**0.25 + 1 + math.e**0.5),
    }
    assert kept.tail_n4.tolist() == [pytest.approx([by_hand[t] for t in TEMPERATURES], rel=1e-6)]
    # At T = 2 the three others share a tail of log 5.36700 = 1.68027: each at 2 * (1.68027 - log 3) = 1.16331.
    assert by_hand[2.0] == pytest.approx(1.68027, abs=1e-5)
    assert kept.logits(2.0).tolist() == [pytest.approx([1.16331, 4, 1.16331, 3, 1.16331], abs=1e-5)]
    # p_1 = e^2 / (e^2 + e^1.5 + 5.36700) = 7.38906 / 17.23775 = .42866 of the full vector, and of what was kept.
    assert softmax(z / 2)[0, 1] == pytest.approx(0.42866, abs=1e-5)
    assert softmax(kept.logits(2.0) / 2)[0, 1] == pytest.approx(0.42866, abs=1e-5)
    words = kept.words()
    assert (words.shape, words.dtype, words_count(2)) == ((1, 17), np.int16, 17)
    # Classes 1 and 3, then the bits of float16: 4 is 0x4400, 3 is 0x4200, the label's 2 is 0x4000.
    assert words[0, :4].tolist() == [1, 3, 0x4400, 0x4200]
    assert words[0, 12] == 0x4000
    assert words[0, 13:15].tobytes() == np.float32(2).tobytes()


def test_kept_probabilities_are_exact_where_one_remainder_spread_evenly_is_not() -> None:
    generator = np.random.default_rng(0)
    z = np.sort(generator.normal(0, 1, (1, 1000)), axis=1)[:, ::-1]
    z[0, 0] += 8.5
    z = z.astype(np.float16)
    full = softmax(z / np.float32(2))[0, 0]
    remainder = 1 - softmax(z)[0, :10].sum()
    spread = np.concatenate([np.log(softmax(z)[0, :10]), np.full(990, math.log(remainder / 990))])
    naive = softmax(spread[None] / 2)[0, 0]
    assert naive < 0.95 * full
    assert softmax(top_k(z, np.zeros(1, int), 10).logits(2.0) / 2)[0, 0] == pytest.approx(full, rel=1e-6)


def test_a_true_class_of_26_percent_does_not_become_22() -> None:
    # 9 kept classes at 0, the true one at a; 990 others of which 60 lie just below 0 and 930 far down.
    z = np.full((1, 1000), -9.0)
    z[0, :10], z[0, 10:70] = 0.0, -0.25
    for above in np.arange(5, 12, 0.125):
        z[0, 0] = above
        full = softmax(z / 2)[0, 0]
        if full >= 0.26:
            break
    assert full == pytest.approx(0.26, abs=0.02)
    remainder = 1 - softmax(z)[0, :10].sum()
    spread = np.where(np.arange(1000) < 10, np.log(softmax(z)[0]), math.log(remainder / 990))
    assert softmax(spread[None] / 2)[0, 0] < full - 0.03
    assert softmax(top_k(z, np.zeros(1, int), 10).logits(2.0) / 2)[0, 0] == pytest.approx(full, rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(tables())
@example((np.zeros((1, 2), np.float16), np.zeros(1, int), 1))
def test_kept_classes_have_the_probabilities_of_the_full_vector(table: tuple[np.ndarray, np.ndarray, int]) -> None:
    z, label, k = table
    kept = top_k(z, label, k)
    for temperature in TEMPERATURES:
        full = np.take_along_axis(softmax(z / np.float32(temperature)), kept.class_nK.astype(int), axis=1)
        dense = softmax(kept.logits(temperature) / np.float32(temperature))
        # float16 logits are exact inputs; what remains is float32 rounding of logits / T up to 120.
        np.testing.assert_allclose(np.take_along_axis(dense, kept.class_nK.astype(int), axis=1), full, rtol=1e-4)
        np.testing.assert_allclose(dense.sum(axis=1), 1)


@settings(max_examples=200, deadline=None)
@given(tables())
def test_the_largest_are_kept_in_order_and_ties_go_to_the_lowest_class(
    table: tuple[np.ndarray, np.ndarray, int],
) -> None:
    z, label, k = table
    kept = top_k(z, label, k)
    for row, logits in enumerate(z.tolist()):
        ranked = sorted(range(len(logits)), key=lambda c: (-logits[c], c))[:k]
        assert kept.class_nK[row].tolist() == ranked
        assert kept.logit_nK[row].tolist() == [logits[c] for c in ranked]
        assert kept.label_logit_n[row] == logits[label[row]]
        assert kept.mean_n[row] == pytest.approx(np.mean(logits), rel=1e-5, abs=1e-5)
        assert kept.std_n[row] == pytest.approx(np.std(logits, ddof=1), rel=1e-5, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_words_come_back_bit_for_bit(table: tuple[np.ndarray, np.ndarray, int]) -> None:
    z, label, k = table
    kept = top_k(z, label, k)
    words = kept.words()
    assert words.shape == (len(z), words_count(k))
    for form in (words, words.view(np.float16), np.asfortranarray(words), np.repeat(words, 2, axis=0)[::2]):
        back = from_words(form, k, z.shape[1])
        assert back.class_count == kept.class_count
        for name in ("class_nK", "logit_nK", "tail_n4", "label_logit_n", "mean_n", "std_n"):
            assert getattr(back, name).dtype == getattr(kept, name).dtype
            assert getattr(back, name).tobytes() == getattr(kept, name).tobytes(), name


def test_class_ids_above_2048_survive_up_to_the_last_of_65536() -> None:
    ids = np.array([2047, 2049, 2051, 4097, 32769, 65519, 65535])
    z = np.zeros((1, 65536), np.float16)
    z[0, ids] = np.arange(1, 8)
    kept = from_words(top_k(z, np.array([65535]), 7).words().view(np.float16), 7, 65536)
    assert kept.class_nK[0].tolist() == ids[::-1].tolist()
    dense = kept.logits()
    assert dense[0, ids].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert dense[0].argmax() == 65535


def test_rows_can_be_taken_by_slice_index_and_mask() -> None:
    z = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float16)
    kept = top_k(z, np.arange(5), 3)
    assert (len(kept), kept.top_k) == (5, 3)
    for rows in (slice(1, 4), np.array([4, 0, 0]), np.array([True, False, True, False, False])):
        assert kept[rows].words().tobytes() == top_k(z[rows], np.arange(5)[rows], 3).words().tobytes()


def test_full_and_largest_logits_give_the_same_answers() -> None:
    z = np.random.default_rng(0).normal(0, 3, (6, 9)).astype(np.float16)
    label, rows = np.arange(6), np.array([5, 0, 3])
    full: SoftLabels = FullLogits(z)
    kept = keep_largest(full, label, 4)
    assert (full.top_k, kept.top_k) == (None, 4)
    assert (full.class_count, len(full)) == (kept.class_count, len(kept)) == (9, 6)
    assert full.top1_n.tolist() == kept.top1_n.tolist() == z.argmax(axis=1).tolist()
    np.testing.assert_allclose(kept.std_n, full.std_n, rtol=1e-6)
    np.testing.assert_array_equal(kept.scaled(full.std_n).top1_n, full.scaled(full.std_n).top1_n)
    for labels in (full, kept):
        exact = np.take_along_axis(labels.logits_with(label), label[:, None], axis=1)[:, 0]
        assert exact.tolist() == z[np.arange(6), label].tolist()
        assert labels[rows].words().tobytes() == labels.words()[rows].tobytes()
        assert labels.finite_n.all()
        assert keep_largest(labels, label, labels.top_k) is labels is keep_largest(labels, label, None)
        assert labels.scaled(np.where(label == 2, 1e6, 1.0)).finite_n.tolist() == (label != 2).tolist()


def test_all_logits_are_never_copied() -> None:
    z = np.zeros((3, 4), np.float16)
    full = FullLogits(z)
    arrays = (full.logits(), full.logits(4.0), full.logits_with(np.zeros(3, int)), full.words(), full.columns("c")["c"])
    assert all(array is z for array in arrays)
    assert np.shares_memory(full[1:].logits(), z)


def test_no_rows_are_fine() -> None:
    none = top_k(np.zeros((0, 5), np.float16), np.zeros(0, int), 2)
    assert none.words().shape == (0, 17)
    assert none.logits().shape == (0, 5)
    assert len(from_words(none.words(), 2, 5).scaled(np.zeros(0))) == 0


def test_the_tail_is_exact_where_it_is_known_and_at_very_high_temperatures() -> None:
    for column, temperature in enumerate(TEMPERATURES, start=1):
        assert tail_weights(temperature).tolist() == np.eye(5)[column].tolist()
        assert KNOWN_BETAS[column] == 1 / temperature
    tail = np.array([[8.0, 4.0, 2.5, 2.0]], np.float32)
    assert tail_at(tail, 1e9, 7) == pytest.approx(math.log(7))
    # The line through T = 1 and T = .5 goes on: 4 more a unit of 1 / T.
    assert tail_at(tail, 1 / 3, 7) == pytest.approx(12.0)
    assert tail_at(np.repeat(tail, 2, axis=0), np.array([0.5, 2.0]), 7).tolist() == [8.0, 2.5]


@settings(max_examples=100, deadline=None)
@given(st.floats(0.3, 30), st.floats(-20, 20), st.integers(2, 50))
def test_a_tail_of_equal_logits_has_its_value_at_every_temperature(temperature: float, z: float, classes: int) -> None:
    tail = np.array([[z / t + math.log(classes) for t in TEMPERATURES]], np.float32)
    assert tail_at(tail, temperature, classes)[0] == pytest.approx(z / temperature + math.log(classes), abs=2e-4)


@pytest.mark.parametrize("classes", [100, 1000])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", ["normal", "heavy"])
def test_scaled_logits_keep_close_to_the_truth(classes: int, temperature: float, shape: str) -> None:
    """The worst over these draws was 7.1 % of a kept probability at either temperature, the worst median .7 %."""
    generator = np.random.default_rng(1)
    for k in (5, 10, 32):
        for deviation in (1.0, 2.0, 3.0, 4.0):
            drawn = generator.standard_t(5, (300, classes)) / 1.29 if shape == "heavy" else None
            z = (generator.normal(0, 1, (300, classes)) if drawn is None else drawn) * deviation
            z[:, 0] += 3 * deviation
            z = z.astype(np.float16)
            kept = top_k(z, np.zeros(300, int), k)
            scale = generator.uniform(0.6, 1.6, 300)
            reshaped = kept.scaled(scale)
            assert np.array_equal(reshaped.class_nK, kept.class_nK)
            np.testing.assert_allclose(reshaped.std_n, kept.std_n * scale, rtol=1e-6)
            truth = softmax(z * scale[:, None] / temperature)
            found = softmax(reshaped.logits(temperature) / temperature)
            rows = np.arange(300)[:, None]
            ratio = found[rows, kept.class_nK] / truth[rows, kept.class_nK]
            # The rounding of scaled logits to float16, half a unit of 2^-5 at 32 and above, is part of it.
            assert np.median(np.abs(ratio - 1)) < 0.01
            assert np.abs(ratio - 1).max() < 0.08


def test_scaling_by_one_changes_nothing() -> None:
    kept = top_k(np.random.default_rng(0).normal(0, 3, (6, 20)), np.arange(6), 4)
    assert kept.scaled(np.ones(6)).words().tobytes() == kept.words().tobytes()


def test_what_cannot_be_kept_is_refused() -> None:
    z, label = np.zeros((3, 5), np.float16), np.zeros(3, int)
    for k in (0, -1, 5, 6):
        with pytest.raises(UsageError, match=f"--top-k {k}: of 5 classes, 1 to 4"):
            top_k(z, label, k)
    with pytest.raises(ValueError, match="labels"):
        top_k(z, label[:2], 2)
    z = z.astype(np.float32)
    for wrong in (70_000.0, np.inf, np.nan):
        z[1, 2] = wrong
        with pytest.raises(InputError, match="row 1: a logit does not fit float16"):
            top_k(z, label, 2)
    kept = top_k(np.full((2, 5), 40_000.0), np.zeros(2, int), 2)
    assert kept.scaled(np.array([1.0, 2.0])).finite_n.tolist() == [True, False]
    with pytest.raises(ValueError, match="positive"):
        kept.scaled(np.array([1.0, 0.0]))


def test_words_of_another_shape_or_with_a_class_there_is_not_are_refused() -> None:
    words = top_k(np.eye(4, 9), np.arange(4), 2).words()
    with pytest.raises(ValueError, match="17 words"):
        from_words(words[:, :-1], 2, 9)
    with pytest.raises(ValueError, match="outside the 3 classes"):
        from_words(words, 2, 3)
    kept = from_words(words, 2, 9)
    with pytest.raises(ValueError, match="arrays of 4 rows"):
        TopK(9, kept.class_nK, kept.logit_nK, kept.tail_n4, kept.label_logit_n, kept.mean_n, kept.std_n[:2])
