"""D2 pruning: difficult samples of dense regions first, and no two that say the same."""

from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.selection.feature_groups import choose_by_features
from prune_toolkit.selection.neighbours import nearest_neighbours
from prune_toolkit.selection.pool import Choice, Groups, Pool
from prune_toolkit.selection.selector import Parameter, Values, selector

Floats = NDArray[np.float64]
MEAN = "mean"
_MOST_NEIGHBOURS = 1000
_MOST = 1_000_000
"""Largest gamma and unit."""


def _parse_neighbours(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MOST_NEIGHBOURS):
        raise UsageError(
            f"neighbours is {text!r}: it must be a whole number from 1 to {_MOST_NEIGHBOURS:,}", hint="10 is usual"
        )
    return int(text)


def _parse_gamma(text: str) -> Fraction:
    gamma = parse_fraction(text)
    if gamma is None or gamma > _MOST:
        raise UsageError(f"gamma is {text!r}: it must be from 0 to {_MOST:,}", hint="0 spreads the choice most")
    return gamma


def _parse_unit(text: str) -> Fraction | str:
    if text == MEAN:
        return text
    unit = parse_fraction(text)
    if unit is None or not 1 <= unit * _MOST <= _MOST**2:
        raise UsageError(
            f"unit is {text!r}: it must be from 1/{_MOST} to {_MOST}, or {MEAN}",
            hint="1 takes the features as they are",
        )
    return unit


@selector(
    "d2",
    formula="per class: x_i = s_i + sum over its k nearest neighbours j of e^-d_ij s_j; then K_c times the largest x_i,"
    " after which x_j -= e^(-gamma d_ij) x_i for its neighbours; s the difficulty above the class's least, d = ||h_i -"
    " h_j||_2 / unit",
    source="D2 Pruning, Maharana et al., ICLR 2024 (code adymaharana/d2pruning: unit=1); the unit and the shift of s"
    " are ours",
    score="loss",
    needs=("score", "features"),
    parameters={
        "neighbours": Parameter(default="10", help="k, nearest neighbours of a sample", parse=_parse_neighbours),
        "gamma": Parameter(
            default="1", help="how fast the reverse message fades with distance; 0: it does not", parse=_parse_gamma
        ),
        "unit": Parameter(
            default=MEAN,
            help="distance that counts as 1; mean: that of neighbours in the class, 1: features as they are",
            parse=_parse_unit,
        ),
    },
)
def d2(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep difficult samples that stand for others, and spread them over the features.

    Messages are sums, so a score must be finite, and its easiest sample in the class counts 0. The distance is
    Euclidean, not squared, as in the published code. It is measured in units of the mean distance of neighbours in the
    class: e^-d of features as they are depends on the network, and is 0 for most.
    """
    difficulty_N = pool.difficulty_N.astype(np.float64)
    finite_N = np.isfinite(difficulty_N)
    if not finite_N.all():
        first = int(pool.sample_id_N[~finite_N].min())
        raise InputError(
            f"the score of sample {first} is infinite, and selector 'd2' adds scores up", hint="use another --score"
        )

    def chosen(row_n: NDArray[np.int64], vector_nD: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
        neighbour_nK, distance_nK = nearest_neighbours(vector_nD, parameters["neighbours"])
        unit = float(distance_nK.mean() if parameters["unit"] == MEAN else parameters["unit"])
        score_n = difficulty_N[row_n] - difficulty_N[row_n].min()
        # A group of copies has a mean of 0: they are 0 units apart.
        return pass_messages(score_n, neighbour_nK, distance_nK / (unit or 1.0), float(parameters["gamma"]), count)

    return choose_by_features(pool, groups, "d2", chosen)


def pass_messages(
    score_n: Floats, neighbour_nK: NDArray[np.int64], distance_nK: Floats, gamma: float, count: int
) -> NDArray[np.int64]:
    """Return rows in the order D2 takes them, (count,); of equal values the first.

    score_n: 0 or more; neighbour_nK: the neighbours of each row; distance_nK: how far they are.
    """
    value_n = score_n + (np.exp(-distance_nK) * score_n[neighbour_nK]).sum(axis=1)
    fade_nK, free_n = np.exp(-gamma * distance_nK), np.ones(len(value_n), np.bool_)
    # Whatever value changes is pushed again: entries with an older value are skipped.
    heap = [(-value, row) for row, value in enumerate(value_n.tolist())]
    heapify(heap)
    taken: list[int] = []
    while len(taken) < count:
        negative, row = heappop(heap)
        if not free_n[row] or -negative != value_n[row]:
            continue
        taken.append(row)
        free_n[row] = False
        near = neighbour_nK[row]
        value_n[near] -= fade_nK[row] * value_n[row]
        for other in near[free_n[near]].tolist():
            heappush(heap, (-float(value_n[other]), other))
    return np.array(taken, np.int64)
