"""Betons that are damaged, or lie: in their header, fields, metadata, pointers and images."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from mutating import damaged
from numpy.typing import NDArray

from campaign.forging.tables import flipped, truncated
from manifests.betons import format as fmt

Forge = Callable[[bytes, Random], bytes]
NUMBERS = (
    0,
    1,
    2,
    3,
    239,
    241,
    65_535,
    1 << 21,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e308, 1e-320)


def lying_header(data: bytes, rng: Random) -> bytes:
    """Put a wrong number into the header."""
    content = bytearray(data)
    header = np.frombuffer(content, fmt.HEADER, 1)
    _set(header, rng.choice(list(fmt.HEADER.names or ())), 0, rng)
    return bytes(content)


def lying_field(data: bytes, rng: Random) -> bytes:
    """Give a field another type, name, shape or dtype, or exchange two."""
    content = bytearray(data)
    fields = _fields(content)
    row = rng.randrange(len(fields))
    match rng.randrange(5):
        case 0:
            fields["type_id"][row] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 255])
        case 1:
            fields["name"][row][: rng.randrange(1, 17)] = rng.choice([0, 0x41, 0x1B, 0xFF])
        case 2:
            other = rng.randrange(len(fields))
            fields[[row, other]] = fields[[other, row]]
        case 3:
            shapes = fields["arguments"][row][: 33 * 8].view("<u8")
            shapes[rng.choice([0, 1, 2, 31, 32])] = rng.choice(NUMBERS)
        case _:
            at = rng.randrange(300)
            fields["arguments"][row][at : at + 4] = list(rng.randbytes(4))
    return bytes(content)


def lying_metadata(data: bytes, rng: Random) -> bytes:
    """Put wrong numbers into the metadata of one image, or of all: sizes, pointers, labels, ids, weights."""
    content = bytearray(data)
    rows = _metadata(content)
    column = rows[rng.choice(list(rows.dtype.names or ()))]
    name = rng.choice(list(column.dtype.names)) if column.dtype.names else None
    values = column if name is None else column[name]
    chosen = range(len(rows)) if rng.random() < 0.3 else rng.sample(range(len(rows)), min(len(rows), 3))
    if rng.random() < 0.3:
        values[list(chosen)] = values[[rng.randrange(len(rows)) for _ in chosen]]
    for row in chosen if rng.random() < 0.7 else ():
        _put(values, row, rng)
    return bytes(content)


def near_metadata(data: bytes, rng: Random) -> bytes:
    """Change a number of the metadata by a little: what is next to right is found last."""
    content = bytearray(data)
    rows = _metadata(content)
    column = rows[rng.choice(list(rows.dtype.names or ()))]
    values = column[rng.choice(list(column.dtype.names))] if column.dtype.names else column
    row = rng.randrange(len(rows))
    with np.errstate(over="ignore"):
        values[row] = values[row] + values.dtype.type(rng.choice([1, 2, 3, 8]))
    return bytes(content)


def lying_allocations(data: bytes, rng: Random) -> bytes:
    """Put wrong numbers into the allocation table."""
    content = bytearray(data)
    table = _allocations(content)
    for _ in range(rng.choice([1, 3])):
        _set(table, rng.choice(list(fmt.ALLOCATION.names or ())), rng.randrange(len(table)), rng)
    return bytes(content)


def both(data: bytes, rng: Random) -> bytes:
    """Let metadata and allocation table agree on a region that is not one: over the end, or over another one."""
    content = bytearray(data)
    rows, table = _metadata(content), _allocations(content)
    image = next(name for name in rows.dtype.names or () if rows[name].dtype == fmt.IMAGE_METADATA)
    row = rng.randrange(len(rows))
    pointer = int(rows[image]["data_ptr"][row])
    region = int(np.flatnonzero(table["ptr"] == pointer)[0])
    table["ptr"][region] = rows[image]["data_ptr"][row] = rng.choice(
        [0, 1, len(content) - 1, len(content), pointer + 8, pointer - 8, (1 << 63) + pointer, (1 << 64) - 8]
    )
    if rng.random() < 0.5:
        table["size"][region] = rng.choice(NUMBERS)
    return bytes(content)


def other_images(data: bytes, rng: Random) -> bytes:
    """Put other bytes into the regions of images: noise, zeros, JPEGs of other sizes, the beginning of one."""
    content = bytearray(data)
    table = _allocations(content)
    for region in rng.sample(range(len(table)), min(len(table), 5)):
        start, size = int(table["ptr"][region]), int(table["size"][region])
        match rng.randrange(4):
            case 0:
                content[start : start + size] = rng.randbytes(size)
            case 1:
                content[start : start + size] = bytes(size)
            case 2:
                # The size in the frame header of a JPEG.
                found = content.find(b"\xff\xc0", start, start + size)
                if found >= 0:
                    content[found + 5 : found + 9] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\x10\0\x11"])
            case _:
                content[start + size // 2 : start + size] = bytes(size - size // 2)
    return bytes(content)


def not_beton(_data: bytes, rng: Random) -> bytes:
    """Return other kinds of bytes."""
    return rng.choice([b"", b"\2", b"\2\0" + bytes(22), bytes(10_000), b"\xff" * 10_000, rng.randbytes(5000)])


FORGES: tuple[Forge, ...] = (
    flipped, truncated, damaged, lying_header, lying_field, lying_metadata, lying_metadata, near_metadata,
    lying_allocations, both, other_images, not_beton,
)  # fmt: skip


def _fields(content: bytearray) -> NDArray[np.void]:
    count = int(np.frombuffer(content, fmt.HEADER, 1)["num_fields"][0])
    return np.frombuffer(content, fmt.FIELD, count, fmt.HEADER.itemsize)


def _metadata(content: bytearray) -> NDArray[np.void]:
    header, fields = np.frombuffer(content, fmt.HEADER, 1), _fields(content)
    dtype = fmt.metadata_dtype([fmt.decode_field(row) for row in fields])
    return np.frombuffer(content, dtype, int(header["num_samples"][0]), fmt.HEADER.itemsize + fields.nbytes)


def _allocations(content: bytearray) -> NDArray[np.void]:
    start = int(np.frombuffer(content, fmt.HEADER, 1)["alloc_table_ptr"][0])
    return np.frombuffer(content, fmt.ALLOCATION, -1, start)


def _set(rows: NDArray[np.void], name: str, row: int, rng: Random) -> None:
    _put(rows[name], row, rng)


def _put(values: NDArray[Any], row: int, rng: Random) -> None:
    if values.dtype.kind == "f":
        values[row] = rng.choice(FLOATS)
    else:
        bits = values.dtype.itemsize * 8
        values.view(f"<u{values.dtype.itemsize}")[row] = rng.choice(NUMBERS) & ((1 << bits) - 1)
