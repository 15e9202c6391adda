"""Selectors by name, what each needs and its parameters; and the choice of an exact number of samples with one.

A selector is a separate file in `selectors/` or in another package, and one line that imports it:

@selector("hardest", formula="per class the K_c hardest", source="...", score="loss")
def hardest(pool, groups, seed, parameters):
    return keep_first(pool, groups, -pool.difficulty_N, TOO_EASY)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.errors import InputError, UsageError
from prune_toolkit.quotas.quotas import QUOTAS, Counts, total_count, with_minimum
from prune_toolkit.selection.held_out import SCORE_THEM
from prune_toolkit.selection.pool import Choice, Groups, Pool

Values = Mapping[str, Any]
"""Parsed values of a selector's parameters, by name."""
SelectorFunction = Callable[[Pool, Groups, int, Values], Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a selector, given as text."""

    default: str
    help: str
    parse: Callable[[str], Any]
    """Returns the value of a text; raises UsageError if it is invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A selector and the facts needed to use it."""

    name: str
    formula: str
    source: str
    function: SelectorFunction
    score: str | None
    """The score it ranks by unless another is requested; None if it needs no score."""
    own_score: bool = False
    """True if that score defines it, so that no other can be requested."""
    needs: tuple[str, ...] = ()
    """The tables it requires: "score", "features"."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    further_scores: Callable[[Values], list[str]] | None = None
    """Names of the scores it reads from `Pool.scores`, given its parameters."""
    needs_held_out: Callable[[Values], bool] = lambda values: False
    """Whether it judges by images that the teacher never saw, given its parameters."""

    def resolve(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return parsed values of all parameters, including defaults; raises UsageError for an unknown or bad one.

        `str(value)` is the canonical text of a value, as written into the header.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise UsageError(f"selector {self.name!r} has no parameter {name!r}", hint=f"its parameters: {known}")
        return {
            name: parameter.parse(given.get(name, parameter.default)) for name, parameter in self.parameters.items()
        }

    def score_or(self, asked: str | None) -> str | None:
        """Return the score to rank by; raises UsageError if the selector cannot use the requested one."""
        if asked is None:
            return self.score
        if self.score is None:
            hint = "give scores to its parts: score=NAME" if self.further_scores else "leave out --score"
            raise UsageError(f"selector {self.name} does not rank by a score", hint=hint)
        if self.own_score and asked.rpartition("/")[2] != self.score:
            raise UsageError(
                f"selector {self.name} ranks by {self.score}, not by {asked}",
                hint="leave out --score; for the middle of another score use --selector medium",
            )
        return asked

    def choose(self, pool: Pool, groups: Groups, seed: int, values: Values) -> Choice:
        """Choose from a pool; raises UsageError or InputError if it lacks what the selector needs."""
        if "features" in self.needs and pool.features is None:
            raise UsageError(
                f"selector {self.name!r} needs features, and the manifest has none",
                hint="store them: prune score --features; or choose another selector: prune list selectors",
            )
        if self.score is not None:
            if pool.score_N is None:
                raise InputError(
                    f"selector {self.name!r} ranks by a score, and the manifest has none",
                    hint="make the scores: prune score; or choose without scores: --selector random",
                )
            missing_N = np.isnan(pool.score_N)
            if missing_N.any():
                first = int(pool.sample_id_N[missing_N].min())
                raise InputError(
                    f"the score of sample {first} is nan ({int(missing_N.sum())} of {len(missing_N)} scores)",
                    hint="score the data again, or rank by another score: --score",
                )
        choice = self.function(pool, groups, seed, values)
        kept_G = np.bincount(groups.group_N[choice.keep_N], minlength=len(groups.keep_G))
        if not np.array_equal(kept_G, groups.keep_G):
            group = int(np.argmax(kept_G != groups.keep_G))
            raise UsageError(
                f"selector {self.name!r} is broken: it kept {int(kept_G[group]):,} samples of group {group}, "
                f"but the quota is {int(groups.keep_G[group]):,}",
                hint="report it to its author, or choose another selector: prune list selectors",
            )
        return choice


SELECTORS: Registry[Selector] = Registry("selector")


def selector(name: str, *, score: str | None, **facts: Any) -> Callable[[SelectorFunction], Selector]:
    """Register a function (pool, groups, seed, parameters) -> Choice that keeps exactly `groups.keep_G` of each group.

    facts: the other fields of `Selector`; one with a score needs it, unless `needs` says otherwise. The choice must
    depend only on samples and seed, not on the order of rows.
    """
    facts = {"needs": () if score is None else ("score",), **facts}
    return lambda function: SELECTORS.add(name, Selector(name=name, function=function, score=score, **facts))


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
    if not per_class_min or not QUOTAS[quota].ranks_classes_together:
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
    recall_C = recalls(pool, quota)
    keep_C = QUOTAS[quota](size_C, keep, recall_C)
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
    keep_C = with_minimum(quota, size_C, keep_C, per_class_min, recall_C)
    return Groups(quota=quota, group_N=pool.label_N.astype(np.int64), size_G=size_C, keep_G=keep_C, keep=keep)


def recalls(pool: Pool, quota: str) -> list[Fraction] | None:
    """Return the teacher's recall of each class on the held-out images, (C,), if a quota needs it; else None.

    Raises UsageError without held-out images, or if they lack a class of the pool.
    """
    if QUOTAS[quota].by_recall is None:
        return None
    if pool.held_out is None:
        raise UsageError(
            f"quota {quota} needs images that the teacher never saw, and none are given",
            hint=f"{SCORE_THEM}; or choose another quota: prune list quotas",
        )
    hit_C, count_C = pool.held_out.recall_C(pool.class_count)
    missing_C = (count_C == 0) & (_class_sizes(pool) > 0)
    if missing_C.any():
        raise UsageError(
            f"quota {quota}: {int(missing_C.sum()):,} classes of the pool have no held-out image, such as class "
            f"{int(np.argmax(missing_C))}",
            hint="hold out images of every class, or choose another quota: prune list quotas",
        )
    return [Fraction(hits, max(1, count)) for hits, count in zip(hit_C.tolist(), count_C.tolist(), strict=True)]


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
