"""Match the images of a copy with the samples of a manifest: by path, by name within the class, by content hash.

Everything is done on whole columns: a million keys take seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.sources.image_files import EXTENSIONS
from manifests.sources.splits import family_of_path
from manifests.tables.rows import Ids, hash_column, places, unique_in_both

STAGES = ("path", "name", "content")
_EXTENSION = rf"(?i)\.({'|'.join(sorted(EXTENSIONS))})$"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The samples of a manifest, or the images of a copy."""

    keys: pa.Array
    """(N,) string, unique, sorted by their UTF-8 bytes."""
    label_N: Ids
    """Labels of the manifest; -1 for a class it does not have."""


@dataclass(frozen=True, kw_only=True)
class DataMatch:
    """Result of `match_samples`."""

    row_N: Ids
    """Row of the copy that holds each sample; -1 if none does."""
    stage_N: NDArray[np.int8]
    """Index into STAGES of what matched each sample; -1 if nothing did."""
    ambiguous_N: NDArray[np.bool_]
    """Unmatched samples whose file name is there, but is not unique within the class."""

    def counts(self, asked_N: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many of some samples each stage matched."""
        return {stage: int(((self.stage_N == number) & asked_N).sum()) for number, stage in enumerate(STAGES)}


HashRows = Callable[[Ids], NDArray[np.uint8]]
"""(n, 16) content hashes of some rows of the copy; zeros where an image cannot be read."""


def parse_stages(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that `--match` names, in fixed order; all for (). Raises UsageError for another name."""
    named = [name.strip() for text in texts for name in text.split(",")]
    for name in named:
        if name not in STAGES:
            raise UsageError(f"--match {name!r} is not a way to match", hint=f"known: {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if not named or stage in named)


HideKeys = Callable[[pa.Array], pa.Array]
"""A function from keys to those of a hidden manifest."""
_Cut = tuple[str, pa.Array]
"""Folders that all keys share, and the keys without them."""


def match_samples(
    ours: Listing,
    hash_N16: NDArray[np.uint8],
    theirs: Listing,
    hash_rows: HashRows,
    stages: Sequence[str] = STAGES,
    *,
    are_rows: bool = False,
    hide: HideKeys | None = None,
    split: str | None = None,
) -> DataMatch:
    """Find one image of the copy for each sample, if there is one; each image is taken once.

    By path: equal keys, or equal without some of the leading folders that all keys of a side share (`train/`, but not
    if it is another split). By name: the file name within the class, if it is unique among what is left on both sides.
    Both then try what is left again without the extensions of image files, if that is unique. By content: equal hashes
    of what is left, those of the same class first; `hash_N16` of zeros match nothing. Only the rows that are left are
    hashed, and only if samples are left.

    are_rows: keys are row numbers on both sides, which are positions and not names: contents come first, and only
    samples that they do not find are assumed to be at the same position.

    hide: for a manifest with hidden keys, which show no folders: those of the copy are tried, also below `split/`, and
    names are not compared.
    """
    count = len(ours.keys)
    row_N, stage_N = np.full(count, -1, np.int64), np.full(count, -1, np.int8)
    free_M = np.ones(len(theirs.keys), np.bool_)
    ambiguous_N = np.zeros(count, np.bool_)

    def take(samples_n: Ids, rows_n: Ids, stage: str) -> None:
        row_N[samples_n], stage_N[samples_n] = rows_n, STAGES.index(stage)
        free_M[rows_n] = False

    def by_path() -> None:
        mine, others = list(_shortened(ours.keys)), list(_shortened(theirs.keys))
        # Hidden keys show no folders to cut, so the possible keys of the others are tried once.
        samples_n, rows_n = _found(_by_path(mine, others if hide is None else _guessed(others, split, hide)))
        open_n = (row_N[samples_n] < 0) & free_M[rows_n]
        take(samples_n[open_n], rows_n[open_n], "path")
        left_n, left_m = np.flatnonzero(row_N < 0), np.flatnonzero(free_M)
        if hide is None and not are_rows and len(left_n) and len(left_m):
            samples_n, rows_n = _found(_by_path(_stems(mine, left_n), _stems(others, left_m)))
            take(left_n[samples_n], left_m[rows_n], "path")

    def by_name() -> None:
        if hide is not None:
            return
        for name_of in (_name, _stem):
            left_n, left_m = np.flatnonzero(row_N < 0), np.flatnonzero(free_M)
            names = _named(ours, left_n, name_of), _named(theirs, left_m, name_of)
            samples_n, rows_n, ambiguous_n = unique_in_both(*names)
            take(left_n[samples_n], left_m[rows_n], "name")
            ambiguous_N[left_n[ambiguous_n]] = True

    def by_content() -> None:
        left_n, left_m = np.flatnonzero((row_N < 0) & hash_N16.any(axis=1)), np.flatnonzero(free_M)
        if len(left_n) and len(left_m):
            hash_m16 = hash_rows(left_m)
            samples_n, rows_n = _by_content(hash_N16[left_n], ours.label_N[left_n], hash_m16, theirs.label_N[left_m])
            take(left_n[samples_n], left_m[rows_n], "content")

    ways = {"path": by_path, "name": by_name, "content": by_content}
    for stage in ("content", "path") if are_rows else STAGES:
        if stage in stages:
            ways[stage]()
    return DataMatch(row_N=row_N, stage_N=stage_N, ambiguous_N=ambiguous_N & (row_N < 0))


def rematch(
    match: DataMatch,
    lost_n: Ids,
    ours: Listing,
    hash_N16: NDArray[np.uint8],
    theirs: Listing,
    row_m: Ids,
    hash_m16: NDArray[np.uint8],
) -> DataMatch:
    """Match lost samples by content among some rows; the others keep their row unless another sample is found there."""
    samples_n, rows_n = _by_content(hash_N16[lost_n], ours.label_N[lost_n], hash_m16, theirs.label_N[row_m])
    found_n, rows_n = lost_n[samples_n], row_m[rows_n]
    row_N, stage_N = match.row_N.copy(), match.stage_N.copy()
    taken_N = np.isin(row_N, rows_n)
    row_N[taken_N], stage_N[taken_N] = -1, -1
    row_N[found_n], stage_N[found_n] = rows_n, STAGES.index("content")
    return DataMatch(row_N=row_N, stage_N=stage_N, ambiguous_N=match.ambiguous_N & (row_N < 0))


def shared_folders(keys: pa.Array) -> str:
    """Return the leading folders that all of some sorted keys share, such as "train/"; "" if there are none."""
    if not len(keys):
        return ""
    first, last = keys[0].as_py(), keys[-1].as_py()
    folders = zip(first.split("/")[:-1], last.split("/")[:-1], strict=False)
    return "".join(f"{one}/" for one, _ in takewhile(lambda pair: pair[0] == pair[1], folders))


def _by_path(ours: Sequence[_Cut], theirs: Iterable[_Cut]) -> Ids:
    """Return (N,) row of each sample, or -1, cutting off each side as many shared folders as matches the most."""
    count = len(ours[0][1])
    best_N, most = np.full(count, -1, np.int64), 0
    for above, mine in ours:
        for others_above, others in theirs:
            if not _may_be_same(above, others_above):
                continue
            row_N = places(mine, others)
            found = int((row_N >= 0).sum())
            if found > most:
                best_N, most = row_N, found
            if most == min(count, len(others)):
                return best_N
    return best_N


def _may_be_same(folders: str, others: str) -> bool:
    """Return whether two folders can hold the same files: not if they are different splits."""
    return len({family_of_path(folders), family_of_path(others)} - {None}) < 2


def _shortened(keys: pa.Array) -> Iterator[_Cut]:
    """Yield the keys, then without one, two, ... of the leading folders that all share, each with what was cut."""
    yield "", keys
    shared = shared_folders(keys)
    for end in (at + 1 for at, letter in enumerate(shared) if letter == "/"):
        yield shared[:end], pc.utf8_slice_codeunits(keys, start=end)


def _guessed(shortened: Sequence[_Cut], split: str | None, hide: HideKeys) -> Iterator[_Cut]:
    """Yield what the keys may be in a hidden manifest: without shared folders, and those below a split folder."""
    for above, short in shortened:
        yield above, hide(short)
        if split is not None and _may_be_same(above, split):
            yield above, hide(pc.binary_join_element_wise(pa.scalar(split), short, "/"))


def _stems(shortened: Sequence[_Cut], left_n: Ids) -> list[_Cut]:
    """Return some keys without extensions if that is unique among them, else null; without the same folders."""
    stems = pc.replace_substring_regex(shortened[0][1].take(pa.array(left_n)), _EXTENSION, "")
    code_n: Ids = stems.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keys = pc.if_else(pa.array(np.bincount(code_n)[code_n] == 1), stems, None)
    return [(above, pc.utf8_slice_codeunits(keys, start=len(above))) for above, _ in shortened]


def _found(row_N: Ids) -> tuple[Ids, Ids]:
    samples_n = np.flatnonzero(row_N >= 0)
    return samples_n, row_N[samples_n]


def _named(side: Listing, rows_n: Ids, name_of: Callable[[pa.Array], pa.Array]) -> pa.Array:
    labels = pa.array(side.label_N[rows_n]).cast(pa.string())
    return pc.binary_join_element_wise(labels, name_of(side.keys.take(pa.array(rows_n))), "/")


def _name(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(keys, pattern="(?s)^.*/", replacement="")


def _stem(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_name(keys), pattern=_EXTENSION, replacement="")


def _by_content(
    hash_n16: NDArray[np.uint8], label_n: Ids, hash_m16: NDArray[np.uint8], label_m: Ids
) -> tuple[Ids, Ids]:
    """Return positions that match: equal copies of one class one to one, then the rest across classes."""
    hashes = hash_column(np.concatenate((hash_n16, hash_m16)))
    code: Ids = hashes.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    code_n, code_m = code[: len(hash_n16)], code[len(hash_n16) :]
    readable_m = np.flatnonzero(hash_m16.any(axis=1))
    labels = 2 + int(max(label_n.max(), label_m.max()))
    row_n = np.full(len(hash_n16), -1, np.int64)
    found_n = _one_to_one(code_n * labels + label_n + 1, (code_m * labels + label_m + 1)[readable_m])
    row_n[found_n >= 0] = readable_m[found_n[found_n >= 0]]
    left_n, left_m = np.flatnonzero(row_n < 0), np.setdiff1d(readable_m, row_n)
    found_n = _one_to_one(code_n[left_n], code_m[left_m])
    row_n[left_n[found_n >= 0]] = left_m[found_n[found_n >= 0]]
    return _found(row_n)


def _one_to_one(code_n: Ids, code_m: Ids) -> Ids:
    """(n,) position in code_m of the k-th copy of the same code, for the k-th copy of each code; -1 beyond the last."""
    order_n, order_m = np.argsort(code_n, kind="stable"), np.argsort(code_m, kind="stable")
    sorted_n, sorted_m = code_n[order_n], code_m[order_m]
    place_n = np.arange(len(code_n)) - np.searchsorted(sorted_n, sorted_n) + np.searchsorted(sorted_m, sorted_n)
    inside_n = place_n < np.searchsorted(sorted_m, sorted_n, side="right")
    found_n = np.full(len(code_n), -1, np.int64)
    found_n[order_n[inside_n]] = order_m[place_n[inside_n]]
    return found_n
