"""Parquet parts: 8,192 rows of the canonical order a file, each valid on its own or not there.

A part carries two digests in its Parquet metadata: of the configuration that made it and of its content.
A rerun keeps the parts whose digests hold, so resume needs no state beside the files themselves.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.files import write_atomic

PART_ROWS = 8192
CONFIG_KEY, CONTENT_KEY = b"prune.config", b"prune.content"
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError)
_AGAIN = "the manifest is incomplete or damaged: fetch or make it again"

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("content_hash", pa.binary(16), nullable=False),
        pa.field("view_id", pa.uint64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("problem", pa.string()),
    ]
)
SELECTION_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("kd_weight", pa.float32(), nullable=False),
    ]
)


def part_count(rows: int) -> int:
    """Number of parts that hold `rows` rows."""
    return -(-rows // PART_ROWS)


def part_rows(part: int, rows: int) -> range:
    """The sample_ids of one part."""
    return range(part * PART_ROWS, min((part + 1) * PART_ROWS, rows))


def part_path(table: str, part: int) -> str:
    """Path of a part inside the manifest, such as `logits/view-000/part-00000.parquet`."""
    return f"{table}/part-{part:05d}.parquet"


def config_digest(config: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of a JSON-able configuration; equal digests promise equal parts."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()


def vectors_table(sample_id_n: NDArray[np.int64], name: str, values_nC: NDArray[np.float16]) -> pa.Table:
    """A table of sample_id and one FixedSizeList(float16) column; values (n, C)."""
    # "element" is what Parquet calls it: another name would not come back.
    kind = pa.list_(pa.field("element", pa.float16(), nullable=False), values_nC.shape[1])
    flat = pa.array(np.ascontiguousarray(values_nC, np.float16).reshape(-1))
    schema = pa.schema([pa.field("sample_id", pa.int64(), nullable=False), pa.field(name, kind, nullable=False)])
    columns = [pa.array(sample_id_n, pa.int64()), pa.FixedSizeListArray.from_arrays(flat, type=kind)]
    return pa.Table.from_arrays(columns, schema=schema)


def vectors_of(table: pa.Table, name: str) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """sample_id (n,) and the vectors (n, C) float16 of a part; InputError when it has no such columns."""
    types: dict[str, Any] = dict(zip(table.column_names, table.schema.types, strict=True))
    kind = types.get(name, pa.null())
    if types.get("sample_id") != pa.int64() or not pa.types.is_fixed_size_list(kind) or kind.list_size < 1:
        raise InputError(f"a part holds no sample_id and {name} of one vector a row", hint=_AGAIN)
    flat = table.column(name).combine_chunks().flatten()
    sample_id = table.column("sample_id")
    if flat.type != pa.float16() or flat.null_count or sample_id.null_count or len(flat) != len(table) * kind.list_size:
        raise InputError(f"a part's {name} is not one whole float16 vector a row", hint=_AGAIN)
    return sample_id.to_numpy(), flat.to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)


def write_part(path: Path, table: pa.Table, digest: str) -> None:
    """Write one part in a single step, with the digest of the configuration that made it."""
    metadata = {CONFIG_KEY: digest.encode(), CONTENT_KEY: _content_digest(table).encode()}
    table = table.replace_schema_metadata(metadata)
    has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    # Logits are noise to a compressor (10 % at best) and cost reading time; everything else shrinks well.
    pq.write_table(
        table,
        sink,
        compression="none" if has_vectors else "zstd",
        use_dictionary=not has_vectors,
        write_statistics=not has_vectors,
        write_page_checksum=True,
    )
    write_atomic(path, sink.getvalue())


def part_is_valid(path: Path, digest: str) -> bool:
    """Whether a part is there, was made by this configuration and holds what was written."""
    if not path.is_file():
        return False
    try:
        table = _parse(path.read_bytes(), None)
        content = _content_digest(table)
    except UNREADABLE:
        return False
    metadata = table.schema.metadata or {}
    return metadata.get(CONFIG_KEY) == digest.encode() and metadata.get(CONTENT_KEY) == content.encode()


def read_part(path: Path, sha256: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """Read one part; InputError when it is missing, unreadable or, with `sha256`, altered."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint=_AGAIN) from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(
            f"{path} was altered: its sha256 is not the one the header names",
            hint="fetch or make the manifest again; `prune verify` lists every altered file",
        )
    try:
        table = _parse(data, columns)
        names = table.column_names
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a readable Parquet file: {reason}", hint=_AGAIN) from None
    if missing := [name for name in columns or () if name not in names]:
        raise InputError(f"{path} has no column {missing[0]!r}")
    return table


def _parse(data: bytes, columns: list[str] | None) -> pa.Table:
    # In this thread: one of Arrow's that still holds `data` when Python ends aborts the process (exit code 134).
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(columns, use_threads=False)


def _content_digest(table: pa.Table) -> str:
    """Of names, types and values alone: what lies under nulls, in padding or between chunks plays no part."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}\0{_kind(column.type)}\0{len(column)}\0{column.null_count}\0".encode())
        if column.null_count:
            digest.update(column.is_valid().combine_chunks().to_numpy(zero_copy_only=False).tobytes())
        _add_values(digest, column.combine_chunks().drop_null())
    return digest.hexdigest()


def _kind(type_: Any) -> str:
    """The type without the name of a list's items, which Parquet does not keep."""
    is_list = pa.types.is_fixed_size_list(type_)
    return f"{_kind(type_.value_type)}[{type_.list_size}]" if is_list else str(type_)


def _add_values(digest: "hashlib._Hash", values: Any) -> None:
    if pa.types.is_fixed_size_list(values.type) and not values.flatten().null_count:
        _add_values(digest, values.flatten())
    elif pa.types.is_primitive(values.type):
        digest.update(values.to_numpy(zero_copy_only=False).tobytes())
    else:
        texts = [repr(value).encode() for value in _as_bytes(values).to_pylist()]
        digest.update(b"".join(texts))


def _as_bytes(values: Any) -> Any:
    """Text as its bytes, so that text that is not UTF-8 has a digest too."""
    return values.cast(pa.binary()) if pa.types.is_string(values.type) else values
