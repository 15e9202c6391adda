"""Read published subsets: rows or keys, or a flag per row, from .npy, .txt, .json and .csv files."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from prune_toolkit.imports.foreign_files import read_npy, reading

Indices: TypeAlias = NDArray[np.int64] | NDArray[np.bool_] | pa.Array


def read_indices(path: Path, column: str | None = None) -> Indices:
    """Read the (n,) rows or keys of a published subset, or its flags of (N,) rows.

    From .npy of numbers, texts or flags; from .json with a list of them; from a .csv or .tsv with a header, the
    `column` that is named or the only one; or .txt with a number or key per line. Raises InputError for anything else,
    UsageError if a column has to be named.
    """
    suffix = path.suffix.lower()
    if column is not None and suffix not in (".csv", ".tsv"):
        raise UsageError(f"--key {column}: {path.name} has no columns")
    with reading(path):
        if suffix == ".npy":
            return _of_array(path, read_npy(path))
        # Not splitlines(): a key may contain other characters that Unicode counts as line breaks.
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".json":
            return _of_json(path, json.loads(text))
        if suffix in (".csv", ".tsv"):
            return _of_lines(_column(path, _rows(text, "\t" if suffix == ".tsv" else ","), column))
        return _of_lines([line.removesuffix("\r") for line in text.split("\n")])


def _of_lines(lines: Sequence[str]) -> Indices:
    filled = [line for line in lines if line.strip()]
    numbers = [line.strip() for line in filled]
    if filled and all(line.isdecimal() and line.isascii() and len(line) < 19 for line in numbers):
        return np.array(numbers, np.int64)
    return pa.array(filled, pa.string())


def _rows(text: str, delimiter: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _column(path: Path, rows: list[list[str]], column: str | None) -> list[str]:
    """Return the cells of a column below its header."""
    if not rows:
        return []
    header = [name.strip() for name in rows[0]]
    if column is None and len(header) > 1:
        raise UsageError(
            f"{path} has {len(header)} columns: name that of the rows or keys", hint=f"--key {' or '.join(header[:10])}"
        )
    if column is not None and column not in header:
        raise UsageError(f"{path} has no column {column!r}", hint=f"it has: {', '.join(header[:20])}")
    if column is None and (header[0].isdecimal() or "/" in header[0] or "." in header[0]):
        raise UsageError(
            f"{path}: its first line, {header[0]}, may be a value or a header",
            hint=f"if it is the header: --key {header[0]}; a file without a header is read as .txt",
        )
    at = 0 if column is None else header.index(column)
    return [row[at] for row in rows[1:] if at < len(row)]


def _of_json(path: Path, content: Any) -> Indices:
    if isinstance(content, list):
        if content and all(isinstance(value, bool) for value in content):
            return np.array(content, np.bool_)
        if content and all(isinstance(value, int) and not isinstance(value, bool) for value in content):
            return np.array(content, np.int64)
        if all(isinstance(value, str) for value in content):
            return pa.array(content, pa.string())
    raise InputError(f"{path}: a subset is a JSON list of row numbers, of flags or of keys")


def _of_array(path: Path, array: NDArray[Any]) -> Indices:
    if array.ndim == 1 and array.dtype.kind == "b":
        return np.asarray(array)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.ndim == 1 and array.dtype.kind in "US":
        return pa.array(array.astype(str).tolist(), pa.string())
    raise InputError(
        f"{path} holds {array.dtype} of shape {array.shape}: a subset is a 1-D array of row numbers, flags or keys"
    )
