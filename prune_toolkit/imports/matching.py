"""Which sample of a manifest a key of somebody else's file means: the key as it is, else a file name that is unique."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.console import note
from manifests.errors import MismatchError
from manifests.files import write_atomic
from manifests.matching import unique_in_both
from manifests.rows import places

SHOWN = 3
_FOLDERS = r"^.*[/\\]"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Rows of a file, and the sample that each means."""

    row_F: NDArray[np.int64]
    """(F,) sample_id, -1 for a row that matches nothing."""
    by_name: int
    """Rows that were matched by file name."""
    unmatched: pa.Array
    """Keys of the others."""


def match_keys(keys_F: pa.ChunkedArray, keys_N: pa.ChunkedArray) -> Matched:
    """Match keys of a file with those of a manifest, both columns of strings; nulls match nothing.

    What is left is matched by file name where it is unique among what is left on either side.
    """
    row_F = places(keys_F, keys_N)
    left_F, free_n = np.flatnonzero(row_F < 0), np.setdiff1d(np.arange(len(keys_N)), row_F)
    left = keys_F.take(pa.array(left_F))
    keys_U = pc.unique(left).drop_null()
    at_U, at_n, _ = unique_in_both(_names(keys_U), _names(keys_N.take(pa.array(free_n)).combine_chunks()))
    place = places(left, keys_U.take(pa.array(at_U)))
    found = place >= 0
    row_F[left_F[found]] = free_n[at_n[place[found]]]
    by_name = int(found.sum())
    return Matched(row_F=row_F, by_name=by_name, unmatched=keys_F.take(pa.array(np.flatnonzero(row_F < 0))))


def tell_unmatched(matched: Matched, what: str, where: str, listing: Path | None) -> None:
    """Say how many rows of a file match nothing, and which are the first; all of them go into `listing`.

    MismatchError when no row matches.
    """
    count, total = len(matched.unmatched), len(matched.row_F)
    if listing is not None:
        write_atomic(listing, "".join(f"{key}\n" for key in matched.unmatched.to_pylist()).encode())
    if matched.by_name:
        note(f"{matched.by_name:,} of {total:,} rows of {what} were matched by file name")
    if not count:
        return
    first = ", ".join(str(key) for key in matched.unmatched[:SHOWN].to_pylist())
    told = f"{count:,} of {total:,} rows of {what} match no sample of {where}; the first: {first}"
    if count == total:
        raise MismatchError(told, hint="are its keys those of this data? prune show --json names the data set")
    note(told if listing is None else f"{told}; all of them: {listing}")


def _names(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(keys, _FOLDERS, "")
