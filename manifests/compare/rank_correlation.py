"""Spearman's rank correlation, overall and class by class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def spearman(x_N: Floats, y_N: Floats) -> float | None:
    """Return the Pearson correlation of the ranks, ties by mean rank; None for fewer than two or only equal values.

    Source: Spearman 1904.
    """
    if len(x_N) < 2:
        return None
    x_rank_N, y_rank_N = centred_ranks(x_N), centred_ranks(y_N)
    spread = np.sqrt((x_rank_N @ x_rank_N) * (y_rank_N @ y_rank_N))
    return float(np.clip((x_rank_N @ y_rank_N) / spread, -1, 1)) if spread > 0 else None


def centred_ranks(values_N: Floats) -> NDArray[np.float64]:
    """Return (N,) ranks, equal values sharing their mean rank, minus the mean of all."""
    _, group_N, count_G = np.unique(values_N, return_inverse=True, return_counts=True)
    rank_G = np.cumsum(count_G) - (count_G + 1) / 2
    ranks_N: NDArray[np.float64] = rank_G[group_N] - (len(values_N) - 1) / 2
    return ranks_N


def spearman_by_class(
    x_N: Floats, y_N: Floats, label_N: NDArray[np.int64], class_count: int
) -> list[tuple[int, float | None]]:
    """Return the sample count and rank correlation of every class."""
    order_N = np.argsort(label_N, kind="stable")
    ends = np.cumsum(np.bincount(label_N, minlength=class_count))
    per_class = np.split(order_N, ends[:-1])
    return [(len(rows), spearman(x_N[rows], y_N[rows])) for rows in per_class]
