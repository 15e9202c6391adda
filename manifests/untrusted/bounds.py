"""Parquet parts within bounds: the memory a part needs is known before any of it is decompressed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.base.layout import MAX_PART_BYTES, PART_ROWS
from manifests.untrusted.pages import Footer, pages, read_footer

MAX_COLUMNS, MAX_ROW_GROUPS, MAX_PAGES = 4096, 64, 1 << 16
MAX_HEADERS_BYTES = 4 << 20
"""Limit of all page headers together: Python reads them byte by byte."""
BATCH_VALUES = 16 << 20
"""Values of vectors read at once: meanwhile pyarrow takes up to twelve bytes for each."""


def read_bounded(data: bytes, columns: list[str] | None) -> pa.Table:
    """Return the columns of a Parquet file. Raises ValueError for more than MAX_PART_BYTES, or types no part has."""
    if len(data) > MAX_PART_BYTES:
        raise ValueError(f"it has more than {MAX_PART_BYTES >> 20:,} MiB")
    footer = read_footer(data)
    _check_footer(footer)
    schema = pq.ParquetFile(pa.BufferReader(data)).schema_arrow
    _check_types(schema)
    _check_pages(footer, schema, data)
    # Text is read as a dictionary: one megabyte could stand in every row, so that a small file becomes gigabytes.
    texts = [field.name for field in schema if _is_text(field.type)]
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, read_dictionary=texts)
    # In this thread: an Arrow thread that still holds `data` when Python exits aborts the process (exit code 134).
    step = max(1, BATCH_VALUES // max(1, sum(_row_values(field.type) for field in schema)))
    if footer.rows <= step:
        return _plain_texts(file.read(columns, use_threads=False))
    batches = list(file.iter_batches(step, columns=columns, use_threads=False))
    return _plain_texts(pa.Table.from_batches(batches))


def _check_footer(footer: Footer) -> None:
    if not 0 <= footer.rows <= PART_ROWS:
        raise ValueError(f"it has {footer.rows:,} rows, a part has at most {PART_ROWS:,}")
    if footer.row_group_count > MAX_ROW_GROUPS or footer.column_count > MAX_COLUMNS:
        raise ValueError(f"it has {footer.row_group_count:,} row groups of {footer.column_count:,} columns")
    if footer.group_rows != footer.rows:
        raise ValueError(f"its row groups have {footer.group_rows:,} rows, the file {footer.rows:,}")
    if any(chunk.column >= footer.column_count for chunk in footer.chunks):
        raise ValueError("a row group has more columns than the schema")
    if footer.uncompressed_bytes > MAX_PART_BYTES:
        raise ValueError(f"it is more than {MAX_PART_BYTES >> 20:,} MiB uncompressed")


def _check_types(schema: pa.Schema) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("two of its columns have the same name")
    for field in schema:
        kind = field.type
        is_plain = pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind)
        is_vector = pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type)
        if not (is_plain or is_vector or _is_text(kind)):
            raise ValueError(f"column {field.name!r} is of type {kind}, which no part has")


def _check_pages(footer: Footer, schema: pa.Schema, data: bytes) -> None:
    """Check the pages. Each field is one column of the file: of the accepted types, only vectors have children."""
    if footer.column_count != len(schema):
        raise ValueError(f"it has {footer.column_count:,} columns for {len(schema):,} fields")
    width_bytes = [_value_bytes(field.type) for field in schema]
    # A null vector is one value in its page, but takes all its values in memory.
    if footer.rows * sum(_value_bytes(field.type) * _row_values(field.type) for field in schema) > MAX_PART_BYTES:
        raise ValueError(f"its rows are more than {MAX_PART_BYTES >> 20:,} MiB")
    taken, count, headers_bytes = 0, 0, 0
    for chunk in footer.chunks:
        for page in pages(data, chunk):
            taken += max(page.uncompressed_bytes, page.values * width_bytes[chunk.column])
            count, headers_bytes = count + 1, headers_bytes + page.header_bytes
            if taken > MAX_PART_BYTES:
                raise ValueError(f"its pages hold more than {MAX_PART_BYTES >> 20:,} MiB")
            if count > MAX_PAGES or headers_bytes > MAX_HEADERS_BYTES:
                raise ValueError(f"it has more than {MAX_PAGES:,} pages, or its page headers are too long")


def _value_bytes(kind: pa.DataType) -> int:
    """Return the bytes of one value in memory; for a vector, of one of its values."""
    if pa.types.is_fixed_size_list(kind):
        return _value_bytes(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        # Its bit_width overflows.
        return int(kind.byte_width)
    return 8 if _is_text(kind) else max(1, int(kind.bit_width) // 8)


def _row_values(kind: pa.DataType) -> int:
    return max(0, int(kind.list_size)) if pa.types.is_fixed_size_list(kind) else 1


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _plain_texts(table: pa.Table) -> pa.Table:
    texts = {position: column for position, column in enumerate(table.columns) if pa.types.is_dictionary(column.type)}
    if sum(_text_bytes(chunk) for column in texts.values() for chunk in column.chunks) > MAX_PART_BYTES:
        raise ValueError(f"its texts are more than {MAX_PART_BYTES >> 20:,} MiB")
    for position, column in texts.items():
        field = table.schema.field(position)
        table = table.set_column(position, field.with_type(column.type.value_type), column.cast(column.type.value_type))
    return table


def _text_bytes(chunk: pa.DictionaryArray) -> int:
    """Return the bytes that the texts of a dictionary array take once each row has its own copy."""
    length = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    index = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
    return int((np.bincount(index, minlength=len(length)) * length).sum())
