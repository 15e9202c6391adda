"""The column chunks and pages that a Parquet file declares, read without decompressing anything.

A few bytes can stand for gigabytes: a page declares its decompressed size and its number of values, and pyarrow
allocates that much memory. https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift

They are structs of Thrift's compact protocol, read with every bound checked: pyarrow aborts the process if Python asks
it for the column chunks of a damaged footer (an uncaught C++ exception, in 20 to 26 at least), and it cannot describe a
page without decompressing it. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Union

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 2 << 20
MAX_PAGE_HEADER_BYTES = 1 << 16
"""A page header holds the smallest and largest value, texts of up to 4,096 bytes each."""

BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 4, 5, 6, 7, 8, 9, 10, 12
_TRUE, _FALSE = 1, 2
_DEEPEST = 16

Value = Union[int, bytes, "list[Value]", "Struct"]
Struct = dict[tuple[int, int], Value]
"""Values by (field, kind): pyarrow skips a field of another kind than it expects, so this reader must too."""


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


class Reader:
    """Reads from `data[position:end]`. Raises ValueError for anything but a struct."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        if not 0 <= position <= end <= len(data):
            raise ValueError("it points outside the file")
        self._data, self.position, self._end = data, position, end

    def struct(self, depth: int = 0) -> Struct:
        """Read one struct with everything in it."""
        if depth > _DEEPEST:
            raise ValueError("its description is nested too deep")
        fields: Struct = {}
        seen, number = set[int](), 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if number in seen:
                raise ValueError("its description has a field twice")
            seen.add(number)
            kind = head & 15
            fields[number, kind] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, SET):
            return self._list(depth)
        if kind in (BYTE, _TRUE, _FALSE):
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        raise ValueError(f"its description holds a value of kind {kind}")

    def _list(self, depth: int) -> list[Value]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if count > self._end - self.position:
            raise ValueError("its description declares a list longer than itself")
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        if self.position >= self._end:
            raise ValueError("its description is cut off")
        self.position += 1
        return self._data[self.position - 1]

    def _take(self, size_bytes: int) -> bytes:
        if size_bytes > self._end - self.position:
            raise ValueError("its description is cut off")
        self.position += size_bytes
        return self._data[self.position - size_bytes : self.position]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its description holds a number that does not end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
