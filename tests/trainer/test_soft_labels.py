"""Top-k words on the device against the numpy implementation, and against the logits they came from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from top_k_words import from_words

from manifests.format.top_k import TEMPERATURES, top_k
from trainer.data.dense_labels import dense_logits


def as_loaders_bring_them(words):
    return torch.from_numpy(words).view(torch.float16)


@given(
    classes=st.integers(2, 300),
    kept=st.floats(0, 1),
    temperature=st.sampled_from([*TEMPERATURES, 0.3, 0.7, 1.5, 3.0, 5.0, 20.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_it_is_the_twin_of_the_numpy_implementation(classes, kept, temperature, seed):
    k, generator = 1 + int(kept * (classes - 2)), np.random.default_rng(seed)
    logits_nC = generator.normal(0, 4, (7, classes))
    words = top_k(logits_nC, generator.integers(0, classes, 7), k).words()
    got = dense_logits(as_loaders_bring_them(words), k, classes, temperature)
    assert (got.dtype, got.shape) == (torch.float32, (7, classes))
    want = from_words(words, k, classes).logits(temperature)
    np.testing.assert_allclose(got.numpy(), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kept_classes_have_the_probabilities_of_the_full_logits(temperature):
    logits_nC = np.random.default_rng(0).normal(0, 4, (9, 100)).astype(np.float16)
    stored = top_k(logits_nC, np.arange(9), 10)
    got = dense_logits(as_loaders_bring_them(stored.words()), 10, 100, temperature).double().numpy()
    kept = stored.class_nK.astype(np.int64)
    ours, want = (softmax(values / temperature, axis=1) for values in (got, logits_nC.astype(np.float64)))
    np.testing.assert_allclose(np.take_along_axis(ours, kept, 1), np.take_along_axis(want, kept, 1), rtol=1e-5)


def test_class_ids_above_32767_are_no_negative_numbers():
    logits_nC = np.zeros((1, 60_000))
    logits_nC[0, [59_999, 32_768, 5]] = [9, 8, 7]
    got = dense_logits(as_loaders_bring_them(top_k(logits_nC, np.zeros(1, int), 3).words()), 3, 60_000, 1.0)
    assert got[0].topk(3).indices.tolist() == [59_999, 32_768, 5]
    assert got[0].topk(3).values.tolist() == [9, 8, 7]


def test_full_logits_are_given_back_as_they_are():
    target = torch.randn(3, 5, dtype=torch.float16)
    assert dense_logits(target, None, 5, 4.0) is target
    with pytest.raises(ValueError, match="17 words per row expected for 2 classes, not 5"):
        dense_logits(target, 2, 5, 4.0)


@given(
    classes=st.integers(3, 60),
    kept=st.floats(0, 1),
    temperature=st.sampled_from(TEMPERATURES),
    spread=st.floats(0.1, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_label_has_its_own_probability_also_where_it_is_not_kept(classes, kept, temperature, spread, seed):
    k, generator = 1 + int(kept * (classes - 2)), np.random.default_rng(seed)
    logits_nC = generator.normal(0, spread, (9, classes)).astype(np.float16)
    label_n = generator.integers(0, classes, 9)
    stored = top_k(logits_nC, label_n, k)
    words = as_loaders_bring_them(stored.words())
    got = dense_logits(words, k, classes, temperature, torch.from_numpy(label_n))
    assert got.dtype == torch.float32
    ours, want = (softmax(values.astype(np.float64) / temperature, axis=1) for values in (got.numpy(), logits_nC))
    rows, kept_nK = np.arange(9), stored.class_nK.astype(np.int64)
    np.testing.assert_allclose(ours[rows, label_n], want[rows, label_n], rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(ours, kept_nK, 1), np.take_along_axis(want, kept_nK, 1), rtol=2e-5)
    # What is left of the tail is even.
    for row in rows:
        others = np.setdiff1d(np.arange(classes), [*kept_nK[row], label_n[row]])
        assert len(set(got[row, others].tolist())) <= 1
    # Where the label is kept it makes no difference.
    plain = dense_logits(words, k, classes, temperature)
    is_kept = torch.from_numpy((kept_nK == label_n[:, None]).any(axis=1))
    assert torch.equal(got[is_kept], plain[is_kept])


def test_a_label_that_is_nearly_all_of_the_tail_leaves_finite_logits():
    logits_nC = np.array([[9.0, 8.0, -60_000.0, -60_000.0]])
    words = as_loaders_bring_them(top_k(logits_nC, np.array([1]), 1).words())
    for temperature in (0.3, *TEMPERATURES, 20.0):
        got = dense_logits(words, 1, 4, temperature, torch.tensor([1]))
        assert torch.isfinite(got).all()
        assert got[0, :2].tolist() == [9.0, 8.0]
