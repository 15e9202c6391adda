"""Top-1, top-5 and loss against scikit-learn and scipy, and sums that add up over batches."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import top_k_accuracy_score

from trainer.loop.evaluation import batch_sums, metrics_of


def test_four_samples_of_three_classes_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [0.0, 0.0, np.log(2.0)]])
    got = metrics_of(batch_sums(logits, torch.tensor([0, 0, 1, 2])))
    assert (got.top1, got.top5, got.count) == (0.75, 1.0, 4)
    assert metrics_of(batch_sums(logits[3:], torch.tensor([2]))).loss == pytest.approx(np.log(2.0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 40), classes=st.integers(6, 20))
def test_equals_scikit_learn_and_scipy(seed, rows, classes):
    generator = np.random.default_rng(seed)
    logits, label = generator.normal(0, 2, (rows, classes)), generator.integers(0, classes, rows)
    got = metrics_of(batch_sums(torch.from_numpy(logits), torch.from_numpy(label)))
    labels = list(range(classes))
    assert got.top1 == pytest.approx(top_k_accuracy_score(label, logits, k=1, labels=labels))
    assert got.top5 == pytest.approx(top_k_accuracy_score(label, logits, k=5, labels=labels))
    assert got.loss == pytest.approx(-log_softmax(logits, axis=1)[np.arange(rows), label].mean(), rel=1e-5)


def test_sums_of_uneven_batches_are_the_sums_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(11, 8, generator=generator), torch.randint(8, (11,), generator=generator)
    parts = sum(batch_sums(logits[rows], label[rows]) for rows in (slice(0, 4), slice(4, 8), slice(8, 11)))
    assert asdict(metrics_of(parts)) == pytest.approx(asdict(metrics_of(batch_sums(logits, label))))


def test_a_network_that_says_nan_is_not_right():
    got = metrics_of(batch_sums(torch.full((1, 10), torch.nan), torch.tensor([9])))
    assert got.top1 == 0
    assert np.isnan(got.loss)
