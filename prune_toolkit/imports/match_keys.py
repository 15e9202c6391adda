"""Match the keys of an imported file with samples of a manifest: by the whole key, else by a unique file name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.progress import note, one_line
from manifests.base.reports import write_listing
from manifests.errors import MismatchError
from manifests.manifest import Manifest
from manifests.sources.splits import family_of_path
from manifests.tables.rows import places, unique_in_both

SHOWN = 3
_FOLDERS = r"(?s)^.*[/\\]"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The rows of a file, and the sample that each stands for."""

    row_F: NDArray[np.int64]
    """(F,) sample_id, -1 for a row that matches nothing."""
    by_name: int
    """Number of rows that were matched by file name."""
    unmatched: pa.Array
    """Keys of the rows that match nothing."""


def match_keys(keys_F: pa.ChunkedArray, keys_N: pa.ChunkedArray, *, are_rows: bool = False) -> Matched:
    """Match keys of a file with those of a manifest, both columns of strings; nulls match nothing.

    The rest is matched by file name if that is unique among the rest on either side, unless the folders show that it is
    another image: of another split, or below a folder that the manifest has elsewhere. are_rows: the manifest's keys
    are row numbers, not file names.
    """
    row_F = places(keys_F, keys_N)
    if are_rows:
        return Matched(row_F=row_F, by_name=0, unmatched=keys_F.filter(pa.array(row_F < 0)))
    left_F, free_n = np.flatnonzero(row_F < 0), np.setdiff1d(np.arange(len(keys_N)), row_F)
    left = keys_F.take(pa.array(left_F))
    keys_U = pc.unique(left).drop_null()
    at_U, at_n, _ = unique_in_both(_names(keys_U), _names(keys_N.take(pa.array(free_n)).combine_chunks()))
    named = keys_U.take(pa.array(at_U))
    may_be = _may_be_same(named, keys_N.take(pa.array(free_n[at_n])).combine_chunks(), keys_N)
    named, at_n = named.filter(pa.array(may_be)), at_n[may_be]
    place = places(left, named)
    found = place >= 0
    row_F[left_F[found]] = free_n[at_n[place[found]]]
    return Matched(row_F=row_F, by_name=int(found.sum()), unmatched=keys_F.filter(pa.array(row_F < 0)))


def matched_rows(
    keys_F: pa.ChunkedArray, parent: Manifest, keys_N: pa.ChunkedArray, what: str, listing: Path | None
) -> NDArray[np.int64]:
    """Return the sample_id (F,) of each row of the file `what`, -1 for one that matches nothing; see `match_keys`.

    Reports the number of the latter and the first ones, and writes them all to `listing`. Raises MismatchError if no
    row matches.
    """
    matched = match_keys(keys_F, keys_N, are_rows=parent.header.data.source != "folder")
    count, total = len(matched.unmatched), len(matched.row_F)
    if listing is not None:
        write_listing(listing, "".join(f"{_one_line(key)}\n" for key in matched.unmatched.to_pylist()).encode())
    if matched.by_name:
        note(f"{matched.by_name:,} of {total:,} rows of {what} were matched by file name")
    if count:
        first = ", ".join(map(_one_line, matched.unmatched[:SHOWN].to_pylist()))
        message = f"{count:,} of {total:,} rows of {what} match no sample of {parent.where}; the first: {first}"
        if count == total:
            raise MismatchError(message, hint="check that its keys are of this data set: prune show --json names it")
        note(message if listing is None else f"{message}; all of them: {listing}")
    return matched.row_F


def _one_line(key: str | None) -> str:
    return one_line(str(key)).replace("\r", "\\r")


def _names(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(keys, _FOLDERS, "")


def _folders(keys: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the part of each key before the file name, with slashes; "" if there is none."""
    return pc.replace_substring_regex(pc.replace_substring(keys, "\\", "/"), "[^/]*$", "")


def _may_be_same(theirs_n: pa.Array, ours_n: pa.Array, keys_N: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(n,) flags of the keys whose folders allow the match; every pair of folders is checked once."""
    known = {folder for folders in pc.unique(_folders(keys_N)).to_pylist() for folder in folders.split("/")}
    pairs = pc.binary_join_element_wise(_folders(theirs_n), _folders(ours_n), "\0").dictionary_encode()
    may_be = np.array([_allow(pair, known) for pair in pairs.dictionary.to_pylist()], np.bool_)
    return np.asarray(may_be[pairs.indices.to_numpy()])


def _allow(pair: str, known: set[str]) -> bool:
    """Return whether their folders and ours are of one split, and none of theirs contains only other samples of ours.

    Only the last of their folders count, as many as ours has: those above belong to the path of the data.
    """
    theirs, _, ours = pair.rpartition("\0")
    last = theirs.removesuffix("/").split("/")[-max(1, ours.count("/")) :]
    splits = {family_of_path("/".join(last)), family_of_path(ours)} - {None}
    return len(splits) < 2 and not (set(last) & known) - set(ours.split("/"))
