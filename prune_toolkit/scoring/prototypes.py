"""Distance from the nearest prototype: k-means of the features' directions, one centroid per class."""

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.scoring.feature_scores import FeatureRows, FeatureTable, feature_score
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
    label_N = np.asarray(table.label_N)
    present_C = np.bincount(label_N, minlength=table.class_count) > 0
    nearest_N = np.cumsum(present_C)[label_N] - 1
    centroid_KD = _means(table, nearest_N, np.zeros((int(present_C.sum()), table.width)))
    for _ in range(rounds):
        before_N, nearest_N = nearest_N, _nearest(table, centroid_KD)
        if np.array_equal(nearest_N, before_N):
            break
        centroid_KD = _means(table, nearest_N, centroid_KD)
    return centroid_KD


def _nearest(table: FeatureTable, centroid_KD: Floats) -> NDArray[np.int64]:
    half_square_K = np.einsum("kd,kd->k", centroid_KD, centroid_KD) / 2

    def of(rows: FeatureRows) -> NDArray[np.int64]:
        # ||h - m||^2 / 2 without the term that is the same for all centroids.
        return np.asarray(np.argmin(half_square_K - _directions(rows.h_nD) @ centroid_KD.T, axis=1))

    return np.concatenate([np.empty(0, np.int64), *map(of, table.blocks())])


def _means(table: FeatureTable, cluster_N: Integers, before_KD: Floats) -> Floats:
    """Return the mean direction (K, D) of each cluster; of an empty one the row of `before_KD`."""
    count_K = np.bincount(cluster_N, minlength=len(before_KD))
    sum_KD, done = np.zeros_like(before_KD), 0
    for rows in table.blocks():
        cluster_n = cluster_N[done : done + len(rows.label_n)]
        done += len(cluster_n)
        order_n = np.argsort(cluster_n, kind="stable")
        found_k, first_k = np.unique(cluster_n[order_n], return_index=True)
        sum_KD[found_k] += np.add.reduceat(_directions(rows.h_nD)[order_n], first_k, axis=0)
    return np.where(count_K[:, None] > 0, sum_KD / np.maximum(1, count_K)[:, None], before_KD)


def _directions(h_nD: Floats) -> Floats:
    """Return the rows at length 1; those of length 0 stay 0."""
    norm_n1 = np.linalg.norm(h_nD, axis=1, keepdims=True)
    return np.asarray(h_nD / np.where(norm_n1 > 0, norm_n1, 1.0))
