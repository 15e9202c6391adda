"""Windows of consecutive epochs, and how much a value of each sample varies in one."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from prune_toolkit.scoring.logit_scores import Floats

LEAST = 1e-8
"""Probabilities below count as this one where their logarithm is taken; the published code of TDDS adds it."""


def windows(value_EN: Iterable[Floats], length: int) -> Iterator[Sequence[Floats]]:
    """Yield each `length` consecutive values (N,) of the epochs; only these are in memory."""
    held: deque[Floats] = deque(maxlen=length)
    for value_N in value_EN:
        held.append(value_N)
        if len(held) == length:
            yield tuple(held)


def mean_and_squares(window_JN: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return the mean (N,) of a window and the sum (N,) of squared deviations from it, in float64."""
    mean_N = sum(value_N.astype(np.float64) for value_N in window_JN) / len(window_JN)
    return np.asarray(mean_N), np.asarray(sum(np.square(value_N - mean_N) for value_N in window_JN))
