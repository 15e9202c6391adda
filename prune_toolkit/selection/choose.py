"""Choose an exact number of samples from a pool, given a keep fraction, a quota and a selector."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from prune_toolkit.quotas.quotas import QUOTAS, Counts, total_count, with_minimum
from prune_toolkit.selection.pool import Choice, Groups, Pool
from prune_toolkit.selection.selector import SELECTORS


def choose(
    method: str,
    pool: Pool,
    *,
    keep: Fraction,
    quota: str = "proportional",
    seed: int = 0,
    parameters: Mapping[str, str] | None = None,
    per_class_min: int = 0,
) -> Choice:
    """Choose samples from a pool with a registered selector under a registered quota.

    Every class keeps at least `per_class_min` samples, or all it has; the minimum does not change the total.

    Raises UsageError for unknown names, for bad parameters, and if `keep` amounts to no sample or to fewer than the
    minimum requires; InputError for a missing or nan score; ValueError for a label outside the classes.
    """
    entry = SELECTORS[method]
    values = entry.resolve(parameters or {})
    groups = make_groups(pool, quota, keep, per_class_min)
    choice = entry.choose(pool, groups, seed, values)
    if not per_class_min or QUOTAS[quota].function is not None:
        return choice
    # Under quota none the outcome shows which classes fall short: rank these separately, and the rest again.
    minimum_C = np.minimum(per_class_min, _class_sizes(pool))
    alone_C = np.zeros(pool.class_count, np.bool_)
    while True:
        kept_C = np.bincount(pool.label_N[choice.keep_N], minlength=pool.class_count)
        short_C = kept_C < minimum_C
        if not short_C.any():
            return choice
        alone_C |= short_C
        choice = entry.choose(pool, _groups_alone(pool, quota, keep, alone_C, minimum_C), seed, values)


def make_groups(pool: Pool, quota: str, keep: Fraction, per_class_min: int = 0) -> Groups:
    """Group a pool by class, or into one group under a quota that ranks all classes together."""
    size_C, samples = _class_sizes(pool), len(pool.label_N)
    keep_C = QUOTAS[quota](size_C, keep)
    total = total_count(keep, samples) if keep_C is None else int(keep_C.sum())
    if not total:
        raise UsageError(
            f"keep {keep} of {samples} samples under quota {quota!r} leaves no samples",
            hint="keep more, or choose another quota: prune list",
        )
    least = int(np.minimum(per_class_min, size_C).sum())
    if least > total:
        raise UsageError(
            f"--per-class-min {per_class_min} requires {least:,} samples in {int((size_C > 0).sum()):,} classes,"
            f" but keep {keep} under quota {quota!r} is {total:,}",
            hint="keep more, or lower --per-class-min",
        )
    if keep_C is None:
        return _groups_alone(pool, quota, keep, np.zeros(pool.class_count, np.bool_), size_C)
    keep_C = with_minimum(quota, size_C, keep_C, per_class_min)
    return Groups(quota=quota, group_N=pool.label_N.astype(np.int64), size_G=size_C, keep_G=keep_C, keep=keep)


def _class_sizes(pool: Pool) -> Counts:
    size_C = np.bincount(pool.label_N, minlength=pool.class_count)
    if len(size_C) != pool.class_count:
        raise ValueError(f"label {len(size_C) - 1} is outside the {pool.class_count} classes")
    return size_C


def _groups_alone(pool: Pool, quota: str, keep: Fraction, alone_C: NDArray[np.bool_], minimum_C: Counts) -> Groups:
    """Put all classes into one group, except the `alone` ones: each is its own group and keeps its minimum."""
    group_C = np.where(alone_C, np.cumsum(alone_C), 0)
    group_N = group_C[pool.label_N]
    keep_G = np.concatenate([[0], minimum_C[alone_C]])
    keep_G[0] = total_count(keep, len(group_N)) - keep_G.sum()
    size_G = np.bincount(group_N, minlength=len(keep_G))
    return Groups(quota=quota, group_N=group_N, size_G=size_G, keep_G=keep_G, keep=keep)
