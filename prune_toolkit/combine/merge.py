"""`prune merge`: join shards of a data set, or score sets of the same samples, into one manifest.

The result equals a manifest made of all these samples at once: their keys in order with new sample_ids, logits
unchanged, the teacher's accuracy computed again. Torch-free, with a part of each manifest in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Shards:
    """Manifests that can be merged, in the order of precedence."""

    out: Path
    parents: tuple[Manifest, ...]
    preferred: int
    """The number of manifests, from the first, that take precedence over others."""
    joined: JoinedSamples
    plans: tuple[TablePlan, ...]
    not_merged: tuple[str, ...]
    """Tables and samples that are not carried over, with the reason."""

    @classmethod
    def of(cls, manifests: Sequence[Manifest], *, out: Path, prefer: str | None = None) -> "Shards":
        """Check that manifests fit together and plan the result; UsageError, MismatchError or InputError if not.

        prefer: the manifest that counts where several disagree, its path, `first` or `last`; None: raise an error.
        """
        check_same_kind(manifests)
        parents, preferred = _by_precedence(prefer, manifests)
        check_alike(sorted(parents, key=lambda manifest: manifest.id))
        joined = join_samples(parents, preferred)
        check_scored(joined)
        plans, not_merged = plan_tables(joined.shares, readable(joined.samples))
        for share in joined.shares:
            if dropped := share.manifest.header.data.count - len(share.old_n):
                where = share.manifest.where
                not_merged.append(f"{dropped:,} samples of {where}, which the preferred manifest describes differently")
        shards = cls(
            out=out,
            parents=parents,
            preferred=preferred,
            joined=joined,
            plans=tuple(plans),
            not_merged=tuple(not_merged),
        )
        shards.check_values()
        return shards

    @property
    def count(self) -> int:
        """Number of samples of the result."""
        return len(self.joined.samples)

    def resolved(self) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        return {
            "command": "merge",
            "parents": sorted(parent.id for parent in self.parents),
            **({"prefer": [parent.id for parent in self.parents[: self.preferred]]} if self.preferred else {}),
        }

    def check_values(self) -> None:
        """Raise MismatchError if manifests have different values for a sample, and none of them is preferred."""
        shared_N = self.joined.shared_N
        for share in self.joined.shares[: self.preferred]:
            shared_N[share.new_n] = False
        if not shared_N.any():
            return
        parts = part_count(self.count)
        with Progress(len(self.plans) * parts, "comparing samples that several manifests have", "parts") as progress:
            for plan in self.plans:
                tables, found = opened(plan, self.count), []
                for part in range(parts):
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
    """Write the manifest of all samples; an interrupted run is resumed."""
    for what in shards.not_merged:
        note(f"left out: {what}")
    if any(parent.header.file(BETON_NAME) for parent in shards.parents):
        note("betons are not merged: `prune select --data DATA` cuts a new one from the images")
    return ShareWork(
        out=shards.out,
        command="merge",
        resolved=shards.resolved(),
        parents=tuple(sorted(shards.parents, key=lambda parent: parent.id)),
        shares=shards.joined.shares,
        samples=shards.joined.samples,
        plans=shards.plans,
        what=f"merging {len(shards.parents)} manifests",
    ).write()


def _by_precedence(prefer: str | None, manifests: Sequence[Manifest]) -> tuple[tuple[Manifest, ...], int]:
    """Return the manifests, preferred ones first, and the number of preferred ones."""
    if prefer == "first":
        return tuple(manifests), len(manifests)
    if prefer == "last":
        return tuple(reversed(manifests)), len(manifests)
    by_id = sorted(manifests, key=lambda manifest: manifest.id)
    if prefer is None:
        return tuple(by_id), 0
    where = store_of(prefer).where
    named = [manifest for manifest in manifests if normpath(manifest.where) == normpath(where)]
    if len(named) != 1:
        wheres = ", ".join(manifest.where for manifest in manifests)
        raise UsageError(
            f"--prefer {where} is not one of the manifests: {wheres}", hint="name one of them, or first or last"
        )
    return (named[0], *(manifest for manifest in by_id if manifest is not named[0])), 1
