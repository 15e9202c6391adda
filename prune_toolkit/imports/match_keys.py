"""Which sample of a manifest a key of somebody else's file means: the key as it is, else a file name that is unique."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.files import write_atomic
from manifests.base.progress import note, one_line
from manifests.copies.matching import unique_in_both
from manifests.errors import MismatchError
from manifests.sources.names import split_in
from manifests.tables.rows import places

SHOWN = 3
_FOLDERS = r"(?s)^.*[/\\]"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Rows of a file, and the sample that each means."""

    row_F: NDArray[np.int64]
    """(F,) sample_id, -1 for a row that matches nothing."""
    by_name: int
    """Rows that were matched by file name."""
    unmatched: pa.Array
    """Keys of the others."""


def match_keys(keys_F: pa.ChunkedArray, keys_N: pa.ChunkedArray, *, are_rows: bool = False) -> Matched:
    """Match keys of a file with those of a manifest, both columns of strings; nulls match nothing.

    What is left is matched by file name where it is unique among what is left on either side, unless its folders say
    that it is another image: of another split, or below a folder that the manifest has elsewhere. are_rows: the
    manifest's keys are row numbers, which are no names.
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
    by_name = int(found.sum())
    return Matched(row_F=row_F, by_name=by_name, unmatched=keys_F.filter(pa.array(row_F < 0)))


def tell_unmatched(matched: Matched, what: str, where: str, listing: Path | None) -> None:
    """Say how many rows of a file match nothing, and which are the first; all of them go into `listing`.

    MismatchError when no row matches.
    """
    count, total = len(matched.unmatched), len(matched.row_F)
    if listing is not None:
        write_atomic(listing, "".join(f"{_one_line(key)}\n" for key in matched.unmatched.to_pylist()).encode())
    if matched.by_name:
        note(f"{matched.by_name:,} of {total:,} rows of {what} were matched by file name")
    if not count:
        return
    first = ", ".join(map(_one_line, matched.unmatched[:SHOWN].to_pylist()))
    told = f"{count:,} of {total:,} rows of {what} match no sample of {where}; the first: {first}"
    if count == total:
        raise MismatchError(told, hint="are its keys those of this data? prune show --json names the data set")
    note(told if listing is None else f"{told}; all of them: {listing}")


def _one_line(key: str | None) -> str:
    return one_line(str(key)).replace("\r", "\\r")


def _names(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(keys, _FOLDERS, "")


def _folders(keys: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """What is before the name, with slashes; "" where nothing is."""
    return pc.replace_substring_regex(pc.replace_substring(keys, "\\", "/"), "[^/]*$", "")


def _may_be_same(theirs_n: pa.Array, ours_n: pa.Array, keys_N: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(n,) whether the folders of a key allow it to be a sample; every pair of folders is looked at once."""
    known = {folder for folders in pc.unique(_folders(keys_N)).to_pylist() for folder in folders.split("/")}
    pairs = pc.binary_join_element_wise(_folders(theirs_n), _folders(ours_n), "\0").dictionary_encode()
    may_be = np.array([_allow(pair, known) for pair in pairs.dictionary.to_pylist()], np.bool_)
    may_be_n: NDArray[np.bool_] = may_be[pairs.indices.to_numpy()]
    return may_be_n


def _allow(pair: str, known: set[str]) -> bool:
    """Whether their folders and ours are of one split, and none of theirs is one that only other samples lie in.

    Of theirs the last count, as many as ours has: those above say where the data lies.
    """
    theirs, _, ours = pair.rpartition("\0")
    last = theirs.removesuffix("/").split("/")[-max(1, ours.count("/")) :]
    splits = {split_in("/".join(last)), split_in(ours)} - {None}
    return len(splits) < 2 and not (set(last) & known) - set(ours.split("/"))
