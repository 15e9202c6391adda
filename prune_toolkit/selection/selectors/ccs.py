"""Coverage-centric coreset selection: drop the hardest, then draw evenly over strata of equal width."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.images.identity import hash_words, mix64
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.selection.pool import KEPT, NOT_DRAWN, TOO_HARD, Choice, Groups, Pool, rank_in_group
from prune_toolkit.selection.selector import Parameter, Values, selector

PUBLISHED = "published"
_PUBLISHED_KEEPS = ("0", "0.1", "0.2", "0.3", "0.5", "0.7", "1")
_PUBLISHED_BETAS = {
    "CIFAR-10": ("0.3", "0.3", "0.1", "0.1", "0", "0", "0"),
    "CIFAR-100": ("0.5", "0.5", "0.4", "0.2", "0.2", "0.1", "0"),
    "ImageNet": ("0.3", "0.3", "0.2", "0.2", "0.1", "0", "0"),
}
"""beta at each of these keep fractions; those from 0.1 to 0.7 are the paper's, the ends are ours."""
_MAX_STRATA = 10_000


def published_for(class_count: int) -> str:
    """Return the data set whose table is used: CIFAR-10 up to 10 classes, CIFAR-100 up to 100, ImageNet for more."""
    return "CIFAR-10" if class_count <= 10 else "CIFAR-100" if class_count <= 100 else "ImageNet"


def published_beta(keep: Fraction, class_count: int) -> Fraction:
    """Return the paper's beta at a keep fraction, interpolated linearly and exactly between the published ones."""
    betas = _PUBLISHED_BETAS[published_for(class_count)]
    points = list(zip(map(Fraction, _PUBLISHED_KEEPS), map(Fraction, betas), strict=True))
    for (low, at_low), (high, at_high) in pairwise(points):
        if keep <= high:
            return at_low + (at_high - at_low) * (keep - low) / (high - low)
    raise ValueError(f"keep {keep} is above 1")


def strata_budgets(size_GS: NDArray[np.int64], keep_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of samples to draw per stratum, (G, S); rows sum to `keep_G`, at most the sum of the sizes.

    The smallest stratum comes first, each gets min(size, left / strata left); of equal strata the easier comes first.
    """
    order_GS = np.argsort(size_GS, axis=1, kind="stable")
    budget_GS, left_G = np.zeros_like(size_GS), keep_G.copy()
    groups, strata = np.arange(len(size_GS)), size_GS.shape[1]
    for place in range(strata):
        stratum_G = order_GS[:, place]
        drawn_G = np.minimum(size_GS[groups, stratum_G], left_G // (strata - place))
        budget_GS[groups, stratum_G] = drawn_G
        left_G -= drawn_G
    return budget_GS


def _parse_beta(text: str) -> Fraction | str:
    if text == PUBLISHED:
        return text
    beta = parse_fraction(text)
    if beta is None or beta >= 1:
        raise UsageError(
            f"beta is {text!r}: it must be at least 0 and below 1, or {PUBLISHED}",
            hint="0.1 drops the hardest tenth of each class before drawing",
        )
    return beta


def _parse_strata(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= _MAX_STRATA):
        raise UsageError(f"strata is {text!r}: it must be a whole number from 1 to {_MAX_STRATA:,}", hint="50 is usual")
    return int(text)


@selector(
    "ccs",
    formula="per class: drop the floor(b n_c) hardest, cut the rest into strata of equal width, give each, the smallest"
    " first, min(size, left / strata left) of K_c, draw at random inside",
    source="Coverage-centric Coreset Selection, Zheng et al., ICLR 2023 (there over all classes: quota none)",
    score="margin",
    parameters={
        "beta": Parameter(
            default=PUBLISHED,
            help="share of the hardest to drop first; published: depends on keep and the number of classes",
            parse=_parse_beta,
        ),
        "strata": Parameter(default="50", help="strata of equal width", parse=_parse_strata),
    },
)
def ccs(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep samples spread evenly over the range of difficulties, without the hardest."""
    beta, strata, found = parameters["beta"], parameters["strata"], {}
    if beta == PUBLISHED:
        beta = published_beta(groups.keep, pool.class_count)
        found = {"beta": str(beta), "beta_by": f"published for {published_for(pool.class_count)}"}
    group_N, size_G, keep_G = groups.group_N, groups.size_G, groups.keep_G
    # Drop only as many as the count to keep allows: it takes precedence over beta.
    dropped_G = np.minimum(
        np.array([beta.numerator * size // beta.denominator for size in size_G.tolist()], np.int64), size_G - keep_G
    )
    difficulty_N = _finite(pool.difficulty_N, group_N, len(size_G))
    rank_N = rank_in_group(pool, group_N, pool.difficulty_N)
    too_hard_N = rank_N >= (size_G - dropped_G)[group_N]
    stratum_N = _strata(difficulty_N, group_N, ~too_hard_N, len(size_G), strata)
    cell_N = group_N * strata + stratum_N
    size_GS = np.bincount(cell_N[~too_hard_N], minlength=len(size_G) * strata).reshape(-1, strata)
    budget_GS = strata_budgets(size_GS, keep_G)
    # Dropped samples go into an extra cell, so that the ranks in the other cells do not count them.
    cell_N = np.where(too_hard_N, size_GS.size, cell_N)
    draw_N = mix64(seed, *hash_words(pool.content_hash_N16))
    keep_N = rank_in_group(pool, cell_N, draw_N) < np.append(budget_GS.ravel(), 0)[cell_N]
    reason_N = np.where(keep_N, KEPT, np.where(too_hard_N, TOO_HARD, NOT_DRAWN)).astype(np.int8)
    return Choice(keep_N=keep_N, reason_N=reason_N, found=found)


def _finite(value_N: NDArray[Any], group_N: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """Return the values, with infinite ones clipped to the range of the finite ones of their group."""
    value_N = value_N.astype(np.float64)
    finite_N = np.isfinite(value_N)
    if finite_N.all():
        return value_N
    low_G, high_G = _range(value_N, group_N, finite_N, groups)
    none_G = low_G > high_G
    return np.asarray(np.clip(value_N, np.where(none_G, 0, low_G)[group_N], np.where(none_G, 0, high_G)[group_N]))


def _range(
    value_N: NDArray[np.float64], group_N: NDArray[np.int64], counted_N: NDArray[np.bool_], groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and largest counted value (G,) of each group; inf and -inf for a group without any."""
    low_G, high_G = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low_G, group_N[counted_N], value_N[counted_N])
    np.maximum.at(high_G, group_N[counted_N], value_N[counted_N])
    return low_G, high_G


def _strata(
    value_N: NDArray[np.float64], group_N: NDArray[np.int64], counted_N: NDArray[np.bool_], groups: int, strata: int
) -> NDArray[np.int64]:
    """Return the stratum 0 .. S-1 of each row, equal in width between the ends of the counted values of its group."""
    low_G, high_G = _range(value_N, group_N, counted_N, groups)
    width_G = np.where(high_G > low_G, high_G - low_G, 1.0)
    share_N = (value_N - low_G[group_N]) / width_G[group_N]
    share_N[~counted_N] = 0.0
    return np.minimum((share_N * strata).astype(np.int64), strata - 1)
