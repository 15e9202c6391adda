"""Means, deviations and 95 % intervals (Student's t) of few numbers, alone and paired by seed."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Summary(NamedTuple):
    """Of n numbers; deviation and interval are None where one number has none."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and t interval of the mean of one number or more."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Summary(n, mean, None, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """The quantile of Student's t that leaves half of 1 - LEVEL above it."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Summary | None:
    """Summary of value - baseline over the seeds that both have; None without any."""
    seeds = sorted(values.keys() & baseline.keys())
    return summarise([values[seed] - baseline[seed] for seed in seeds]) if seeds else None
