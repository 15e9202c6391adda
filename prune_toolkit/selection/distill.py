"""Split the kept samples into those distilled (Set II, kd_weight 1) and those trained on their label alone (Set I, 0).

This drops no samples, so it combines with dropping. Source: Lan et al., arXiv 2404.03693; cutting the set by rank, the
same share of each class, is ours.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.selection.pool import Pool, ScoreColumn, share_of_each_class

DEFAULT_BY = "influence"
RANDOM = "random"
_STREAM = 0x5E7112


def distilled(pool: Pool, column: ScoreColumn | None, fraction: Fraction, seed: int) -> NDArray[np.bool_]:
    """(N,) mask of Set II: the easy end of a score, the same share of every class.

    `pool` holds the kept samples. The easy end of influence is the most helpful. Without a score, samples are drawn at
    random, independently of random selection. Raises UsageError if that is no sample at all, InputError for a score
    that is nan.
    """
    if column is None:
        value_N: NDArray[np.generic] = mix64(_STREAM, seed, *hash_words(pool.content_hash_N16))
    else:
        value_N = column.difficulty_N
        if np.isnan(column.value_N).any():
            first = int(pool.sample_id_N[np.isnan(column.value_N)].min())
            raise InputError(f"the score of sample {first} is nan", hint="use another score: --distill-by margin")
    distilled_N = share_of_each_class(pool, fraction, value_N)
    if not distilled_N.any():
        raise UsageError(
            f"--distill-fraction {fraction} of {len(pool.label_N)} kept samples leaves no samples to distill",
            hint="distill more of them; to distill none, use train-student --loss ce",
        )
    return distilled_N
