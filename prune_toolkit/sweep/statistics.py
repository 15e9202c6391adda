"""Means, deviations and 95 % intervals (Student's t) of a few numbers, alone and paired by seed."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Summary(NamedTuple):
    """Statistics of n numbers; deviation and interval are None for a single number."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and t interval of the mean of one or more numbers."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Summary(n, mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """Return the quantile of Student's t with half of 1 - LEVEL above it."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Summary | None:
    """Summarise value - baseline over the seeds that both have; None if there are none."""
    seeds = sorted(values.keys() & baseline.keys())
    return summarise([values[seed] - baseline[seed] for seed in seeds]) if seeds else None
