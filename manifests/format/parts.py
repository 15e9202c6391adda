"""Parquet parts: files of 8,192 rows in canonical order, each valid on its own or absent.

A part carries two digests in its Parquet metadata: of the configuration that made it and of its content.
A rerun keeps the parts whose digests match, so resuming needs no state besides the files themselves.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.base import layout as limits
from manifests.base.files import write_atomic
from manifests.errors import InputError
from manifests.format.codes import CODE_COLUMNS, Codes
from manifests.format.columns import SAMPLES, SELECTION, Column
from manifests.format.last_layer import FEATURE_COLUMNS, FeatureLabels, LastLayer
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import COLUMNS, SoftLabels, TopK
from manifests.untrusted.bounds import read_bounded

PART_ROWS = limits.PART_ROWS
SMALL_NUMBERS = ["class.list.element", "code.list.element", "pixels.list.element"]
CONFIG_KEY, CONTENT_KEY = b"prune.config", b"prune.content"
AGAIN = "the manifest is incomplete or damaged: fetch or make it again"
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError)


def _schema(columns: Iterable[Column]) -> pa.Schema:
    kinds = {"binary": pa.binary(16)}
    return pa.schema([pa.field(each.name, kinds.get(each.type, each.type), each.name == "problem") for each in columns])


SAMPLES_SCHEMA, SELECTION_SCHEMA = _schema(SAMPLES), _schema(SELECTION)


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
    return numbers_table(sample_id_n, {name: np.asarray(values_nC, np.float16)})


def soft_labels_table(sample_id_n: NDArray[np.int64], name: str, labels: SoftLabels) -> pa.Table:
    """A table of sample_id and n logit vectors: all C in the column `name` or as codes, or the K largest."""
    return numbers_table(sample_id_n, labels.columns(name))


def numbers_table(sample_id_n: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return a table of sample_id and named columns: one number per row for (n,), a FixedSizeList for (n, width)."""
    fields, columns = [pa.field("sample_id", pa.int64(), nullable=False)], [pa.array(sample_id_n, pa.int64())]
    for name, array in values.items():
        column = pa.array(np.ascontiguousarray(array).reshape(-1))
        if array.ndim == 2:
            # Parquet stores the name "element": any other would be lost.
            kind = pa.list_(pa.field("element", column.type, nullable=False), array.shape[1])
            column = pa.FixedSizeListArray.from_arrays(column, type=kind)
        fields.append(pa.field(name, column.type, nullable=False))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def numbers_of(table: pa.Table, name: str, item: Any, ndim: int) -> NDArray[Any]:
    """Return a column of numbers (n,), or of vectors (n, width). Raises InputError for anything else."""
    types: dict[str, Any] = dict(zip(table.column_names, table.schema.types, strict=True))
    kind = types.get(name, pa.null())
    is_list = pa.types.is_fixed_size_list(kind) and kind.list_size > 0
    if is_list != (ndim == 2) or (kind.value_type if is_list else kind) != item:
        what = "one vector" if ndim == 2 else "one value"
        raise InputError(f"a part has no column {name} with {what} of {item} per row", hint=AGAIN)
    values = table.column(name).combine_chunks()
    flat = values.flatten() if is_list else values
    if values.null_count or flat.null_count:
        raise InputError(f"a part's {name} has rows without a value", hint=AGAIN)
    array: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return array.reshape(-1, kind.list_size) if is_list else array


def vectors_of(table: pa.Table, name: str) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return sample_id (n,) and the vectors (n, C) float16 of a part. Raises InputError if it lacks these columns."""
    return numbers_of(table, "sample_id", pa.int64(), 1), numbers_of(table, name, pa.float16(), 2)


def soft_labels_of(
    table: pa.Table, name: str, class_count: int, layer: LastLayer | None = None
) -> tuple[NDArray[np.int64], SoftLabels]:
    """Return sample_id (n,) and the logit vectors of a part: all C, as logits, codes or features, or the K largest.

    layer: the last layer, by which features are logits.

    Raises InputError if it holds none of them, or not for `class_count` classes.
    """
    if name not in table.column_names and {"code", "feature"} & set(table.column_names):
        return numbers_of(table, "sample_id", pa.int64(), 1), _encoded_of(table, name, class_count, layer)
    if name in table.column_names or "class" not in table.column_names:
        sample_id_n, dense_nC = vectors_of(table, name)
        if dense_nC.shape[1] != class_count:
            raise InputError(f"a part's {name} have {dense_nC.shape[1]} values for {class_count} classes", hint=AGAIN)
        return sample_id_n, FullLogits(dense_nC)
    try:
        labels = TopK(class_count=class_count, **_arrays(table, COLUMNS))
    except ValueError as error:
        raise InputError(f"a part's {name} are not the largest of {class_count} logits: {error}", hint=AGAIN) from None
    return numbers_of(table, "sample_id", pa.int64(), 1), labels


def _encoded_of(table: pa.Table, name: str, class_count: int, layer: LastLayer | None) -> Codes | FeatureLabels:
    what = "codes" if "code" in table.column_names else "features"
    try:
        if what == "codes":
            return Codes(class_count=class_count, **_arrays(table, CODE_COLUMNS))
        return FeatureLabels(class_count=class_count, layer=layer, **_arrays(table, FEATURE_COLUMNS))
    except ValueError as error:
        raise InputError(f"a part's {name} are not {what} of {class_count} logits: {error}", hint=AGAIN) from None


def layer_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return a part of the table of a last layer from its columns; see `LastLayer.parts`."""
    return numbers_table(np.arange(len(columns["bias"])), columns).drop_columns(["sample_id"])


def layer_of(parts: Iterable[pa.Table], class_count: int, width: int | None, where: str) -> LastLayer:
    """Return the last layer from its parts; raises InputError for one of other classes or another width."""
    try:
        layer = LastLayer.of_parts(
            (numbers_of(part, "weight", pa.float32(), 2), numbers_of(part, "bias", pa.float32(), 1)) for part in parts
        )
        if layer.weight_CD.shape != (class_count, width):
            raise ValueError(f"its weights are {layer.weight_CD.shape}, not {(class_count, width)}")
    except ValueError as error:
        raise InputError(f"{where}: the last layer cannot be used: {error}", hint=AGAIN) from None
    return layer


def _arrays(table: pa.Table, columns: Mapping[str, tuple[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns of a form of labels as the fields of its class: numbers if it ends in _n, else vectors."""
    return {
        field: numbers_of(table, column, pa.from_numpy_dtype(dtype), 1 if field.endswith("_n") else 2)
        for column, (field, dtype) in columns.items()
    }


def write_part(path: Path, table: pa.Table, digest: str) -> None:
    """Write one part in a single step, with the digest of the configuration that made it."""
    metadata = {CONFIG_KEY: digest.encode(), CONTENT_KEY: _content_digest(table).encode()}
    table = table.replace_schema_metadata(metadata)
    has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    # Logits are noise to a compressor (10 % at best) and cost reading time; everything else shrinks well. Parquet keeps
    # a uint8 in four bytes, but a dictionary index in as few bits as it needs.
    pq.write_table(
        table,
        sink,
        compression="none" if has_vectors else "zstd",
        use_dictionary=SMALL_NUMBERS if has_vectors else True,
        write_statistics=not has_vectors,
        write_page_checksum=True,
    )
    write_atomic(path, sink.getvalue())


def part_is_valid(path: Path, digest: str) -> bool:
    """Return whether a part exists, was made by this configuration and holds what was written."""
    if not path.is_file():
        return False
    try:
        return is_whole(read_bounded(path.read_bytes(), None), digest)
    except UNREADABLE:
        return False


def is_whole(table: pa.Table, digest: str) -> bool:
    """Return whether a part, read with all columns, was made by this configuration and holds what was written."""
    metadata = table.schema.metadata or {}
    return metadata.get(CONFIG_KEY) == digest.encode() and metadata.get(CONTENT_KEY) == _content_digest(table).encode()


def part_footer(path: Path) -> pq.FileMetaData:
    """Read the footer of a part, without its content; raises one of UNREADABLE."""
    # Not by its path: pyarrow would take one that looks like a URL for a URL.
    with path.open("rb") as stream:
        return pq.read_metadata(stream)


def rows_written(path: Path) -> int:
    """Return the number of rows of a part, without reading its content. Raises InputError if it cannot be read."""
    try:
        return int(part_footer(path).num_rows)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a part of a table: {type(error).__name__}", hint=AGAIN) from None


def is_written_part(path: Path) -> bool:
    """Return whether a file is a part that `write_part` wrote, for whichever configuration; its rows are not read."""
    try:
        return CONFIG_KEY in (part_footer(path).metadata or {})
    except UNREADABLE:
        return False


def part_content(path: Path) -> str:
    """Return the content digest that a part carries, without reading the content. Raises InputError if it has none."""
    try:
        return str((part_footer(path).metadata or {})[CONTENT_KEY].decode())
    except UNREADABLE as error:
        raise InputError(f"{path} is not a part of a table: {type(error).__name__}", hint=AGAIN) from None


def read_part(path: Path, sha256: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """Read one part. Raises InputError if it is missing, unreadable or, with `sha256`, altered."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint=AGAIN) from None
    return parse_part(data, str(path), sha256, columns)


def parse_part(data: bytes, path: str, sha256: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """Parse the bytes of a part; `path` is for messages. Raises InputError like `read_part`."""
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(
            f"{path} was altered: its sha256 is not the one the header names",
            hint="fetch or make the manifest again; `prune verify` lists every altered file",
        )
    try:
        table = read_bounded(data, columns)
        names = table.column_names
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a readable Parquet file: {reason}", hint=AGAIN) from None
    if missing := [name for name in columns or () if name not in names]:
        raise InputError(f"{path} has no column {missing[0]!r}")
    return table


def _content_digest(table: pa.Table) -> str:
    """Digest names, types and values only: bytes under nulls, in padding or between chunks do not count."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}\0{_kind(column.type)}\0{len(column)}\0{column.null_count}\0".encode())
        if column.null_count:
            digest.update(column.is_valid().combine_chunks().to_numpy(zero_copy_only=False).tobytes())
        _add_values(digest, column.combine_chunks().drop_null())
    return digest.hexdigest()


def _kind(type_: Any) -> str:
    """Return the type without the name of a list's items, which Parquet does not keep."""
    is_list = pa.types.is_fixed_size_list(type_)
    return f"{_kind(type_.value_type)}[{type_.list_size}]" if is_list else str(type_)


def _add_values(digest: "hashlib._Hash", values: Any) -> None:
    if pa.types.is_fixed_size_list(values.type) and not values.flatten().null_count:
        _add_values(digest, values.flatten())
    elif pa.types.is_primitive(values.type):
        digest.update(values.to_numpy(zero_copy_only=False).tobytes())
    else:
        # Text as its bytes, so that text that is not UTF-8 has a digest too.
        texts = values.cast(pa.binary()) if pa.types.is_string(values.type) else values
        digest.update(b"".join(repr(value).encode() for value in texts.to_pylist()))
