"""Find the most useful window of difficulties by a cheap proxy for training: ridge regression to one-hot labels.

For each position of the grid, a ridge regression from features (or logits) to labels is fitted on the samples of that
window and evaluated on a tenth of every class that no window contains. Source: BWS, ICML 2024; the hold-out, the exact
sums below and the use of logits in place of features are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.selection.pool import Groups, Pool, Vectors, rank_in_group, share_of_each_class, window_start

GRID = tuple(Fraction(tenth, 10) for tenth in range(11))
HELD_OUT = Fraction(1, 10)
DAMPING = 1e-3
_STREAM = 0xB35
_ROWS = 8192
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The result of the proxy."""

    vectors: str
    """The input of the regression: features or logits."""
    top1: tuple[float, ...]
    """Accuracy on the held-out tenth at each position of GRID."""

    @property
    def position(self) -> Fraction:
        """The best position; of equal ones the one nearest to the middle, then the easier."""
        best = max(self.top1)
        return min(
            (position for position, top1 in zip(GRID, self.top1, strict=True) if top1 == best),
            key=lambda position: (abs(position - Fraction(1, 2)), position),
        )


def try_windows(pool: Pool, groups: Groups) -> Proxy:
    """Fit and evaluate the proxy at every position.

    Raises UsageError without features and logits, or with too few samples.
    """
    vectors = pool.features or pool.logits
    if vectors is None:
        raise UsageError(
            "position auto needs features or logits, and the manifest has neither", hint="give a position from 0 to 1"
        )
    held_N = held_out(pool)
    first_N, last_N = memberships(pool, groups, ~held_N)
    if not held_N.any() or not (first_N <= last_N).any():
        raise UsageError(
            f"position auto: {len(held_N)} samples are too few to hold out a tenth", hint="give a position from 0 to 1"
        )
    weight_PDC = _fit(pool, vectors, first_N, last_N)
    hits_P = np.zeros(len(GRID), np.int64)
    for row_n, x_nD in _blocks(pool, vectors, held_N):
        for number, weight_DC in enumerate(weight_PDC):
            hits_P[number] += int(((x_nD @ weight_DC).argmax(axis=1) == pool.label_N[row_n]).sum())
    return Proxy(vectors=vectors.name, top1=tuple((hits_P / int(held_N.sum())).tolist()))


def held_out(pool: Pool) -> NDArray[np.bool_]:
    """(N,) mask of a tenth of every class, the same for every seed."""
    return share_of_each_class(pool, HELD_OUT, mix64(_STREAM, *hash_words(pool.content_hash_N16)))


def memberships(pool: Pool, groups: Groups, rest_N: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) first and last position of GRID whose window over the rest contains the sample; first > last if none does.

    Windows move up with the position, so those that contain a sample are consecutive.
    """
    row_n = np.flatnonzero(rest_N)
    # The requested share of each group, at least one sample if there are any.
    size_G = np.bincount(groups.group_N[row_n], minlength=len(groups.size_G))
    whole_G = np.maximum(groups.size_G, 1)
    keep_G = np.minimum((2 * groups.keep_G * size_G + whole_G) // (2 * whole_G), size_G)
    keep_G = np.where((groups.keep_G > 0) & (size_G > 0), np.maximum(keep_G, 1), 0)
    rest, group_n = pool.take(row_n), groups.group_N[row_n]
    rank_n = rank_in_group(rest, group_n, rest.difficulty_N)
    start_PG = [window_start(position, size_G, keep_G) for position in GRID]
    first_N, last_N = np.full(len(rest_N), len(GRID)), np.full(len(rest_N), -1)
    first_N[row_n] = sum((start_G + keep_G)[group_n] <= rank_n for start_G in start_PG)
    last_N[row_n] += sum(start_G[group_n] <= rank_n for start_G in start_PG)
    return first_N, last_N


def _fit(pool: Pool, vectors: Vectors, first_N: NDArray[np.int64], last_N: NDArray[np.int64]) -> Floats:
    """Return ridge weights (P, D + 1, C).

    The sums of a window are those of the previous one plus the samples that enter and minus those that leave: no
    sample is summed more than twice.
    """
    width, classes = vectors.width + 1, pool.class_count
    square_PDD, cross_PDC = np.zeros((len(GRID), width, width)), np.zeros((len(GRID), width, classes))
    member_N = first_N <= last_N
    for row_n, x_nD in _blocks(pool, vectors, member_N):
        for sign, place_n in ((1.0, first_N[row_n]), (-1.0, last_N[row_n] + 1)):
            for number in np.unique(place_n[place_n < len(GRID)]).tolist():
                here_n = place_n == number
                x_mD = x_nD[here_n]
                square_PDD[number] += sign * (x_mD.T @ x_mD)
                cross_PDC[number] += sign * _class_sums(x_mD, pool.label_N[row_n[here_n]].astype(np.int64), classes).T
    np.cumsum(square_PDD, axis=0, out=square_PDD)
    np.cumsum(cross_PDC, axis=0, out=cross_PDC)
    for square_DD in square_PDD:
        square_DD[np.diag_indices(width)] += DAMPING * np.trace(square_DD) / width
    return np.asarray(np.linalg.solve(square_PDD, cross_PDC), np.float64)


def _class_sums(x_mD: Floats, label_m: NDArray[np.int64], classes: int) -> Floats:
    """Return the sum of the rows of each class, (C, D)."""
    order_m = np.argsort(label_m, kind="stable")
    present, start = np.unique(label_m[order_m], return_index=True)
    sum_CD = np.zeros((classes, x_mD.shape[1]))
    sum_CD[present] = np.add.reduceat(x_mD[order_m], start, axis=0)
    return sum_CD


def _blocks(pool: Pool, vectors: Vectors, wanted_N: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield (rows (n,), vectors (n, D + 1) float64 with a 1 appended) of the wanted rows, in stream order."""
    order_N = np.argsort(pool.sample_id_N)
    sorted_N = pool.sample_id_N[order_N]
    for ids, vector_mD in vectors.stream():
        place_m = np.minimum(np.searchsorted(sorted_N, ids), len(sorted_N) - 1)
        row_m = order_N[place_m]
        hit = np.flatnonzero((sorted_N[place_m] == ids) & wanted_N[row_m])
        for start in range(0, len(hit), _ROWS):
            part = hit[start : start + _ROWS]
            x_nD = np.ones((len(part), vectors.width + 1))
            x_nD[:, :-1] = vector_mD[part]
            yield row_m[part], x_nD
