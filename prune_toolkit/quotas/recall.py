"""The quota of classes that the teacher finds hard: more samples of those it knows less."""

import heapq
from fractions import Fraction

import numpy as np

from prune_toolkit.quotas.quotas import QUOTAS, Quota, Recalls, total_count


def by_recall(sizes: list[int], keep: Fraction, recalls: Recalls) -> list[int]:
    """Share the seats by n_c (1 - recall_c), at most n_c each; what full classes leave goes to the others.

    Classes that the teacher knows wholly get seats only once all others are full, by their sizes.
    """
    seats = total_count(keep, sum(sizes))
    weights = [size * (1 - recall) for size, recall in zip(sizes, recalls, strict=True)]
    hard = [c for c, weight in enumerate(weights) if weight > 0]
    if seats >= (full := sum(sizes[c] for c in hard)):
        return _sizes_and_rest(sizes, weights, seats - full)
    return _capped_seats(sizes, weights, seats)


def _sizes_and_rest(sizes: list[int], weights: list[Fraction], left: int) -> list[int]:
    """Return the classes with a weight whole, and shares of the others."""
    rest = np.array([0 if weight > 0 else size for size, weight in zip(sizes, weights, strict=True)])
    counts_C = QUOTAS["proportional"](rest, Fraction(left, int(rest.sum()))) if left else np.zeros_like(rest)
    assert counts_C is not None
    return [
        size if weight > 0 else count for size, weight, count in zip(sizes, weights, counts_C.tolist(), strict=True)
    ]


def _capped_seats(sizes: list[int], weights: list[Fraction], seats: int) -> list[int]:
    """Sainte-Lague seats by weight with a cap per class; the total of classes with a weight exceeds the seats."""
    counts, open_classes, left = [0] * len(sizes), [c for c, weight in enumerate(weights) if weight > 0], seats
    while True:
        total = sum(weights[c] for c in open_classes)
        full = [c for c in open_classes if weights[c] * left >= sizes[c] * total]
        if not full:
            break
        for c in full:
            counts[c] = sizes[c]
        left -= sum(sizes[c] for c in full)
        open_classes = [c for c in open_classes if c not in set(full)]
    # Rounding the exact shares to nearest gives the seats above one quotient, so at most C/2 are missing or too many.
    for c in open_classes:
        counts[c] = int(weights[c] * left / total + Fraction(1, 2))
    missing = left - sum(counts[c] for c in open_classes)
    step = 1 if missing >= 0 else -1
    never = max(weights) + 1
    heap = [(_quotient(sizes[c], weights[c], counts[c], step, never), step * c) for c in open_classes]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        c = step * heap[0][1]
        counts[c] += step
        heapq.heapreplace(heap, (_quotient(sizes[c], weights[c], counts[c], step, never), step * c))
    return counts


def _quotient(size: int, weight: Fraction, count: int, step: int, never: Fraction) -> Fraction:
    """Return the heap key for giving (+1) or taking back (-1) a seat: the smallest comes first, `never` last."""
    if step > 0:
        return -weight / (2 * count + 1) if count < size else never
    return weight / (2 * count - 1) if count else never


QUOTAS.add(
    "recall",
    Quota(
        name="recall",
        formula="Sainte-Lague seats by n_c (1 - recall_c), at most n_c each; recall of the teacher on --held-out",
        source="DRoP, Vysogorets et al. 2024 (arXiv 2404.05579), its densities capped and redistributed",
        function=None,
        by_recall=by_recall,
    ),
    module=__name__,
)
