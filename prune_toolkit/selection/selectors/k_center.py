"""k-center: samples such that no other sample of the class is far from the nearest of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.selection.feature_groups import GRAM_ROWS, choose_by_features
from prune_toolkit.selection.pool import Choice, Groups, Pool
from prune_toolkit.selection.selector import Values, selector


@selector(
    "k_center",
    formula="per class: the sample nearest to the class mean, then K_c - 1 times the one farthest from the nearest"
    " chosen, argmax_x min_c ||x - c||_2 on features",
    source="Sener and Savarese, ICLR 2018 (core-set, greedy k-center), who start from labelled samples; to start at the"
    " class mean is ours",
    score=None,
    needs=("features",),
)
def k_center(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep the samples that farthest-first traversal takes first; a larger quota contains a smaller one."""
    return choose_by_features(pool, groups, "k-center", lambda _, vector_nD, count: farthest_first(vector_nD, count))


def farthest_first(vector_nD: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return rows in the order farthest-first traversal takes them, (count,); of equally far rows the first.

    After each choice, the largest distance from the nearest chosen row is at most twice the least that is possible with
    as many rows (Gonzalez 1985).
    """
    x_nD = vector_nD.astype(np.float64)
    square_n = np.einsum("nd,nd->n", x_nD, x_nD)
    gram_nn = x_nD @ x_nD.T if len(x_nD) <= GRAM_ROWS else None
    taken, nearest_n = np.empty(count, np.int64), np.full(len(x_nD), np.inf)
    row = int(np.argmin(square_n - 2.0 * (x_nD @ x_nD.mean(axis=0))))
    for k in range(count):
        taken[k] = row
        product_n = gram_nn[row] if gram_nn is not None else x_nD @ x_nD[row]
        # Squares of distances; rounding may leave those of copies a little below 0.
        nearest_n = np.minimum(nearest_n, np.maximum(square_n + square_n[row] - 2.0 * product_n, 0.0))
        # Below the 0 of copies: a row is taken once.
        nearest_n[row] = -np.inf
        row = int(np.argmax(nearest_n))
    return taken
