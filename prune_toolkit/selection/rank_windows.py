"""Windows of consecutive ranks, from easy to hard, in every group."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.selection.pool import KEPT, TOO_EASY, TOO_HARD, Choice, Groups, Pool, rank_in_group


def window_start(position: Fraction, size_G: NDArray[np.int64], keep_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first rank (G,) of windows at a position: floor(p * (n_g - K_g)), exact."""
    spare_G = (size_G - keep_G).tolist()
    return np.array([position.numerator * spare // position.denominator for spare in spare_G], np.int64)


def keep_ranks(pool: Pool, groups: Groups, start_G: NDArray[np.int64]) -> Choice:
    """Keep the K_g ranks from `start_G` of each group, easy to hard."""
    rank_N = rank_in_group(pool, groups.group_N, pool.difficulty_N)
    start_N = start_G[groups.group_N]
    reason_N = np.full(len(rank_N), KEPT, np.int8)
    reason_N[rank_N < start_N] = TOO_EASY
    reason_N[rank_N >= start_N + groups.keep_G[groups.group_N]] = TOO_HARD
    return Choice(keep_N=np.equal(reason_N, KEPT), reason_N=reason_N)
