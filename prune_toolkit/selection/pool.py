"""Input and output of selectors: a pool of samples, groups with their quotas, and a choice."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from prune_toolkit.quotas.quotas import QUOTAS

if TYPE_CHECKING:
    from manifests.format.header import Harder, Search
    from prune_toolkit.selection.held_out import HeldOut

Integers = NDArray[np.integer[Any]]
Ids = NDArray[np.int64]
REASONS = ("kept", "too easy", "too hard", "not drawn", "unreadable", "not chosen", "held out")
KEPT, TOO_EASY, TOO_HARD, NOT_DRAWN, UNREADABLE, NOT_CHOSEN, HELD_OUT = range(len(REASONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreColumn:
    """A score for every row of a pool, and the end of it that is harder."""

    value_N: NDArray[np.floating[Any]]
    harder: "Harder" = "high"

    @property
    def difficulty_N(self) -> NDArray[np.floating[Any]]:
        """The score, negated if needed so that higher is harder."""
        return self.value_N if self.harder == "high" else -self.value_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """A vector for every readable sample, such as its features, read when needed."""

    name: str
    width: int
    stream: Callable[[], Iterator[tuple[Ids, NDArray[np.floating[Any]]]]]
    """Yields (sample_id (n,), vectors (n, D)) part by part; the same on every call."""

    def of(self, sample_id_n: Integers) -> NDArray[np.float16]:
        """Return vectors (n, D) float16 of some samples, in order; raises InputError naming a sample without one."""
        order_n = np.argsort(sample_id_n)
        wanted_n = sample_id_n[order_n]
        vector_nD = np.empty((len(wanted_n), self.width), np.float16)
        found_n = np.zeros(len(wanted_n), np.bool_)
        for ids, block_mD in self.stream():
            if not len(wanted_n):
                break
            place_m = np.minimum(np.searchsorted(wanted_n, ids), len(wanted_n) - 1)
            hit_m = wanted_n[place_m] == ids
            row_m = order_n[place_m[hit_m]]
            vector_nD[row_m] = block_mD[hit_m]
            found_n[row_m] = True
        if not found_n.all():
            missing = int(sample_id_n[np.argmin(found_n)])
            raise InputError(
                f"sample {missing} has no {self.name} ({int((~found_n).sum()):,} such samples)",
                hint="the manifest is incomplete or damaged: fetch or make it again",
            )
        return vector_nD


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The samples to choose from, N rows in any order."""

    sample_id_N: Integers
    """Unique; their order is the canonical order of the keys."""
    label_N: Integers
    content_hash_N16: NDArray[np.uint8]
    class_count: int
    score_N: NDArray[np.floating[Any]] | None = None
    """The score a selector ranks by."""
    harder: "Harder" = "high"
    """The end of that score that is harder."""
    scores: Mapping[str, ScoreColumn] = field(default_factory=dict)
    """Further scores by name, for selectors that ask for them: `Selector.further_scores`."""
    features: Vectors | None = None
    logits: Vectors | None = None
    """Logits of view 0."""
    held_out: "HeldOut | None" = None
    """Images that the teacher never saw, for selectors and quotas that judge by them."""

    @property
    def difficulty_N(self) -> NDArray[np.floating[Any]]:
        """The score, negated if needed so that higher is harder."""
        assert self.score_N is not None
        return ScoreColumn(value_N=self.score_N, harder=self.harder).difficulty_N

    def take(self, row_n: NDArray[Any]) -> "Pool":
        """Return some rows of the pool, by index or boolean array."""
        return replace(
            self,
            sample_id_N=self.sample_id_N[row_n],
            label_N=self.label_N[row_n],
            content_hash_N16=self.content_hash_N16[row_n],
            score_N=None if self.score_N is None else self.score_N[row_n],
            scores={name: replace(column, value_N=column.value_N[row_n]) for name, column in self.scores.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision of a selector for each row of its pool."""

    keep_N: NDArray[np.bool_]
    reason_N: NDArray[np.int8]
    """Index into `reasons`."""
    reasons: tuple[str, ...] = REASONS
    found: Mapping[str, str] = field(default_factory=dict)
    """Parameters that the selector determined itself, by their names in the header."""
    search: "Search | None" = None
    """What it tried to determine them, for the header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The samples that are ranked together, and the number of them to keep."""

    quota: str
    group_N: NDArray[np.int64]
    size_G: NDArray[np.int64]
    keep_G: NDArray[np.int64]
    keep: Fraction
    """The fraction asked for, over all groups."""

    def take(self, row_n: NDArray[Any], keep_G: NDArray[np.int64]) -> "Groups":
        """Return the groups of some rows of the pool, with new counts to keep."""
        group_n = self.group_N[row_n]
        return replace(self, group_N=group_n, size_G=np.bincount(group_n, minlength=len(self.size_G)), keep_G=keep_G)


def rank_in_group(pool: Pool, group_N: NDArray[np.int64], value_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rank 0, 1, ... of each row in its group, ascending by value, then content hash, then sample_id."""
    order_N = ranked_rows(pool, group_N, value_N)
    first_G = np.cumsum(np.bincount(group_N)) - np.bincount(group_N)
    rank_N = np.empty(len(group_N), np.int64)
    rank_N[order_N] = np.arange(len(group_N)) - first_G[group_N[order_N]]
    return rank_N


def share_of_each_class(pool: Pool, share: Fraction, value_N: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) mask of the same share of every class: those with the smallest values.

    Counts are Sainte-Lague seats, their total floor(share * N + 1/2).
    """
    count_C = QUOTAS["proportional"](np.bincount(pool.label_N, minlength=pool.class_count), share)
    assert count_C is not None
    label_N = pool.label_N.astype(np.int64)
    return np.asarray(rank_in_group(pool, label_N, value_N) < count_C[label_N])


def ranked_rows(pool: Pool, group_N: NDArray[np.int64], value_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return rows ordered by group, value, content hash, sample_id: independent of the input order."""
    order_N = np.argsort(value_N, kind="stable")
    # Numbers of 16 bits are sorted by radix. Hashes are compared only where values are equal: three times as fast
    # as sorting 1,281,167 rows by all five keys.
    few = len(group_N) == 0 or group_N.max() <= np.iinfo(np.uint16).max
    order_N = order_N[np.argsort(group_N[order_N].astype(np.uint16 if few else np.int64), kind="stable")]
    ranked_N, place_N = value_N[order_N], group_N[order_N]
    same_N = (ranked_N[1:] == ranked_N[:-1]) & (place_N[1:] == place_N[:-1])
    if not same_N.any():
        return order_N
    follows_N, leads_N = np.append(False, same_N), np.append(same_N, False)
    tied = np.flatnonzero(follows_N | leads_N)
    row_n, run_n = order_N[tied], np.cumsum(~follows_N)[tied]
    # Big-endian halves sort like the 16 bytes.
    words_n2 = np.ascontiguousarray(pool.content_hash_N16[row_n]).view(">u8").astype(np.uint64)
    order_N[tied] = row_n[np.lexsort((pool.sample_id_N[row_n], words_n2[:, 1], words_n2[:, 0], run_n))]
    return order_N


def keep_first(pool: Pool, groups: Groups, value_N: NDArray[Any], reason: int) -> Choice:
    """Keep the K_g rows of each group with the smallest values; the others get `reason`."""
    keep_N = rank_in_group(pool, groups.group_N, value_N) < groups.keep_G[groups.group_N]
    return Choice(keep_N=keep_N, reason_N=np.where(keep_N, KEPT, reason).astype(np.int8))


def window_start(position: Fraction, size_G: NDArray[np.int64], keep_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first rank (G,) of windows at a position: floor(p * (n_g - K_g)), exact."""
    spare_G = (size_G - keep_G).tolist()
    return np.array([position.numerator * spare // position.denominator for spare in spare_G], np.int64)


def keep_ranks(pool: Pool, groups: Groups, start_G: NDArray[np.int64]) -> Choice:
    """Keep the K_g ranks from `start_G` of each group, easy to hard."""
    rank_N = rank_in_group(pool, groups.group_N, pool.difficulty_N)
    start_N = start_G[groups.group_N]
    reason_N = np.full(len(rank_N), KEPT, np.int8)
    reason_N[rank_N < start_N] = TOO_EASY
    reason_N[rank_N >= start_N + groups.keep_G[groups.group_N]] = TOO_HARD
    return Choice(keep_N=np.equal(reason_N, KEPT), reason_N=reason_N)
