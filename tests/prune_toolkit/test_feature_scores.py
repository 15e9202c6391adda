"""Scores of penultimate features against hand-worked numbers, autograd, and plain loops."""

import statistics
import tracemalloc

import numpy as np
import pytest
import torch
from feature_tables import table_of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.datasets import load_digits

from manifests.format.top_k import top_k
from prune_toolkit.scoring import feature_scores
from prune_toolkit.scoring.feature_scores import FeatureRows, FeatureTable, class_medians, held_out_split
from prune_toolkit.scoring.score import SCORES

LN2 = np.log(2)


def table_of(features, logits, labels, held_out=None):
    labels = np.asarray(labels)
    held_out = np.ones(len(labels), bool) if held_out is None else np.asarray(held_out)
    return table_of_arrays(np.asarray(features, float), np.asarray(logits, float), labels, held_out)


def random_table(rng, count, width, classes):
    labels = rng.integers(0, classes, count)
    return table_of(
        rng.normal(size=(count, width)), rng.normal(0, 2, (count, classes)), labels, rng.random(count) < 0.4
    )


def test_grand_by_hand():
    # p = (2/3, 1/3) and y = 0: p - y = (-1/3, 1/3), of norm sqrt(2) / 3; h = (2, 2) and the bias' 1: norm 3.
    table = table_of([[2, 2], [0, 0]], [[LN2, 0], [0, 0]], [0, 1])
    # p = (1/2, 1/2) and y = 1: norm sqrt(1/2), and of h the bias alone.
    np.testing.assert_allclose(SCORES["grand"](table), [np.sqrt(2), np.sqrt(0.5)], rtol=1e-7)


def test_grand_is_the_norm_of_the_last_layers_gradient():
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(5, 4).double()
    h_nD, label_n = torch.from_numpy(rng.normal(size=(40, 5))), torch.from_numpy(rng.integers(0, 4, 40))
    logits_nC = layer(h_nD)
    expected = []
    for logits, label in zip(logits_nC, label_n, strict=True):
        loss = torch.nn.functional.cross_entropy(logits[None], label[None])
        grads = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
        expected.append(torch.cat([grad.flatten() for grad in grads]).norm().item())
    table = table_of(h_nD, logits_nC.detach().numpy(), label_n.numpy())
    np.testing.assert_allclose(SCORES["grand"](table), expected, rtol=1e-6)


def test_grand_tells_confident_samples_apart():
    table = table_of(np.ones((3, 2)), [[20, 0], [40, 0], [60, 0]], [0, 0, 0])
    np.testing.assert_allclose(SCORES["grand"](table), np.exp([-20.0, -40.0, -60.0]) * np.sqrt(6), rtol=1e-6)


def test_moderate_by_hand():
    features = [[0, 0], [4, 0], [1, 9], [3, 4], [0, 0]]
    # Class 0 has medians (1, 0); class 1 has the mean of the two middle ones, (1.5, 2).
    table = table_of(features, np.zeros((5, 3)), [0, 0, 0, 1, 1])
    assert class_medians(table).tolist() == [[1, 0], [1.5, 2], [0, 0]]
    assert SCORES["moderate"](table).tolist() == [1, 3, 9, 2.5, 2.5]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), step=st.integers(1, 5))
def test_medians_are_those_of_a_plain_loop_however_many_columns_are_read_at_once(seed, count, step):
    table = random_table(np.random.default_rng(seed), count, 4, 3)
    [block] = table.blocks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_scores, "MOST_BYTES", 2 * count * step)
        found = class_medians(table)
    for label in range(3):
        rows = block.features_nD[block.label_n == label]
        expected = [statistics.median(column) if len(rows) else 0 for column in rows.T] or [0] * 4
        np.testing.assert_allclose(found[label], expected, rtol=1e-12)


def test_medians_never_hold_more_features_than_they_may(monkeypatch):
    count, width, block_rows = 30_000, 64, 1000
    labels = np.arange(count) % 10

    def blocks():
        rng = np.random.default_rng(0)
        for start in range(0, count, block_rows):
            features = rng.normal(size=(block_rows, width)).astype(np.float16)
            yield FeatureRows(features, features.copy, labels[start : start + block_rows])

    table = FeatureTable(label_N=labels, class_count=10, width=width, blocks=blocks, held_out=blocks, copies=None)
    monkeypatch.setattr(feature_scores, "MOST_BYTES", 2 * count * 8)
    tracemalloc.start()
    class_medians(table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All of them are 3.8 MB; 8 columns are 0.5 MB, a block in float64 as much, a class and the order the rest.
    assert peak < 2_800_000


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block_rows=st.integers(1, 40))
def test_scores_follow_their_samples_whatever_order_and_blocks_they_come_in(seed, block_rows):
    rng = np.random.default_rng(seed)
    whole = random_table(rng, 30, 4, 3)
    [block] = whole.blocks()
    order = rng.permutation(30)
    is_held_N = whole.copies() > 0
    shuffled = table_of(block.features_nD[order], block.logits_nC[order], block.label_n[order], is_held_N[order])
    expected = {name: SCORES[name](whole) for name in ("grand", "moderate", "influence")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_scores, "BLOCK_ROWS", block_rows)
        for name, value_N in expected.items():
            assert value_N.dtype == np.float32
            np.testing.assert_allclose(SCORES[name](shuffled), value_N[order], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_logit_row_is_p_minus_y():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (20, 5)), rng.integers(0, 5, 20)
    rows = FeatureRows(np.ones((20, 1)), lambda: logits, labels)
    np.testing.assert_allclose(rows.e_nC, softmax(logits, axis=1) - np.eye(5)[labels], atol=1e-15)
    assert np.abs(rows.e_nC.sum(axis=1)).max() < 1e-15


def hashes_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def test_a_tenth_is_held_out_of_every_class_its_share():
    labels = np.repeat([0, 1, 2], [100, 50, 30])
    held = held_out_split(labels, hashes_of(180), 4)
    assert np.bincount(labels[held]).tolist() == [10, 5, 3]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200))
def test_who_is_held_out_does_not_depend_on_the_order_of_rows(seed, count):
    rng = np.random.default_rng(seed)
    labels, hashes, order = rng.integers(0, 4, count), hashes_of(count, seed), rng.permutation(count)
    held = held_out_split(labels, hashes, 4)
    assert held.sum() == (count if count < 5 else int(count / 10 + 0.5))
    assert np.array_equal(held_out_split(labels[order], hashes[order], 4), held[order])


def test_the_draw_of_the_held_out_split_is_even():
    # 10,000 draws of probability .1: five deviations are 150.
    labels, hashes = np.zeros(10_000, int), hashes_of(10_000)
    held = held_out_split(labels, hashes, 1)
    assert held.sum() == 1000
    assert abs(np.flatnonzero(held).mean() - 5000) < 5 * 10_000 / np.sqrt(12 * 1000)


def test_of_the_largest_logits_the_known_probabilities_are_exact_the_labels_too():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 3, (200, 12)).astype(np.float16), rng.integers(0, 12, 200)
    kept = top_k(logits, labels, 4)
    exact, found = softmax(logits.astype(float), axis=1), softmax(kept.logits_with(labels), axis=1)
    rows = np.arange(200)
    assert not (kept.class_nK == labels[:, None]).any(axis=1).all()
    np.testing.assert_allclose(found[rows, labels], exact[rows, labels], rtol=1e-3)
    for column in kept.class_nK.T:
        np.testing.assert_allclose(found[rows, column], exact[rows, column], rtol=1e-3)


def test_with_one_class_unknown_nothing_is_lost():
    logits, labels = np.array([[3, 1, -2, 0.5]], np.float16), np.array([2])
    for k in (2, 3):
        found = softmax(top_k(logits, labels, k).logits_with(labels), axis=1)
        np.testing.assert_allclose(found, softmax(logits.astype(float), axis=1), rtol=1e-3)


def test_a_label_that_is_all_of_the_tail_leaves_the_others_nothing():
    logits, labels = np.full((1, 6), -30, np.float16), np.array([3])
    logits[0, :2], logits[0, 3] = 5, 0
    found = softmax(top_k(logits, labels, 2).logits_with(labels), axis=1)
    np.testing.assert_allclose(found, softmax(logits.astype(float), axis=1), atol=1e-6)


def test_moderate_calls_an_atypical_digit_far():
    images, labels = load_digits(return_X_y=True)
    table = table_of(images / 16, np.zeros((len(labels), 10)), labels)
    typical = SCORES["moderate"](table)
    # Noise is far from the median of every class.
    noisy = images / 16
    noisy[0] = np.random.default_rng(0).random(64)
    assert SCORES["moderate"](table_of(noisy, np.zeros((len(labels), 10)), labels))[0] > np.quantile(typical, 0.95)
