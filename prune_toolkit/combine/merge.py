"""`prune merge`: join shards of a data set, or score sets of the same samples, into one manifest.

The result equals a manifest made of all these samples at once: their keys in order with new sample_ids, logits
unchanged, the teacher's accuracy computed again. Torch-free, with a part of each manifest in memory.
"""

from collections.abc import Sequence
from os.path import normpath
from pathlib import Path

import numpy as np

from manifests.base.layout import BETON_NAME
from manifests.base.progress import Progress, note
from manifests.errors import MismatchError, UsageError
from manifests.format.parts import part_count
from manifests.manifest import Manifest
from manifests.stores.store import store_of
from manifests.tables.rows import Share
from prune_toolkit.combine.alike import check_alike, check_same_kind
from prune_toolkit.combine.joined_samples import HINT, Samples, check_scored, flags_of, join_samples, key_of
from prune_toolkit.combine.joined_tables import TablePlan, opened, plan_tables
from prune_toolkit.combine.joined_writing import ShareWork


def plan_shards(manifests: Sequence[Manifest], *, out: Path, prefer: str | None = None) -> ShareWork:
    """Check that manifests fit together and plan the result; UsageError, MismatchError or InputError if not.

    prefer: the manifest that counts where several disagree, its path, `first` or `last`; None: raise an error.
    """
    check_same_kind(manifests)
    parents, preferred = _by_precedence(prefer, manifests)
    by_id = tuple(sorted(parents, key=lambda manifest: manifest.id))
    check_alike(by_id)
    samples, shares = join_samples(parents, preferred)
    check_scored(samples, shares)
    plans, left_out = plan_tables(shares, samples.readable_N)
    for share in shares:
        if dropped := share.manifest.header.data.count - len(share.old_n):
            where = share.manifest.where
            left_out.append(f"{dropped:,} samples of {where}, which the preferred manifest describes differently")
    _check_values(samples, shares, plans, preferred)
    first = {"prefer": [parent.id for parent in parents[:preferred]]} if preferred else {}
    return ShareWork(
        out=out,
        resolved={"command": "merge", "parents": [parent.id for parent in by_id], **first},
        parents=by_id,
        shares=shares,
        samples=samples,
        plans=tuple(plans),
        left_out=tuple(left_out),
        what=f"merging {len(parents)} manifests",
    )


def _check_values(samples: Samples, shares: Sequence[Share], plans: Sequence[TablePlan], preferred: int) -> None:
    """Raise MismatchError if manifests have different values for a sample, and none of them is preferred."""
    count = samples.count
    times_N = np.bincount(np.concatenate([share.new_n for share in shares]), minlength=count)
    shared_N = (times_N > 1) & ~flags_of(shares[:preferred], count)
    if not shared_N.any():
        return
    parts = part_count(count)
    with Progress(len(plans) * parts, "comparing samples that several manifests have", "parts") as progress:
        for plan in plans:
            tables, found = opened(plan, count), []
            for part in range(parts):
                found += [table.differing(part, shared_N) for table in tables]
                progress.advance(1)
            ids = np.unique(np.concatenate(found))
            if len(ids):
                holders = [share.manifest.where for share in shares if ids[0] in share.new_n]
                raise MismatchError(
                    f"{' and '.join(holders)} disagree on {plan.name} of {len(ids):,} samples; the first: "
                    f"{key_of(shares, int(ids[0]))}",
                    hint=HINT,
                )


def write_shards(shards: ShareWork) -> Manifest:
    """Write the manifest of all samples; an interrupted run is resumed."""
    if any(parent.header.file(BETON_NAME) for parent in shards.parents):
        note("betons are not merged: `prune select --data DATA` cuts a new one from the images")
    return shards.write()


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
