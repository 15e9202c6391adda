"""Read others' top-k labels: the classes of the K largest outputs of each row, and their values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from prune_toolkit.imports.foreign_files import Matrix, check_columns, read_npy, reading

IDS, VALUES, TOTAL = "ids", "values", "lse"
"""Names of the arrays of a .npz file, if none are given."""


class TopKNames(NamedTuple):
    """The names of arrays or columns; of .npy files, their paths."""

    ids: str | None = None
    values: str | None = None
    total: str | None = None
    """That of the log-sum-exp over all classes."""


class TopKRows(NamedTuple):
    """Rows of K classes and their values, and perhaps the log-sum-exp of all C logits."""

    class_nK: NDArray[np.int64]
    value_nK: NDArray[np.float64]
    total_n: NDArray[np.float64] | None


def open_top_k(path: Path, names: TopKNames, key: str) -> Matrix:
    """Open classes (N, K), values (N, K) and perhaps log-sum-exps (N,) as one matrix (N, 2K) or (N, 2K + 1).

    From a .npz file, .npy files, or columns of lists of a .parquet file. Raises UsageError for what is missing,
    InputError for arrays that are not of these shapes.
    """
    suffix, keys = path.suffix.lower(), None
    with reading(path):
        if suffix == ".npz":
            arrays = _npz(path, names)
        elif suffix == ".npy":
            arrays = _npy(path, names)
        elif suffix == ".parquet":
            keys, arrays = _parquet(path, names, key)
        else:
            raise UsageError(f"{path}: top-k labels can be read from .npz, .npy and .parquet files")
    ids, values, total = arrays
    shapes = f"ids are {ids.dtype} of shape {ids.shape}, values {values.dtype} of shape {values.shape}"
    if ids.ndim != 2 or ids.shape != values.shape or ids.dtype.kind not in "iu" or values.dtype.kind != "f":
        raise InputError(f"{path}: {shapes}: expected whole numbers and floats, both of shape (N, K)")
    if total is not None and (total.shape != ids.shape[:1] or total.dtype.kind != "f"):
        raise InputError(f"{path}: the log-sum-exps are {total.dtype} of shape {total.shape}, expected floats (N,)")
    columns = [ids, values] if total is None else [ids, values, total[:, None]]

    def read(start: int, stop: int) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(part[start:stop], np.float64) for part in columns], axis=1)

    return Matrix(len(ids), sum(part.shape[1] for part in columns), read=read, keys=keys)


def parted(row_nM: NDArray[Any]) -> TopKRows:
    """Return the parts of rows that `open_top_k` has joined."""
    k = row_nM.shape[1] // 2
    total_n = np.asarray(row_nM[:, -1], np.float64) if row_nM.shape[1] % 2 else None
    return TopKRows(row_nM[:, :k].astype(np.int64), np.asarray(row_nM[:, k : 2 * k], np.float64), total_n)


Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]


def _npz(path: Path, names: TopKNames) -> Arrays:
    with np.load(path, allow_pickle=False) as content:
        return _named(path, names, list(content.files), lambda name: content[name])


def _named(path: Path, names: TopKNames, known: list[str], read: Callable[[str], NDArray[Any]]) -> Arrays:
    ids, values = names.ids or IDS, names.values or VALUES
    total = names.total or (TOTAL if TOTAL in known else None)
    for flag, name in (("--ids", ids), ("--tensor", values), ("--lse", total)):
        if name is not None and name not in known:
            raise UsageError(f"{path} has no {name!r}", hint=f"name it with {flag}; there are: {', '.join(known[:20])}")
    return read(ids), read(values), None if total is None else read(total)


def _npy(path: Path, names: TopKNames) -> Arrays:
    def read(name: str | None) -> NDArray[Any] | None:
        return None if name is None else read_npy(Path(name))

    ids = read(names.ids)
    assert ids is not None, "without --ids, a .npy file holds all logits"
    return ids, read_npy(path), read(names.total)


def _parquet(path: Path, names: TopKNames, key: str) -> tuple[pa.ChunkedArray, Arrays]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        known = list(dict.fromkeys(file.schema_arrow.names))
        check_columns(path, [key], file.schema_arrow.names)
        arrays = _named(path, names, known, lambda name: _rows_of(path, name, file.read([name]).column(name)))
        return file.read([key]).column(key).cast(pa.string()), arrays


def _rows_of(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of numbers (N,), or of lists of equal length (N, K)."""
    values = column.combine_chunks()
    if values.null_count:
        raise InputError(f"{path}: {name} has empty rows")
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed(values.type)):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    flat = values.flatten().to_numpy(zero_copy_only=False)
    k = len(flat) // max(len(values), 1)
    if not _is_fixed(values.type) and (np.diff(values.offsets.to_numpy()) != k).any():
        raise InputError(f"{path}: rows of {name} do not all have the same number of values")
    return np.asarray(flat.reshape(len(values), k))


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
