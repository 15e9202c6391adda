"""Distance from the nearest prototype: k-means of the features' directions, one centroid per class."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.scoring.feature_scores import FeatureTable, feature_score
from prune_toolkit.scoring.logit_scores import Floats, Integers

MOST_ROUNDS = 25
"""Rounds of Lloyd's algorithm if it does not settle before, as many as faiss takes; each reads the features once."""


@feature_score(
    "prototypes",
    harder="high",
    formula="1 - max_k cos(h, m_k), m_k the C centroids of k-means on h / ||h||_2, from the class means, at most 25 "
    "rounds",
    source="Sorscher et al. 2022 (self-supervised prototypes), here in the teacher's features; starting at the class "
    "means is ours",
    needs=("features",),
    cost="one teacher pass; features are read in each round, O(N C D)",
)
def prototypes(table: FeatureTable) -> Floats:
    """Cosine distance from the nearest prototype; 1 for features that are all 0.

    Lloyd's algorithm starts at the class means of the directions, so there is nothing to draw and no say of the order
    of rows, and k = C as in the paper. Classes without samples have no prototype.
    """
    centroid_KD = centroids(table)
    unit_KD = _directions(centroid_KD)
    return table.collect(lambda rows: 1.0 - (_directions(rows.h_nD) @ unit_KD.T).max(axis=1))


def centroids(table: FeatureTable, rounds: int = MOST_ROUNDS) -> Floats:
    """Return the centroids (K, D) of k-means on directions; K counts the classes that have samples.

    A cluster that no sample is nearest to keeps its centroid. Of equally near centroids the first counts.
    """
    present_C = np.bincount(table.label_N, minlength=table.class_count) > 0
    start_C = np.cumsum(present_C) - 1
    centroid_KD = np.zeros((int(present_C.sum()), table.width))
    nearest_N, centroid_KD = _clusters(table, centroid_KD, lambda label_n, _: start_C[label_n])
    for _ in range(rounds):
        before_N = nearest_N
        nearest_N, moved_KD = _clusters(table, centroid_KD, partial(_nearest, centroid_KD))
        if np.array_equal(nearest_N, before_N):
            break
        centroid_KD = moved_KD
    return centroid_KD


def _nearest(centroid_KD: Floats, _: Integers, unit_nD: Floats) -> NDArray[np.int64]:
    # ||h - m||^2 / 2 without the term that is the same for all centroids.
    half_square_K = np.einsum("kd,kd->k", centroid_KD, centroid_KD) / 2
    return np.asarray(np.argmin(half_square_K - unit_nD @ centroid_KD.T, axis=1))


def _clusters(
    table: FeatureTable, before_KD: Floats, cluster_of: Callable[[Integers, Floats], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], Floats]:
    """Return each sample's cluster (N,) by a function of labels and directions, and the mean direction (K, D) of each.

    The mean of an empty cluster is its row of `before_KD`.
    """
    cluster_N, done = np.empty(len(table.label_N), np.int64), 0
    sum_KD = np.zeros_like(before_KD)
    for rows in table.blocks():
        unit_nD = _directions(rows.h_nD)
        cluster_n = cluster_of(rows.label_n, unit_nD)
        order_n = np.argsort(cluster_n, kind="stable")
        found_k, first_k = np.unique(cluster_n[order_n], return_index=True)
        sum_KD[found_k] += np.add.reduceat(unit_nD[order_n], first_k, axis=0)
        cluster_N[done : done + len(cluster_n)] = cluster_n
        done += len(cluster_n)
    count_K1 = np.bincount(cluster_N, minlength=len(before_KD))[:, None]
    return cluster_N, np.where(count_K1 > 0, sum_KD / np.maximum(1, count_K1), before_KD)


def _directions(h_nD: Floats) -> Floats:
    """Return the rows at length 1; those of length 0 stay 0."""
    norm_n1 = np.linalg.norm(h_nD, axis=1, keepdims=True)
    return np.asarray(h_nD / np.where(norm_n1 > 0, norm_n1, 1.0))
