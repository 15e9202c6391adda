"""The column chunks and pages that a Parquet file declares, read without decompressing anything.

A few bytes can stand for gigabytes: a page declares its decompressed size and its number of values, and pyarrow
allocates that much memory. https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from manifests.untrusted.thrift import I32, I64, LIST, STRUCT, Reader, Struct

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 2 << 20
MAX_PAGE_HEADER_BYTES = 1 << 16
"""A page header holds the smallest and largest value, texts of up to 4,096 bytes each."""


class Page(NamedTuple):
    """One page as its header describes it."""

    uncompressed_bytes: int
    values: int
    """Values of a data page, nulls included; entries of a dictionary."""
    header_bytes: int


class Chunk(NamedTuple):
    """One column of one row group."""

    column: int
    start: int
    size_bytes: int
    values: int


class Footer(NamedTuple):
    """Facts from the footer of a Parquet file."""

    rows: int
    group_rows: int
    """Rows of all row groups together: so many are read."""
    uncompressed_bytes: int
    column_count: int
    row_group_count: int
    chunks: list[Chunk]


def read_footer(data: bytes) -> Footer:
    """Return the footer of a whole Parquet file. Raises ValueError if it is missing or incomplete."""
    if len(data) < 12 or data[-4:] != MAGIC or data[:4] != MAGIC:
        raise ValueError("it does not begin and end as Parquet files do")
    size_bytes = int.from_bytes(data[-8:-4], "little")
    if size_bytes > MAX_FOOTER_BYTES:
        raise ValueError(f"its description has {size_bytes:,} bytes, more than allowed")
    footer = Reader(data, len(data) - 8 - size_bytes, len(data) - 8).struct()
    # A node of the schema without children (field 5) is a column.
    leaves = sum(not node.get((5, I32)) for node in _structs(footer, 2))
    groups = _structs(footer, 4)
    chunks = [_chunk(column, chunk) for group in groups for column, chunk in enumerate(_structs(group, 1))]
    uncompressed = sum(max(0, _number(group, 2, I64)) for group in groups)
    group_rows = sum(max(0, _number(group, 3, I64)) for group in groups)
    return Footer(_number(footer, 3, I64), group_rows, uncompressed, leaves, len(groups), chunks)


def pages(data: bytes, chunk: Chunk) -> Iterator[Page]:
    """Yield the pages of one column chunk. Raises ValueError if they are not inside it."""
    if chunk.values <= 0:
        # No page of it is read, and pyarrow writes its offset as 0.
        return
    end = chunk.start + chunk.size_bytes
    position = Reader(data, chunk.start, end).position
    while position < end:
        reader = Reader(data, position, min(end, position + MAX_PAGE_HEADER_BYTES))
        header = reader.struct()
        header_bytes, compressed = reader.position - position, _number(header, 3, I32)
        if compressed < 0 or compressed > end - reader.position:
            raise ValueError("a page is larger than its column")
        position = reader.position + compressed
        # Data page, dictionary page, data page of version 2: field 1 of each counts values.
        counts = [_number(kind, 1, I32) for field in (5, 7, 8) if isinstance(kind := header.get((field, STRUCT)), dict)]
        yield Page(max(0, _number(header, 2, I32)), max([0, *counts]), header_bytes)


def _chunk(column: int, chunk: Struct) -> Chunk:
    facts = chunk.get((3, STRUCT))
    if not isinstance(facts, dict):
        raise ValueError("a column is not described")
    start, dictionary = _number(facts, 9, I64), facts.get((11, I64))
    # This is where pyarrow begins to read.
    if isinstance(dictionary, int) and 0 < dictionary < start:
        start = dictionary
    return Chunk(column, start, _number(facts, 7, I64), _number(facts, 5, I64))


def _number(fields: Struct, field: int, kind: int) -> int:
    value = fields.get((field, kind))
    if not isinstance(value, int):
        raise ValueError("its description lacks a number")
    return value


def _structs(fields: Struct, field: int) -> list[Any]:
    found = fields.get((field, LIST))
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError("its description lacks a list")
    return found
