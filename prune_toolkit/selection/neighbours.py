"""The exact nearest neighbours of each sample of a group, by blocks of matrix products."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 << 20
"""Limit of one block of distances in float64."""


def nearest_neighbours(
    vector_nD: NDArray[np.floating[Any]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the K = min(count, n - 1) nearest other rows of each row and their Euclidean distances, both (n, K).

    Of equally near rows the first count; they come in the order of rows. Costs n^2 D multiplications, and memory for
    the vectors in float64 and a few blocks.
    """
    x_nD = np.asarray(vector_nD, np.float64)
    count = min(count, len(x_nD) - 1)
    if count < 1:
        return np.empty((len(x_nD), 0), np.int64), np.empty((len(x_nD), 0))
    square_n = np.einsum("nd,nd->n", x_nD, x_nD)
    near_nK, distance_nK = np.empty((len(x_nD), count), np.int64), np.empty((len(x_nD), count))
    step = max(1, BLOCK_BYTES // (8 * len(x_nD)))
    for start in range(0, len(x_nD), step):
        rows = slice(start, min(start + step, len(x_nD)))
        # Squares of distances; rounding may leave those of copies a little below 0.
        square_bn = np.maximum(square_n[rows, None] + square_n - 2.0 * (x_nD[rows] @ x_nD.T), 0.0)
        square_bn[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
        near_nK[rows] = _smallest(square_bn, count)
        distance_nK[rows] = np.sqrt(np.take_along_axis(square_bn, near_nK[rows], axis=1))
    return near_nK, distance_nK


def _smallest(value_bn: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the columns of the smallest values of each row, in order, (b, count); of equal values the first."""
    limit_b1 = np.partition(value_bn, count - 1, axis=1)[:, count - 1 : count]
    below_bn, at_bn = value_bn < limit_b1, value_bn == limit_b1
    missing_b1 = count - below_bn.sum(axis=1, keepdims=True)
    return np.nonzero(below_bn | (at_bn & (np.cumsum(at_bn, axis=1) <= missing_b1)))[1].reshape(-1, count)
