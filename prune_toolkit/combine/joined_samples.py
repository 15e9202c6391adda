"""Join the samples of several manifests: in the order of their keys, each once. Torch-free."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import DataSet
from manifests.format.parts import PART_ROWS
from manifests.images.identity import fingerprint
from manifests.manifest import Manifest
from manifests.tables.rows import Ids, Share, hash_matrix, with_ids

HINT = "choose the manifest that takes precedence: --prefer MANIFEST, first or last"
AGAIN = "the manifest is incomplete or damaged: fetch or make it again"


def join_samples(manifests: Sequence[Manifest], preferred: int) -> tuple[pa.Table, tuple[Share, ...]]:
    """Join samples; if manifests differ on one, the row of the first counts if that is a preferred manifest.

    The first `preferred` manifests are preferred. Returns the samples, and which of them each manifest has, in order,
    without those for which another manifest's row was preferred. Raises MismatchError for any other sample that two
    manifests describe differently (label, content, view or readability) and for a row number that stands for different
    images; InputError for a manifest whose samples are not in the order of their keys.
    """
    tables = [checked_samples(manifest) for manifest in manifests]
    whole = pa.concat_tables(tables)
    owner_M = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    # Stable, and by the bytes of UTF-8: of equal keys, that of the first manifest comes first.
    order_M = pc.sort_indices(whole.column("key")).to_numpy().astype(np.int64)
    keys_M = whole.column("key").take(pa.array(order_M)).combine_chunks()
    differs = pc.not_equal(keys_M[1:], keys_M[:-1]).to_numpy(zero_copy_only=False)
    is_first_M = np.append(True, differs)[: len(order_M)]
    new_M = np.empty(len(order_M), np.int64)
    new_M[order_M] = np.cumsum(is_first_M) - 1
    first_N = order_M[is_first_M]
    differs_M = _unlike(whole, first_N[new_M], np.sort(order_M[~is_first_M]))
    if manifests[0].header.data.source != "folder":
        _check_rows(manifests, whole, owner_M, first_N[new_M], differs_M)
    undecided_M = {name: rows[owner_M[first_N[new_M[rows]]] >= preferred] for name, rows in differs_M.items()}
    _check_agreement(manifests, whole, owner_M, first_N[new_M], undecided_M)
    dropped_M = np.zeros(len(order_M), np.bool_)
    dropped_M[np.concatenate(list(differs_M.values()))] = True
    shares = []
    for number, manifest in enumerate(manifests):
        old_n = np.flatnonzero(~dropped_M[owner_M == number])
        shares.append(Share(manifest=manifest, old_n=old_n, new_n=new_M[owner_M == number][old_n]))
    return with_ids(whole.take(pa.array(first_N)), np.arange(len(first_N))), tuple(shares)


def check_scored(samples: pa.Table, shares: Sequence[Share]) -> None:
    """Raise UsageError if some manifests have a teacher, and a readable sample is in none of these."""
    scored = [share for share in shares if share.manifest.header.teacher is not None]
    lacking_N = readable(samples) & ~flags_of(scored, len(samples))
    if not scored or not lacking_N.any():
        return
    without = [share.manifest for share in shares if share not in scored]
    wheres = " and ".join(f"{manifest.where} (of kind {manifest.kind})" for manifest in without)
    raise UsageError(
        f"the teacher has not scored {lacking_N.sum():,} samples that are only in {wheres}; the first: "
        f"{samples.column('key')[int(np.argmax(lacking_N))].as_py()}",
        hint="score them with prune score, and merge the scored manifest",
    )


def flags_of(shares: Iterable[Share], count: int) -> NDArray[np.bool_]:
    """(N,) flags of the samples that are in one of the shares, of `count` in all."""
    has_N = np.zeros(count, np.bool_)
    for share in shares:
        has_N[share.new_n] = True
    return has_N


def readable(samples: pa.Table) -> NDArray[np.bool_]:
    """(N,) flags of the samples that can be read."""
    readable_N: NDArray[np.bool_] = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    return readable_N


def checked_samples(manifest: Manifest) -> pa.Table:
    """Return the samples of a manifest; InputError unless their keys ascend and their sample_ids count from 0."""
    samples = manifest.samples()
    keys, id_N = samples.column("key"), samples.column("sample_id").to_numpy()
    rises = (
        not len(keys) or pc.all(pc.greater(keys[1:].combine_chunks(), keys[:-1].combine_chunks())).as_py() is not False
    )
    if not rises or not np.array_equal(id_N, np.arange(manifest.header.data.count)):
        raise InputError(f"{manifest.where}: its samples are not in the order of their keys", hint=AGAIN)
    return samples


def data_fingerprint(samples: pa.Table, data: DataSet) -> str:
    """Compute the fingerprint of samples as `prune index` does, with one part at a time as Python objects."""
    names = np.array(data.fingerprint_names, object)

    def column(name: str) -> Any:
        for start in range(0, len(samples), PART_ROWS):
            yield from samples.column(name).slice(start, PART_ROWS).to_pylist()

    return fingerprint(column("key"), (names[label] for label in column("label")), column("content_hash"))


def _unlike(whole: pa.Table, first_M: Ids, again_m: Ids) -> dict[str, Ids]:
    """Return the rows that repeat a key and differ from its first row, by the field that differs."""
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
    manifests: Sequence[Manifest], whole: pa.Table, owner_M: Ids, first_M: Ids, differs_M: dict[str, Ids]
) -> None:
    """Raise MismatchError if a row number stands for two images: both are wanted, and only one could be kept."""
    rows = np.setdiff1d(differs_M["content"], differs_M["problem"])
    if not len(rows):
        return
    row = int(rows[0])
    one, other = manifests[owner_M[first_M[row]]], manifests[owner_M[row]]
    raise MismatchError(
        f"{one.where} and {other.where} have different data: their keys are row numbers, and {len(rows):,} of these "
        f"stand for different images; the first: {whole.column('key')[row].as_py()}",
        hint="index the folder of all files as one data set, then `prune split` it or score it with several processes "
        "(--rank, --world-size)",
    )


def _check_agreement(
    manifests: Sequence[Manifest], whole: pa.Table, owner_M: Ids, first_M: Ids, undecided: dict[str, Ids]
) -> None:
    rows = np.unique(np.concatenate(list(undecided.values())))
    if not len(rows):
        return
    names = [name for name, of_name in undecided.items() if len(of_name)]
    keys = whole.column("key").take(pa.array(rows))
    row = int(rows[pc.sort_indices(keys)[0].as_py()])
    one, other = manifests[owner_M[first_M[row]]], manifests[owner_M[row]]
    raise MismatchError(
        f"{one.where} and {other.where} disagree on the {' and '.join(names)} of {len(set(first_M[rows])):,} samples; "
        f"the first: {whole.column('key')[row].as_py()}",
        hint=HINT,
    )
