"""Read imported files: columns of CSV and Parquet, arrays, and matrices of logits, one block of rows at a time."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError

_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
BLOCK_ROWS = 8192


class Matrix(NamedTuple):
    """A matrix in a file, or one per view of each row."""

    rows: int
    columns: int
    read: Callable[[int, int], NDArray[Any]]
    """Read rows from start to stop: (n, columns) of any float type, or (n, views, columns) of several views; with keys,
    BLOCK_ROWS after BLOCK_ROWS."""
    keys: pa.ChunkedArray | None = None
    """Key of each row, if the file has keys."""
    views: int = 1


def read_columns(path: Path, key: str, scores: list[str]) -> tuple[pa.ChunkedArray, dict[str, pa.ChunkedArray]]:
    """Read columns of a CSV or Parquet file: `key` as strings, the others by their names as float64.

    Raises UsageError for another kind of file and for a missing column; InputError for two columns of one name, a
    damaged file, and values that are not numbers.
    """
    wanted, suffix = list(dict.fromkeys([key, *scores])), path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise UsageError(
            f"{path}: scores with keys can be read from .csv, .tsv and .parquet files",
            hint="without --key, .npy and .npz files hold one number per row",
        )
    with reading(path):
        table = _parquet(path, wanted) if suffix == ".parquet" else _csv(path, key, wanted)
        return table.column(key).cast(pa.string()), {name: table.column(name).cast(pa.float64()) for name in scores}


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Read arrays (N,) of numbers: those of a .npz file by their names, or that of a .npy file as the only name.

    Raises UsageError for a missing array, InputError for arrays that are not numbers of this shape.
    """
    with reading(path):
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as content:
                if missing := [name for name in names if name not in content.files]:
                    raise UsageError(f"{path} has no array {missing[0]!r}", hint=f"it has: {', '.join(content.files)}")
                found = {name: content[name] for name in names}
        else:
            if len(names) != 1:
                raise UsageError(f"{path} holds one array: give --score once, as its name")
            found = {names[0]: read_npy(path)}
    for name, array in found.items():
        if array.ndim != 1 or array.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}: scores are numbers of shape (N,)"
            )
    return {name: array.astype(np.float64) for name, array in found.items()}


def open_matrix(path: Path, tensor: str | None, key: str) -> Matrix:
    """Open logits (N, C), or (N, V, C) of V views, in a .npy, .safetensors or .parquet file.

    Raises UsageError for a missing tensor or column.
    """
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".npy":
            return _of_array(path, read_npy(path))
        if suffix == ".safetensors":
            return _of_safetensors(path, tensor)
        if suffix == ".parquet":
            return _of_parquet(path, tensor, key)
    raise UsageError(f"{path}: logits can be read from .npy, .safetensors and .parquet files")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise InputError for files that a library cannot read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        pa.ArrowException,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        MemoryError,
        RecursionError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}") from None


def _csv(path: Path, key: str, columns: list[str]) -> pa.Table:
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    types = {**dict.fromkeys(columns, pa.float64()), key: pa.string()}
    convert = csv.ConvertOptions(include_columns=columns, column_types=types, null_values=_NULLS)
    with csv.open_csv(path, parse_options=parse) as reader:
        check_columns(path, columns, reader.schema.names)
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _parquet(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        check_columns(path, columns, file.schema_arrow.names)
        return file.read(columns)


def check_columns(path: Path, wanted: Sequence[str], known: list[str]) -> None:
    """Raise UsageError for a missing column, InputError for two columns of one name."""
    for name in wanted:
        if name not in known:
            hint = f"it has: {', '.join(known[:20])}{_split_at(known)}"
            raise UsageError(f"{path} has no column {name!r}", hint=hint)
        if known.count(name) > 1:
            raise InputError(f"{path} has {known.count(name)} columns named {name!r}", hint="rename all but one")


def _split_at(known: list[str]) -> str:
    """Return a hint about the separator if a header of one column looks like several; else ""."""
    signs = {";": "semicolons", "\t": "tabs", ",": "commas"}
    found = [word for sign, word in signs.items() if len(known) == 1 and sign in known[0]]
    return f"\n  its columns seem to be separated by {found[0]}: use commas in .csv, tabs in .tsv" if found else ""


def read_npy(path: Path) -> NDArray[Any]:
    """Memory-map the array of a .npy file; InputError for an archive of several."""
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    found.close()
    raise InputError(f"{path} is an archive of arrays, like .npz files", hint="save one array: numpy.save")


def _of_array(path: Path, array: NDArray[Any]) -> Matrix:
    if array.ndim not in (2, 3) or array.dtype.kind != "f" or not all(array.shape[1:]):
        raise InputError(
            f"{path} holds {array.dtype} of shape {array.shape}: logits are floats of shape (N, C) or (N, V, C)"
        )
    return _of_shape(array.shape, lambda start, stop: np.asarray(array[start:stop]))


def _of_shape(shape: Sequence[int], read: Callable[[int, int], NDArray[Any]]) -> Matrix:
    return Matrix(shape[0], shape[-1], read=read, views=shape[1] if len(shape) == 3 else 1)


def _of_safetensors(path: Path, tensor: str | None) -> Matrix:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
        names = sorted(file.keys())
        if (tensor is None and len(names) != 1) or (tensor is not None and tensor not in names):
            what = f"{path} has {len(names)} tensors" if tensor is None else f"{path} has no tensor {tensor!r}"
            raise UsageError(what, hint=f"name the logits: --tensor {' or '.join(names[:10])}")
        piece = file.get_slice(tensor or names[0])
        shape, kind = piece.get_shape(), piece.get_dtype()
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if len(shape) not in (2, 3) or kind not in ("F16", "F32", "F64") or not all(shape[1:]):
        raise InputError(
            f"{path} holds {kind} of shape {tuple(shape)}: logits are F16, F32 or F64 of shape (N, C) or (N, V, C)",
            hint="save bfloat16 as float32 first",
        )
    return _of_shape(shape, lambda start, stop: np.asarray(piece[start:stop]))


def _of_parquet(path: Path, column: str | None, key: str) -> Matrix:
    """Open a key column and a column of lists; rows are read from first to last, in the order of the file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        lists = [field.name for field in schema if _is_list(field.type)]
        name = column or (lists[0] if len(lists) == 1 else None)
        if name not in lists:
            raise UsageError(
                f"{path}: name the column of lists with the logits", hint=f"--tensor {' or '.join(lists) or 'NAME'}"
            )
        check_columns(path, (key, str(name)), schema.names)
        keys = file.read([key]).column(key).cast(pa.string())
        first = next(file.iter_batches(1, columns=[name]), None)
        width = 0 if first is None or not len(first) else len(first.column(0)[0].as_py() or ())
    blocks = _blocks(path, str(name), width)

    def read(start: int, stop: int) -> NDArray[Any]:
        with reading(path):
            return next(blocks)[: stop - start]

    return Matrix(rows, width, read=read, keys=keys)


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _blocks(path: Path, column: str, width: int) -> Iterator[NDArray[Any]]:
    """Yield a column of lists of equal width, BLOCK_ROWS rows at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        held: list[NDArray[Any]] = []
        for batch in file.iter_batches(BLOCK_ROWS, columns=[column]):
            values = batch.column(0)
            lengths = np.diff(values.offsets.to_numpy()) if hasattr(values, "offsets") else [width]
            if values.null_count or (np.asarray(lengths) != width).any():
                raise InputError(f"{path}: rows of {column} do not all have {width} values")
            held.append(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width))
            while sum(map(len, held)) >= BLOCK_ROWS:
                whole = np.concatenate(held)
                held = [whole[BLOCK_ROWS:]]
                yield whole[:BLOCK_ROWS]
        yield np.concatenate(held)
