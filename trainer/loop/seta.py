"""SeTa: groups of samples by their last loss, and a window of groups that slides from easy to hard, epoch by epoch.

Zhou et al. 2025 (CVPR, arXiv 2503.13385), "Scale Efficient Training for Large Datasets".
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

MAX_ROUNDS = 300


def in_window(loss_n: NDArray[np.float32], groups: int, share: float, epoch: int) -> NDArray[np.bool_]:
    """Return which samples (n,) an epoch counted from 0 shows: those of its window, and those without a loss (nan)."""
    is_known_n = ~np.isnan(loss_n)
    group_n = loss_groups(loss_n[is_known_n], groups)
    first, end = window(int(group_n.max(initial=0)) + 1, share, epoch)
    shown_n = ~is_known_n
    shown_n[is_known_n] = (first <= group_n) & (group_n < end)
    return shown_n


def window(groups: int, share: float, epoch: int) -> tuple[int, int]:
    """Return the first group of the window of ceil(share * groups) groups, and the one after its last."""
    width = max(1, math.ceil(Fraction(share).limit_denominator(10**6) * groups))
    first = epoch % (groups - width + 1)
    return first, first + width


def loss_groups(loss_n: NDArray[np.float32], groups: int) -> NDArray[np.int64]:
    """Return the group (n,) of each loss by k-means, 0 the easiest; fewer groups if fewer losses differ.

    Lloyd's algorithm from the middle of each of `groups` equal parts of the different losses in order. It draws
    nothing, and in one dimension a round takes a few sums; a loss between two means goes to the lower one.
    """
    value_v, place_n, count_v = np.unique(loss_n.astype(np.float64), return_inverse=True, return_counts=True)
    groups = min(groups, len(value_v))
    if groups == 0:
        return np.zeros(0, np.int64)
    counts, sums = (np.concatenate([[0.0], np.cumsum(each)]) for each in (count_v, count_v * value_v))
    mean_k = value_v[(2 * np.arange(groups) + 1) * len(value_v) // (2 * groups)]
    edge_k = np.zeros(groups + 1, np.int64)
    for _ in range(MAX_ROUNDS):
        inner = np.searchsorted(value_v, (mean_k[1:] + mean_k[:-1]) / 2, side="right")
        edges_k = np.concatenate([[0], inner, [len(value_v)]])
        if np.array_equal(edges_k, edge_k):
            break
        edge_k = edges_k
        # A group that lost all its losses to its neighbours keeps its mean.
        size_k, sum_k = np.diff(counts[edge_k]), np.diff(sums[edge_k])
        mean_k = np.where(size_k > 0, sum_k / np.maximum(size_k, 1), mean_k)
    group_v = np.repeat(np.arange(groups), np.diff(edge_k))
    return np.asarray(group_v[place_n], np.int64)
