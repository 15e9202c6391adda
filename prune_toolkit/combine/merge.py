"""`prune merge` of shards and of further score sets: what several manifests know of the samples of one data set.

The result is what one manifest of all these samples would have held: their keys in order with new sample_ids, logits as
they are, the teacher's accuracy computed anew. Torch-free, a part of each manifest in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.layout import BETON_NAME
from manifests.base.progress import Progress, note
from manifests.errors import MismatchError, UsageError
from manifests.format.parts import part_count
from manifests.manifest import Manifest
from manifests.stores.store import store_of
from prune_toolkit.combine.alike import check_alike, check_same_kind
from prune_toolkit.combine.joined_samples import HINT, JoinedSamples, check_scored, join_samples, readable
from prune_toolkit.combine.joined_tables import TablePlan, opened, plan_tables
from prune_toolkit.combine.joined_writing import ShareWork

FIRST, LAST = "first", "last"


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """What `prune merge` without --average was asked to do."""

    out: Path
    prefer: str | None = None
    """Whose values count where manifests disagree: one of them, `first` or `last`; None: disagreeing is an error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shards:
    """Manifests that can be put together, in the order of precedence."""

    config: ShardsConfig
    parents: tuple[Manifest, ...]
    preferred: int
    """So many of them, from the first, count where they disagree with another."""
    joined: JoinedSamples
    plans: tuple[TablePlan, ...]
    left_out: tuple[str, ...]
    """Tables, and samples, that are not taken over, with the reason."""

    @classmethod
    def of(cls, config: ShardsConfig, manifests: Sequence[Manifest]) -> "Shards":
        """Check that manifests go together and plan the result; UsageError, MismatchError or InputError."""
        check_same_kind(manifests)
        parents, preferred = _by_precedence(config.prefer, manifests)
        check_alike(sorted(parents, key=lambda manifest: manifest.id))
        joined = join_samples(parents, preferred)
        check_scored(joined)
        plans, left_out = plan_tables(joined.shares, readable(joined.samples))
        for share in joined.shares:
            if dropped := share.manifest.header.data.count - len(share.old_n):
                where = share.manifest.where
                left_out.append(f"{dropped:,} samples of {where}, which the preferred manifest describes otherwise")
        shards = cls(
            config=config,
            parents=parents,
            preferred=preferred,
            joined=joined,
            plans=tuple(plans),
            left_out=tuple(left_out),
        )
        shards.check_values()
        return shards

    @property
    def count(self) -> int:
        """Samples of the result."""
        return len(self.joined.samples)

    def resolved(self) -> dict[str, Any]:
        """What the result depends on, without paths."""
        return {
            "command": "merge",
            "parents": sorted(parent.id for parent in self.parents),
            **({"prefer": [parent.id for parent in self.parents[: self.preferred]]} if self.preferred else {}),
        }

    def check_values(self) -> None:
        """MismatchError where manifests hold unequal values of a sample, and none of them is preferred."""
        shared_N = self.joined.shared_N
        for share in self.joined.shares[: self.preferred]:
            shared_N[share.new_n] = False
        if not shared_N.any():
            return
        parts = part_count(self.count)
        with Progress(len(self.plans) * parts, "comparing what several manifests have", "parts") as progress:
            for plan in self.plans:
                self._check_table(plan, shared_N, progress)

    def _check_table(self, plan: TablePlan, shared_N: NDArray[np.bool_], progress: Progress) -> None:
        tables, found = opened(plan, self.count), []
        for part in range(part_count(self.count)):
            found += [table.differing(part, shared_N) for table in tables]
            progress.advance(1)
        ids = np.unique(np.concatenate(found))
        if len(ids):
            first = int(ids[0])
            holders = [share.manifest.where for share in self.joined.shares if first in share.new_n]
            raise MismatchError(
                f"{' and '.join(holders)} disagree on {plan.name} of {len(ids):,} samples; the first: "
                f"{self.joined.samples.column('key')[first].as_py()}",
                hint=HINT,
            )


def write_shards(shards: Shards) -> Manifest:
    """Write the manifest of all samples; what an interrupted run has done is kept."""
    for what in shards.left_out:
        note(f"left out: {what}")
    if any(parent.header.file(BETON_NAME) for parent in shards.parents):
        note("betons are not joined: `prune select --data DATA` cuts a new one from the images")
    return ShareWork(
        out=shards.config.out,
        command="merge",
        resolved=shards.resolved(),
        parents=tuple(sorted(shards.parents, key=lambda parent: parent.id)),
        shares=shards.joined.shares,
        samples=shards.joined.samples,
        plans=shards.plans,
        what=f"merging {len(shards.parents)} manifests",
    ).write()


def _by_precedence(prefer: str | None, manifests: Sequence[Manifest]) -> tuple[tuple[Manifest, ...], int]:
    """The manifests with those that are preferred first, and how many these are."""
    if prefer == FIRST:
        return tuple(manifests), len(manifests)
    if prefer == LAST:
        return tuple(reversed(manifests)), len(manifests)
    by_id = sorted(manifests, key=lambda manifest: manifest.id)
    if prefer is None:
        return tuple(by_id), 0
    where = store_of(prefer).where
    named = [manifest for manifest in manifests if normpath(manifest.where) == normpath(where)]
    if len(named) != 1:
        wheres = ", ".join(manifest.where for manifest in manifests)
        raise UsageError(f"--prefer {where} is none of the manifests: {wheres}", hint="one of them, first or last")
    return (named[0], *(manifest for manifest in by_id if manifest is not named[0])), 1
