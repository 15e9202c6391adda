"""Quotas: the number of samples to keep of each class, exact integers from a fraction, no floating point.

N counts readable samples. `proportional` and `equal` give exactly floor(r * N + 1/2) samples, `published` follows its
formula, `none` ranks all classes together. Keep = 1 keeps every sample under every quota.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry

Counts = NDArray[np.int64]


def total_count(keep: Fraction, samples: int) -> int:
    """Return the number of samples to keep: floor(keep * samples + 1/2), exact."""
    return (2 * keep.numerator * samples + keep.denominator) // (2 * keep.denominator)


QuotaFunction = Callable[[list[int], Fraction], list[int]]
Recalls = Sequence[Fraction]
"""Share of the held-out images of each class that the teacher knows, (C,)."""
RecallQuotaFunction = Callable[[list[int], Fraction, Recalls], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A rule that shares a keep fraction among classes."""

    name: str
    formula: str
    source: str
    function: QuotaFunction | None
    """None: no quota per class, one ranking over all samples; or `by_recall`."""
    by_recall: RecallQuotaFunction | None = None
    """The rule, if it depends on how well the teacher knows each class."""

    @property
    def ranks_classes_together(self) -> bool:
        """True if there is no quota per class."""
        return self.function is None and self.by_recall is None

    def __call__(
        self, class_sizes_C: NDArray[np.integer[Any]], keep: Fraction, recall_C: Recalls | None = None
    ) -> Counts | None:
        """Return the samples to keep of each class, int64 (C,), at most its size; None for one global ranking.

        `class_sizes_C` counts the readable samples of each class, 0 allowed; 0 < keep <= 1. Raises ValueError if the
        rule needs `recall_C` and there is none.
        """
        if not 0 < keep <= 1:
            raise ValueError(f"keep {keep} is outside (0, 1]")
        sizes = [int(size) for size in class_sizes_C]
        if self.by_recall is not None:
            if recall_C is None:
                raise ValueError(f"quota {self.name} needs the recall of each class")
            return np.array(sizes if keep == 1 else self.by_recall(sizes, keep, recall_C), np.int64)
        if self.function is None:
            return None
        return np.array(sizes if keep == 1 else self.function(sizes, keep), np.int64)


QUOTAS: Registry[Quota] = Registry("quota")


def with_minimum(
    quota: str,
    class_sizes_C: NDArray[np.integer[Any]],
    keep_C: Counts,
    minimum: int,
    recall_C: Recalls | None = None,
) -> Counts:
    """Return counts (C,) of the same total in which every class keeps at least `minimum`, or all it has.

    Classes that fall short get their minimum, and the quota divides the rest among the others, until all have it. The
    total must be enough for all minima.
    """
    least_C = np.minimum(minimum, class_sizes_C).astype(np.int64)
    total, fixed_C, counts_C = int(keep_C.sum()), np.zeros(len(keep_C), np.bool_), keep_C
    while (short_C := counts_C < least_C).any():
        fixed_C |= short_C
        counts_C, rest_C = least_C.copy(), class_sizes_C[~fixed_C]
        left = total - int(least_C[fixed_C].sum())
        if left:
            recall_c = None if recall_C is None else [recall_C[c] for c in np.flatnonzero(~fixed_C).tolist()]
            shared = QUOTAS[quota](rest_C, Fraction(left, int(rest_C.sum())), recall_c)
            assert shared is not None
            counts_C[~fixed_C] = shared
    return counts_C


def quota(name: str, *, formula: str, source: str) -> Callable[[QuotaFunction], Quota]:
    """Register a function of the class sizes (Python integers) and a keep fraction below 1."""

    def register(function: QuotaFunction) -> Quota:
        return QUOTAS.add(name, Quota(name=name, formula=formula, source=source, function=function))

    return register


@quota(
    "proportional",
    formula="Sainte-Lague seats: one at a time to the class with the largest n_c / (2 K_c + 1)",
    source="Webster / Sainte-Lague apportionment, the lower class index first among equals",
)
def proportional(sizes: list[int], keep: Fraction) -> list[int]:
    """Keep the same share of each class, rounded so that the total is exact.

    A full class never gets a seat: its quotient n / (2n + 1) is below 1/2, and while the total is at most N
    some other class still offers at least n / (2n - 1), above 1/2.
    """
    samples = sum(sizes)
    seats = total_count(keep, samples)
    # Rounding r * n_c to nearest gives the seats above one quotient: the count is then at most C/2 off.
    counts = [(2 * seats * size + samples) // (2 * samples) if size else 0 for size in sizes]
    missing = seats - sum(counts)
    step = 1 if missing >= 0 else -1
    heap = [(_quotient(sizes, counts, c, step), step * c) for c in range(len(sizes)) if sizes[c]]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        c = step * heap[0][1]
        counts[c] += step
        heapq.heapreplace(heap, (_quotient(sizes, counts, c, step), step * c))
    return counts


def _quotient(sizes: list[int], counts: list[int], c: int, step: int) -> Fraction:
    """Return the heap key for giving (+1) or taking back (-1) a seat of class c: the smallest comes first."""
    if step > 0:
        return Fraction(-sizes[c], 2 * counts[c] + 1)
    return Fraction(sizes[c], 2 * counts[c] - 1) if counts[c] else Fraction(max(sizes) + 1)


@quota(
    "equal",
    formula="K_c = min(n_c, L), the largest level L that fits; the rest one each to the first classes above L",
    source="water-filling; the lower class index first",
)
def equal(sizes: list[int], keep: Fraction) -> list[int]:
    """Keep the same number of every class, small classes whole; the total is exact."""
    seats = total_count(keep, sum(sizes))
    levels = range(max(sizes, default=0) + 1)
    level = bisect_right(levels, seats, key=lambda level: sum(min(size, level) for size in sizes)) - 1
    counts = [min(size, level) for size in sizes]
    above = [c for c, size in enumerate(sizes) if size > level]
    for c in above[: seats - sum(counts)]:
        counts[c] += 1
    return counts


@quota(
    "published",
    formula="K_c = min(n_c, floor(r * N / C)); the total may fall short of r * N",
    source="MDSLR, ICLR 2025 (code chenyd7/MDSLR), equal on balanced data; ours: keep = 1 keeps everything",
)
def published(sizes: list[int], keep: Fraction) -> list[int]:
    """Keep the same absolute number of every class, capped at its size; C includes empty classes."""
    number = keep.numerator * sum(sizes) // (keep.denominator * len(sizes))
    return [min(size, number) for size in sizes]


QUOTAS.add(
    "none",
    Quota(
        name="none",
        formula="no quota: the total of all classes is floor(r * N + 1/2), ranked together",
        source="global ranking, as in Paul et al. 2021",
        function=None,
    ),
    module=__name__,
)
