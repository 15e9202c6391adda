"""Join the samples of several manifests: in the order of their keys, each once. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import MismatchError, UsageError
from manifests.format.header import DataSet
from manifests.format.parts import PART_ROWS, part_count, part_path, read_part
from manifests.images.identity import fingerprint
from manifests.manifest import Manifest
from manifests.tables.rows import Ids, Share, TableRows, hash_matrix

HINT = "choose the manifest that takes precedence: --prefer MANIFEST, first or last"
SAMPLES = "samples"
AGAIN = "the manifest is incomplete or damaged: fetch or make it again"


@dataclass(frozen=True, eq=False)
class Samples:
    """What is kept in memory of N samples; their keys and hashes stay on disk."""

    label_N: NDArray[Any]
    readable_N: NDArray[np.bool_]

    @classmethod
    def of(cls, samples: pa.Table) -> "Samples":
        """Take them from a table."""
        readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
        return cls(samples.column("label").to_numpy(), readable_N)

    @property
    def count(self) -> int:
        """Number of samples, including unreadable ones."""
        return len(self.label_N)

    def only(self, row_n: NDArray[Any]) -> "Samples":
        """Return some of them, by index or boolean array."""
        return Samples(self.label_N[row_n], self.readable_N[row_n])


def join_samples(manifests: Sequence[Manifest], preferred: int) -> tuple[Samples, tuple[Share, ...]]:
    """Join samples; if manifests differ on one, the row of the first counts if that is a preferred manifest.

    The first `preferred` manifests are preferred. Returns the samples, and which of them each manifest has, in order,
    without those for which another manifest's row was preferred. Raises MismatchError for any other sample that two
    manifests describe differently (label, content, view or readability) and for a row number that stands for different
    images; InputError for a manifest whose samples are not in the order of their keys.
    """
    whole = pa.concat_tables([manifest.samples(["key", "label", "problem"], check_all=True) for manifest in manifests])
    samples = Samples.of(whole)
    # In one piece, for which 32-bit offsets may be too small.
    keys_M = whole.column("key").cast(pa.large_string())
    del whole
    keys_M = keys_M.combine_chunks()
    # Stable, and by the bytes of UTF-8: of equal keys, that of the first manifest comes first.
    order_M = pc.sort_indices(keys_M).to_numpy().view(np.int64)
    is_first_M = _begins(keys_M, order_M)
    new_M = np.empty(len(order_M), np.int64)
    new_M[order_M] = np.cumsum(is_first_M) - 1
    first_N = order_M[is_first_M]
    dropped_M = np.zeros(len(order_M), np.bool_)
    if not is_first_M.all():
        again_m = np.sort(order_M[~is_first_M])
        dropped_M[_not_taken(manifests, keys_M, first_N[new_M], again_m, preferred)] = True
    shares, start = [], 0
    for manifest in manifests:
        rows = slice(start, start := start + manifest.header.data.count)
        old_n = np.flatnonzero(~dropped_M[rows])
        shares.append(Share(manifest=manifest, old_n=old_n, new_n=new_M[rows][old_n]))
    return samples.only(first_N), tuple(shares)


def _begins(keys_M: pa.Array, order_M: Ids) -> NDArray[np.bool_]:
    """Return, for rows in the order of their keys, whether the key of each is another than that of the row before."""
    begins_M = np.ones(len(order_M), np.bool_)
    for start in range(1, len(order_M), PART_ROWS):
        keys_n = keys_M.take(pa.array(order_M[start - 1 : start + PART_ROWS]))
        begins_M[start : start + PART_ROWS] = pc.not_equal(keys_n[1:], keys_n[:-1]).to_numpy(zero_copy_only=False)
    return begins_M


def _not_taken(manifests: Sequence[Manifest], keys_M: pa.Array, first_M: Ids, again_m: Ids, preferred: int) -> Ids:
    """Return the rows that repeat a key and differ from its first row, which is that of a preferred manifest.

    Raises the errors of `join_samples` for manifests that describe one sample differently.
    """
    owner_M = np.repeat(np.arange(len(manifests)), [manifest.header.data.count for manifest in manifests])
    differs_M = _unlike(manifests, first_M, again_m)
    if manifests[0].header.data.source != "folder":
        _check_rows(manifests, keys_M, owner_M, first_M, differs_M)
    undecided_M = {name: rows[owner_M[first_M[rows]] >= preferred] for name, rows in differs_M.items()}
    _check_agreement(manifests, keys_M, owner_M, first_M, undecided_M)
    return np.concatenate(list(differs_M.values()))


def key_of(shares: Sequence[Share], sample_id: int) -> str:
    """Return the key of a sample that one of the shares has, for a message."""
    share = next(share for share in shares if sample_id in share.new_n)
    rows = TableRows(share.manifest, SAMPLES, ["key"]).take(share.at(sample_id, sample_id + 1))
    return str(rows.column("key")[0].as_py())


def check_scored(samples: Samples, shares: Sequence[Share]) -> None:
    """Raise UsageError if some manifests have a teacher, and a readable sample is in none of these."""
    scored = [share for share in shares if share.manifest.header.teacher is not None]
    lacking_N = samples.readable_N & ~flags_of(scored, samples.count)
    if not scored or not lacking_N.any():
        return
    without = [share.manifest for share in shares if share not in scored]
    wheres = " and ".join(f"{manifest.where} (of kind {manifest.kind})" for manifest in without)
    raise UsageError(
        f"the teacher has not scored {lacking_N.sum():,} samples that are only in {wheres}; the first: "
        f"{key_of(shares, int(np.argmax(lacking_N)))}",
        hint="score them with prune score, and merge the scored manifest",
    )


def flags_of(shares: Iterable[Share], count: int) -> NDArray[np.bool_]:
    """(N,) flags of the samples that are in one of the shares, of `count` in all."""
    has_N = np.zeros(count, np.bool_)
    for share in shares:
        has_N[share.new_n] = True
    return has_N


def data_fingerprint(folder: Path, count: int, data: DataSet) -> str:
    """Compute the fingerprint of `count` samples in a folder as `prune index` does, one part at a time in memory."""
    names = np.array(data.fingerprint_names, object)

    def column(name: str) -> Any:
        for part in range(part_count(count)):
            yield from read_part(folder / part_path(SAMPLES, part), columns=[name]).column(name).to_pylist()

    return fingerprint(column("key"), (names[label] for label in column("label")), column("content_hash"))


def _unlike(manifests: Sequence[Manifest], first_M: Ids, again_m: Ids) -> dict[str, Ids]:
    """Return the rows that repeat a key and differ from its first row, by the field that differs."""
    names = ["label", "view_id", "content_hash", "problem"]
    whole = pa.concat_tables([manifest.samples(names) for manifest in manifests])
    fields: dict[str, NDArray[Any]] = {
        "label": whole.column("label").to_numpy()[:, None],
        "view_id": whole.column("view_id").to_numpy()[:, None],
        "content": hash_matrix(whole.column("content_hash")),
        "problem": whole.column("problem").is_valid().to_numpy(zero_copy_only=False)[:, None],
    }
    return {
        name: again_m[(value_Mk[again_m] != value_Mk[first_M[again_m]]).any(axis=1)]
        for name, value_Mk in fields.items()
    }


def _check_rows(
    manifests: Sequence[Manifest], keys_M: pa.Array, owner_M: Ids, first_M: Ids, differs_M: dict[str, Ids]
) -> None:
    """Raise MismatchError if a row number stands for two images: both are wanted, and only one could be kept."""
    rows = np.setdiff1d(differs_M["content"], differs_M["problem"])
    if not len(rows):
        return
    row = int(rows[0])
    one, other = manifests[owner_M[first_M[row]]], manifests[owner_M[row]]
    raise MismatchError(
        f"{one.where} and {other.where} have different data: their keys are row numbers, and {len(rows):,} of these "
        f"stand for different images; the first: {keys_M[row].as_py()}",
        hint="index the folder of all files as one data set, then `prune split` it or score it with several processes "
        "(--rank, --world-size)",
    )


def _check_agreement(
    manifests: Sequence[Manifest], keys_M: pa.Array, owner_M: Ids, first_M: Ids, undecided: dict[str, Ids]
) -> None:
    rows = np.unique(np.concatenate(list(undecided.values())))
    if not len(rows):
        return
    names = [name for name, of_name in undecided.items() if len(of_name)]
    keys = keys_M.take(pa.array(rows))
    row = int(rows[pc.sort_indices(keys)[0].as_py()])
    one, other = manifests[owner_M[first_M[row]]], manifests[owner_M[row]]
    raise MismatchError(
        f"{one.where} and {other.where} disagree on the {' and '.join(names)} of {len(set(first_M[rows])):,} samples; "
        f"the first: {keys_M[row].as_py()}",
        hint=HINT,
    )
