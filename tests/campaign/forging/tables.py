"""Parquet parts that are damaged, or hold what no part of ours does."""

import io
from collections.abc import Callable
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mutating import bombs, damaged

Forge = Callable[[bytes, Random], bytes]
TYPES = (
    "int32",
    "uint64",
    "float64",
    "string",
    "binary",
    "bool_",
    "date32",
    "int64",
    "float16",
    "large_string",
    "list",
)


def flipped(data: bytes, rng: Random) -> bytes:
    """Flip one bit."""
    content = bytearray(data)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncated(data: bytes, rng: Random) -> bytes:
    """Cut the end off, perhaps all."""
    return data[: rng.choice([0, 4, len(data) - 1, rng.randrange(len(data))])]


def lying_footer(data: bytes, rng: Random) -> bytes:
    """Put a number into the footer, where rows, pages and offsets are."""
    content = bytearray(data)
    length = int.from_bytes(content[-8:-4], "little")
    at = len(content) - 8 - rng.randrange(1, max(2, min(length, len(content) - 8)))
    number = rng.choice([b"\xff" * 5, b"\xfe\xff\xff\xff\x0f", b"\x00", b"\x80\x80\x80\x80\x08", rng.randbytes(4)])
    content[at : at + len(number)] = number
    return bytes(content)


def lying_page(data: bytes, rng: Random) -> bytes:
    """Put a number into the header of the first pages, where their sizes are."""
    at = 4 + rng.randrange(24)
    number = rng.choice([b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x04", b"\x01", b"\x00"])
    return data[:at] + number + data[at + len(number) :]


def bomb(_data: bytes, rng: Random) -> bytes:
    """Return a part of a few kilobytes that would take gigabytes."""
    return rng.choice(bombs())


def without_column(data: bytes, rng: Random) -> bytes:
    """Leave a column out."""
    table = _read(data)
    return _written(table.drop_columns([rng.choice(table.column_names)]))


def other_names(data: bytes, rng: Random) -> bytes:
    """Exchange the names of columns."""
    table = _read(data)
    names = list(table.column_names)
    rng.shuffle(names)
    return _written(table.rename_columns(names))


def other_type(data: bytes, rng: Random) -> bytes:
    """Give a column another type, with its values where they fit."""
    table = _read(data)
    row = rng.randrange(table.num_columns)
    kind = rng.choice(TYPES)
    wanted = pa.list_(pa.int64()) if kind == "list" else getattr(pa, kind)()
    try:
        column = table.column(row).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        column = pa.nulls(len(table), wanted)
    return _written(table.set_column(row, table.column_names[row], column))


def nulls(data: bytes, rng: Random) -> bytes:
    """Make some values of a column null, or all."""
    table = _read(data)
    row = rng.randrange(table.num_columns)
    column = table.column(row)
    mask = pa.array([rng.random() < 0.2 for _ in range(len(table))])
    none = pa.nulls(len(table), column.type)
    try:
        column = none if rng.random() < 0.5 else pc.if_else(mask, none, column)
    except pa.ArrowNotImplementedError:
        column = none
    return _written(table.set_column(row, pa.field(table.column_names[row], column.type), column))


def repeated(data: bytes, rng: Random) -> bytes:
    """Let one row stand in the place of all, or of some: ids twice, keys twice."""
    table = _read(data)
    chosen = [rng.randrange(len(table)) if rng.random() < 0.3 else row for row in range(len(table))]
    return _written(table.take(chosen))


def shuffled(data: bytes, rng: Random) -> bytes:
    """Put the rows into another order."""
    table = _read(data)
    return _written(table.take(rng.sample(range(len(table)), len(table))))


def other_rows(data: bytes, rng: Random) -> bytes:
    """Leave rows out, or add some: none, one, twice as many."""
    table = _read(data)
    return _written(rng.choice([table[:0], table[:1], table[:-1], pa.concat_tables([table, table])]))


def strange_values(data: bytes, rng: Random) -> bytes:
    """Put values into a column that its type allows and its meaning does not."""
    table = _read(data)
    row = rng.randrange(table.num_columns)
    kind = table.column(row).type
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        values = np.full((len(table), kind.list_size), rng.choice([np.nan, np.inf, -np.inf, 65504]), np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)).cast(kind.value_type), kind.list_size)
    elif pa.types.is_floating(kind):
        values = np.array([rng.choice([np.nan, np.inf, -np.inf, 3e38, -0.0, 1e-45]) for _ in range(len(table))])
        column = pa.array(values.astype(np.float16 if kind == pa.float16() else np.float64)).cast(kind, safe=False)
    elif pa.types.is_integer(kind):
        bounds = np.iinfo(kind.to_pandas_dtype())
        numbers = [int(bounds.min), int(bounds.max), 0, 1]
        column = pa.array([rng.choice(numbers) for _ in range(len(table))], kind)
    else:
        texts = ["../../x", "/etc/passwd", "a\0b", "\x1b[2J", "", "x" * 5000, "<b>|", "a\nb", "\u202e"]
        column = pa.array([rng.choice(texts) for _ in range(len(table))], pa.string())
    return _written(table.set_column(row, table.column_names[row], column))


def not_parquet(_data: bytes, rng: Random) -> bytes:
    """Return other kinds of bytes."""
    return rng.choice([b"", b"PAR1", b"PAR1PAR1", b"PARE" * 4, b"<html></html>", b"\0" * 10_000, rng.randbytes(5000)])


FORGES: tuple[Forge, ...] = (
    flipped, truncated, damaged, lying_footer, lying_page, bomb, without_column, other_names, other_type, nulls,
    repeated, shuffled, other_rows, strange_values, not_parquet,
)  # fmt: skip


def _read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data)).combine_chunks()


def _written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
