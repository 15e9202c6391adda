"""Structs of Thrift's compact protocol, as in footers and pages of Parquet files, read with every bound checked.

pyarrow aborts the process if Python asks it for the column chunks of a damaged footer (an uncaught C++ exception, in
20 to 26 at least), and it cannot describe a page without decompressing it.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Union

BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 4, 5, 6, 7, 8, 9, 10, 12
_TRUE, _FALSE = 1, 2
_DEEPEST = 16

Value = Union[int, bytes, "list[Value]", "Struct"]
Struct = dict[tuple[int, int], Value]
"""Values by (field, kind): pyarrow skips a field of another kind than it expects, so this reader must too."""


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
