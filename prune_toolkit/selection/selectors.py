"""Selectors: which samples of each class to keep, and for every sample the reason.

All of them rank the samples of a group (a class, or everything under quota `none`) and keep exactly as many
as the quota says. Equal ranks are ordered by content hash, then by key, so the outcome depends on neither
row order nor the order of equal scores, and duplicated images never change the count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.identity import hash_words, mix64
from manifests.registry import Registry
from prune_toolkit.selection.quotas import QUOTAS, parse_fraction, total_count

if TYPE_CHECKING:
    from manifests.header import Harder

Integers = NDArray[np.integer[Any]]
KEPT, TOO_EASY, TOO_HARD, NOT_DRAWN, UNREADABLE = range(5)
REASONS = ("kept", "too easy", "too hard", "not drawn", "unreadable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The readable samples to choose from, N rows in any order."""

    sample_id_N: Integers
    """Unique; their order is the canonical order of the keys."""
    label_N: Integers
    content_hash_N16: NDArray[np.uint8]
    class_count: int
    score_N: NDArray[np.floating[Any]] | None = None
    harder: "Harder" = "high"
    """Which end of the score is harder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a selector decided, row by row of its pool."""

    keep_N: NDArray[np.bool_]
    reason_N: NDArray[np.int8]
    """Index into `reasons`."""
    reasons: tuple[str, ...] = REASONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The samples that are ranked together, and how many of them to keep."""

    quota: str
    group_N: NDArray[np.int64]
    size_G: NDArray[np.int64]
    keep_G: NDArray[np.int64]


SelectorFunction = Callable[[Pool, Groups, int, Mapping[str, Any]], Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a selector, given as text."""

    default: str
    help: str
    parse: Callable[[str], Any]
    """Value of a text; UsageError when it is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A selector and what must be known to use it."""

    name: str
    formula: str
    source: str
    function: SelectorFunction
    score: str | None
    """The score it ranks by unless another is asked for; None when it needs none."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def resolve(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Parsed values of all parameters, the defaults filled in; UsageError on an unknown or bad one.

        `str(value)` is the canonical text of a value, as it goes into the header.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise UsageError(f"selector {self.name!r} has no parameter {name!r}", hint=f"its parameters: {known}")
        return {
            name: parameter.parse(given.get(name, parameter.default)) for name, parameter in self.parameters.items()
        }


SELECTORS: Registry[Selector] = Registry("selector")


def selector(
    name: str,
    *,
    formula: str,
    source: str,
    score: str | None,
    parameters: Mapping[str, Parameter] | None = None,
) -> Callable[[SelectorFunction], Selector]:
    """Register a function (pool, groups, seed, parameters) -> Choice."""

    def register(function: SelectorFunction) -> Selector:
        entry = Selector(
            name=name,
            formula=formula,
            source=source,
            function=function,
            score=score,
            parameters=parameters or {},
        )
        return SELECTORS.add(name, entry)

    return register


def choose(
    method: str,
    pool: Pool,
    *,
    keep: Fraction,
    quota: str = "proportional",
    seed: int = 0,
    parameters: Mapping[str, str] | None = None,
) -> Choice:
    """Choose samples of a pool by a registered selector under a registered quota.

    UsageError on unknown names, bad parameters or when `keep` amounts to no sample at all; InputError on a
    missing or nan score; ValueError on a label outside the classes.
    """
    entry = SELECTORS[method]
    values = entry.resolve(parameters or {})
    groups = make_groups(pool, quota, keep)
    if entry.score is not None:
        _check_score(entry, pool)
    return entry.function(pool, groups, seed, values)


def make_groups(pool: Pool, quota: str, keep: Fraction) -> Groups:
    """Group a pool by class, or into one group under a quota that ranks all classes together."""
    size_C = np.bincount(pool.label_N, minlength=pool.class_count)
    if len(size_C) != pool.class_count:
        raise ValueError(f"label {len(size_C) - 1} is outside the {pool.class_count} classes")
    samples = len(pool.label_N)
    keep_C = QUOTAS[quota](size_C, keep)
    if keep_C is None:
        group_N, size_C = np.zeros(samples, np.int64), np.array([samples])
        keep_C = np.array([total_count(keep, samples)])
    else:
        group_N = pool.label_N.astype(np.int64)
    if not keep_C.any():
        raise UsageError(
            f"keep {keep} of {samples} samples under quota {quota!r} is no sample at all",
            hint="keep more, or take another quota: prune list",
        )
    return Groups(quota=quota, group_N=group_N, size_G=size_C, keep_G=keep_C)


@selector(
    "medium",
    formula="per class the K_c ranks from (n_c - K_c) // 2, easy to hard;"
    " quota published: ranks [m - b, m + a), m = n_c // 2, a = K_c // 2, b = K_c - a",
    source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe; code chenyd7/MDSLR)",
    score="loss",
)
def medium(pool: Pool, groups: Groups, seed: int, parameters: Mapping[str, Any]) -> Choice:
    """Keep the samples around the median difficulty of their class."""
    size_G, keep_G = groups.size_G, groups.keep_G
    if groups.quota == "published":
        # One rank lower than the centre where n_c and K_c are both odd; a whole class starts at 0.
        return _keep_window(pool, groups, np.maximum(size_G // 2 - (keep_G - keep_G // 2), 0))
    return _keep_window(pool, groups, (size_G - keep_G) // 2)


def _parse_position(text: str) -> Fraction:
    position = parse_fraction(text)
    if position is None or position > 1:
        raise UsageError(
            f"position is {text!r}: it must be between 0 and 1",
            hint="0 keeps the easiest, 1/2 the medium, 1 the hardest samples",
        )
    return position


@selector(
    "window",
    formula="per class the K_c ranks from floor(p * (n_c - K_c)), easy to hard",
    source="window of BWS, ICML 2024; its position is given, not searched",
    score="loss",
    parameters={
        "position": Parameter(
            default="1/2", help="0 the easiest, 1/2 the medium, 1 the hardest samples", parse=_parse_position
        )
    },
)
def window(pool: Pool, groups: Groups, seed: int, parameters: Mapping[str, Any]) -> Choice:
    """Keep consecutive ranks at a position between the easiest and the hardest of a class."""
    position: Fraction = parameters["position"]
    spare_G = zip(groups.size_G.tolist(), groups.keep_G.tolist(), strict=True)
    start_G = [position.numerator * (size - keep) // position.denominator for size, keep in spare_G]
    return _keep_window(pool, groups, np.array(start_G, np.int64))


@selector(
    "random",
    formula="per class the K_c samples with the smallest hash(seed, content hash)",
    source="random ranks, redrawn for every seed",
    score=None,
)
def random(pool: Pool, groups: Groups, seed: int, parameters: Mapping[str, Any]) -> Choice:
    """Keep a random subset; with one seed the sets of growing keep fractions contain each other."""
    draw_N = mix64(seed, *hash_words(pool.content_hash_N16))
    keep_N = rank_in_group(pool, groups.group_N, draw_N) < groups.keep_G[groups.group_N]
    return Choice(keep_N=keep_N, reason_N=np.where(keep_N, KEPT, NOT_DRAWN).astype(np.int8))


def rank_in_group(pool: Pool, group_N: NDArray[np.int64], value_N: NDArray[Any]) -> NDArray[np.int64]:
    """Rank 0, 1, ... of each row in its group, ascending by value, then content hash, then sample_id."""
    # Big-endian halves compare as the 16 bytes do.
    words_N2 = np.ascontiguousarray(pool.content_hash_N16).view(">u8").astype(np.uint64)
    order_N = np.lexsort((pool.sample_id_N, words_N2[:, 1], words_N2[:, 0], value_N, group_N))
    first_G = np.cumsum(np.bincount(group_N)) - np.bincount(group_N)
    rank_N = np.empty(len(group_N), np.int64)
    rank_N[order_N] = np.arange(len(group_N)) - first_G[group_N[order_N]]
    return rank_N


def _keep_window(pool: Pool, groups: Groups, start_G: NDArray[np.int64]) -> Choice:
    assert pool.score_N is not None
    difficulty_N = pool.score_N if pool.harder == "high" else -pool.score_N
    rank_N = rank_in_group(pool, groups.group_N, difficulty_N)
    start_N = start_G[groups.group_N]
    reason_N = np.full(len(rank_N), KEPT, np.int8)
    reason_N[rank_N < start_N] = TOO_EASY
    reason_N[rank_N >= start_N + groups.keep_G[groups.group_N]] = TOO_HARD
    return Choice(keep_N=np.equal(reason_N, KEPT), reason_N=reason_N)


def _check_score(entry: Selector, pool: Pool) -> None:
    if pool.score_N is None:
        raise InputError(
            f"selector {entry.name!r} ranks by a score and there is none",
            hint="make the scores: prune score; or choose without: --method random",
        )
    missing_N = np.isnan(pool.score_N)
    if missing_N.any():
        first = int(pool.sample_id_N[missing_N].min())
        raise InputError(
            f"the score of sample {first} is nan ({int(missing_N.sum())} of {len(missing_N)} scores)",
            hint="score the data again, or rank by another score: --score",
        )
