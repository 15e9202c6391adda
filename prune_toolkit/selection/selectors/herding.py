"""Herding: a subset whose mean feature stays as near to the class mean as possible."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.selection.feature_groups import GRAM_ROWS, choose_by_features
from prune_toolkit.selection.pool import Choice, Groups, Pool
from prune_toolkit.selection.selector import Values, selector


@selector(
    "herding",
    formula="per class, K_c times: the sample that brings the mean of the chosen features nearest to the class mean,"
    " argmin_x ||mean - (sum + x) / (k + 1)||_2",
    source="Welling, ICML 2009; Rebuffi et al. (iCaRL), CVPR 2017",
    score=None,
    needs=("features",),
)
def herding(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep the samples that herding takes first; a larger quota contains a smaller one."""
    return choose_by_features(pool, groups, "herding", lambda _, vector_nD, count: herd(vector_nD, count))


def herd(vector_nD: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return rows in the order herding takes them, (count,); of equally near rows the first."""
    x_nD = vector_nD.astype(np.float64)
    mean_D = x_nD.mean(axis=0) if len(x_nD) else np.zeros(x_nD.shape[1])
    square_n, to_mean_n = np.einsum("nd,nd->n", x_nD, x_nD), x_nD @ mean_D
    gram_nn = x_nD @ x_nD.T if len(x_nD) <= GRAM_ROWS else None
    to_sum_n, free_n = np.zeros(len(x_nD)), np.ones(len(x_nD), np.bool_)
    taken = np.empty(count, np.int64)
    for k in range(count):
        # ||(k + 1) mean - sum - x||^2 without the terms that are the same for all x.
        distance_n = square_n - 2.0 * ((k + 1) * to_mean_n - to_sum_n)
        row = int(np.argmin(np.where(free_n, distance_n, np.inf)))
        taken[k], free_n[row] = row, False
        to_sum_n += gram_nn[row] if gram_nn is not None else x_nD @ x_nD[row]
    return taken
