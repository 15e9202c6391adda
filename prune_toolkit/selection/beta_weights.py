"""Weights of samples by the rank of their difficulty, Beta(mode, sharpness), and drawing by them without replacement.

Source: IF-Beta ("Distill on a Diet", arXiv 2606.25488) for the density over percentile ranks; drawing by the smallest
of exponential variates over weights is exact (Efraimidis and Spirakis 2006). Logarithms throughout: at a sharpness of
1,000 the weights themselves would underflow.
"""

import numpy as np
from numpy.typing import NDArray

from manifests.images.identity import hash_words, mix64
from prune_toolkit.selection.pool import Groups, Pool, rank_in_group

Floats = NDArray[np.float64]


def percentiles(pool: Pool, groups: Groups) -> Floats:
    """Return the percentile rank of each sample in its group, (N,): (rank + 1/2) / n_g, from easy to hard."""
    rank_N = rank_in_group(pool, groups.group_N, pool.difficulty_N)
    return np.asarray((rank_N + 0.5) / groups.size_G[groups.group_N])


def log_weights(percentile_N: Floats, mode: float, sharpness: float) -> Floats:
    """Return log Beta(s; 1 + tau mu, 1 + tau (1 - mu)) up to a constant: tau (mu log s + (1 - mu) log(1 - s)).

    mode mu in [0, 1] is where the density is largest, sharpness tau >= 0 how much; tau = 0 weighs all alike.
    """
    return np.asarray(sharpness * (mode * np.log(percentile_N) + (1.0 - mode) * np.log1p(-percentile_N)))


def draw_order(pool: Pool, log_weight_N: Floats, *stream: int) -> Floats:
    """Return a number per sample, (N,): the k smallest of a group are a draw of k by weight, without replacement.

    -log(1 - u) / w is exponential with rate w, u from the content hash: the smallest of them is a sample with
    probability proportional to w, and so on among the rest. `stream` numbers the draw.
    """
    bits_N = mix64(*stream, *hash_words(pool.content_hash_N16)) >> np.uint64(11)
    uniform_N = (bits_N.astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(np.log(-np.log1p(-uniform_N)) - log_weight_N)
