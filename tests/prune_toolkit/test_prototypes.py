"""Distance from the nearest prototype: by hand, against scikit-learn's k-means, and in little memory."""

import tracemalloc

import numpy as np
import pytest
from feature_tables import table_of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import cosine_distances

from prune_toolkit.scoring import feature_scores
from prune_toolkit.scoring.feature_scores import FeatureRows, FeatureTable
from prune_toolkit.scoring.prototypes import centroids
from prune_toolkit.scoring.score import SCORES


def table_of(features, labels, classes=None):
    labels = np.asarray(labels)
    logits = np.zeros((len(labels), classes or labels.max() + 1))
    return table_of_arrays(np.asarray(features, float), logits, labels, np.ones(len(labels), bool))


def mixture(rng, count, classes, width, spread):
    """Labels, and features around one centre per class; some of them nearer to another class's."""
    label_N = np.r_[np.arange(classes), rng.integers(0, classes, count - classes)]
    return rng.normal(size=(classes, width))[label_N] + spread * rng.normal(size=(count, width)), label_N


def sklearn_centroids(features, labels, rounds):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(axis=0) for c in np.unique(labels)])
    return KMeans(len(means), init=means, n_init=1, max_iter=rounds, tol=0, algorithm="lloyd").fit(unit)


def test_prototypes_by_hand():
    # Directions (1, 0) twice and (0, 1) of class 0; (0, 1) twice and (-.6, .8) of class 1. The means (2/3, 1/3) and
    # (-.2, 14/15) draw the third sample to the other cluster: the centroids become (1, 0) and (-.15, .95).
    features = [[2, 0], [5, 0], [0, 3], [0, 1], [0, 7], [-3, 4]]
    table = table_of(features, [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(centroids(table), [[1, 0], [-0.15, 0.95]], atol=1e-15)
    length = np.sqrt(0.15**2 + 0.95**2)
    up, left = 1 - 0.95 / length, 1 - 0.85 / length
    np.testing.assert_allclose(SCORES["prototypes"](table), [0, 0, up, up, up, left], rtol=1e-5, atol=1e-7)
    assert SCORES["prototypes"].harder == "high"
    assert not SCORES["prototypes"].needs_labels


def test_features_without_direction_are_at_a_right_angle_to_every_prototype():
    # Class 1 has no sample, and class 2 only one of length 0, whose centroid stays where it is.
    table = table_of([[1, 0], [2, 0], [0, 0]], [0, 0, 2], classes=4)
    assert centroids(table).tolist() == [[1, 0], [0, 0]]
    assert SCORES["prototypes"](table).tolist() == [0, 0, 1]


def test_a_cluster_that_no_sample_is_nearest_to_keeps_its_centroid():
    # Both classes have the mean (1, 0): every sample is nearest to the first of equals.
    assert centroids(table_of([[1, 0], [2, 0]], [0, 1])).tolist() == [[1, 0], [1, 0]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 6), spread=st.floats(0.1, 0.8))
def test_the_centroids_are_those_of_scikit_learn(seed, rounds, spread):
    features, labels = mixture(np.random.default_rng(seed), 120, 4, 5, spread)
    oracle = sklearn_centroids(features, labels, rounds)
    if len(np.unique(oracle.labels_)) == 4:  # Else scikit-learn moves the empty cluster.
        np.testing.assert_allclose(centroids(table_of(features, labels), rounds), oracle.cluster_centers_, atol=1e-9)


def test_the_score_of_real_features_is_the_distance_from_scikit_learns_nearest_centroid():
    images, labels = load_digits(return_X_y=True)
    found = SCORES["prototypes"](table_of(images, labels))
    oracle = sklearn_centroids(images, labels, 25)
    expected = cosine_distances(images, oracle.cluster_centers_).min(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    noisy = images.copy()
    noisy[0] = np.random.default_rng(0).random(64) * 16
    assert SCORES["prototypes"](table_of(noisy, labels))[0] > np.quantile(found, 0.95)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block_rows=st.integers(1, 40))
def test_scores_follow_their_samples_whatever_order_blocks_and_lengths_they_come_in(seed, block_rows):
    rng = np.random.default_rng(seed)
    features, labels = mixture(rng, 40, 3, 4, 0.4)
    order, lengths = rng.permutation(40), rng.uniform(0.1, 9, (40, 1))
    expected = SCORES["prototypes"](table_of(features, labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_scores, "BLOCK_ROWS", block_rows)
        found = SCORES["prototypes"](table_of((lengths * features)[order], labels[order]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[order], rtol=1e-4, atol=1e-6)


def test_no_more_than_a_block_of_features_is_in_memory():
    count, width, block_rows = 30_000, 64, 500
    labels = np.arange(count) % 10

    def blocks():
        rng = np.random.default_rng(0)
        for start in range(0, count, block_rows):
            features = rng.normal(size=(block_rows, width)).astype(np.float16)
            yield FeatureRows(features, features.copy, labels[start : start + block_rows])

    table = FeatureTable(label_N=labels, class_count=10, width=width, blocks=blocks, held_out=blocks, copies=None)
    tracemalloc.start()
    centroids(table, rounds=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # In float64 all features are 15 MB and a block 0.26 MB; clusters of all samples are 0.24 MB.
    assert peak < 3_000_000
