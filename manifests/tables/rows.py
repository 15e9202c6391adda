"""Rows of tables by sample_id, part by part, for joins, comparisons and copies of manifests.

Several manifests are aligned by the `sample_id`s of one of them or of a new one. Every table is ordered by sample_id,
so that only one part of each is in memory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.parts import AGAIN, PART_ROWS, part_count, part_path, part_rows
from manifests.manifest import Manifest

Ids = NDArray[np.int64]


class TableRows:
    """The rows of one table by sample_id; the part read last stays in memory."""

    def __init__(self, manifest: Manifest, table: str, columns: Sequence[str] | None = None) -> None:
        self._manifest, self._table = manifest, table
        self._columns = None if columns is None else list(dict.fromkeys(["sample_id", *columns]))
        self._entries = {entry.path: entry for entry in manifest.files(table)}
        self._number = -1
        self._part: pa.Table = None

    def take(self, id_n: Ids) -> pa.Table:
        """Return the rows of these strictly ascending sample_ids, without those that the table lacks.

        Raises InputError if a part is missing or damaged.
        """
        number_n = id_n // PART_ROWS
        pieces = [self._rows(int(number), id_n[number_n == number]) for number in np.unique(number_n)]
        return concat(pieces or [self._read(0).slice(0, 0)], self._manifest.where, self._table)

    def forget(self) -> None:
        """Release the part in memory."""
        self._number, self._part = -1, None

    def _rows(self, number: int, id_n: Ids) -> pa.Table:
        part = self._read(number)
        held_n = part.column("sample_id").to_numpy()
        row_n = np.searchsorted(held_n, id_n)
        row_n = row_n[np.append(held_n, -1)[row_n] == id_n]
        # A slice keeps the whole part in memory, so only a large one is worth it.
        if 2 * len(row_n) > len(part) and row_n[-1] - row_n[0] == len(row_n) - 1:
            return part.slice(int(row_n[0]), len(row_n))
        return part.take(row_n)

    def _read(self, number: int) -> pa.Table:
        if number == self._number:
            return self._part
        self.forget()
        path = part_path(self._table, number)
        if (entry := self._entries.get(path)) is None:
            raise InputError(f"{self._manifest.where} has no {path}", hint=AGAIN)
        part = self._manifest.part(entry, self._columns).replace_schema_metadata(None)
        self._number, self._part = number, part
        return part


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """Rows of one manifest that go into another: sample_id `old_n` here is `new_n` there, both strictly ascending."""

    manifest: Manifest
    old_n: Ids
    new_n: Ids

    def is_whole(self, count: int) -> bool:
        """Return whether both manifests have exactly these rows, so that every row keeps its place."""
        return len(self.old_n) == self.manifest.header.data.count == count

    def at(self, start: int, stop: int) -> Ids:
        """Return the sample_ids here of the rows that become `start` to `stop` there."""
        first, end = np.searchsorted(self.new_n, [start, stop])
        return self.old_n[first:end]

    def renumbered(self, rows: pa.Table) -> pa.Table:
        """Return rows of this share with the sample_ids they have there."""
        place_n = np.searchsorted(self.old_n, rows.column("sample_id").to_numpy())
        return with_ids(rows, self.new_n[place_n])

    def only(self, keep_n: NDArray[np.bool_]) -> "Share":
        """Return a share of only some of these rows."""
        return Share(manifest=self.manifest, old_n=self.old_n[keep_n], new_n=self.new_n[keep_n])


class SharedTable:
    """One table merged from several shares; a row that several of them have comes from the first."""

    def __init__(self, shares: Sequence[Share], table: str, count: int, columns: Sequence[str] | None = None) -> None:
        """Prepare a table of `count` samples, with all its columns unless some are named."""
        self.shares, self.table, self._count = shares, table, count
        self._rows = [TableRows(share.manifest, table, columns) for share in shares]

    def part(self, number: int) -> pa.Table:
        """Return the rows of one part by sample_id there. Raises InputError if the columns of the shares differ."""
        return first_of_each(self._pieces(number, self.shares), self.shares[0].manifest.where, self.table)

    def differing(self, number: int, shared_N: NDArray[np.bool_]) -> Ids:
        """Return the sample_ids there, among the (N,) that several shares have, of rows that differ between shares."""
        span = part_rows(number, self._count)
        shared = [share.only(shared_N[share.new_n]) for share in self.shares]
        touched = [share for share in shared if len(share.at(span.start, span.stop))]
        if len(touched) < 2 or _is_one_file(touched, number, self._count, self.table):
            return np.empty(0, np.int64)
        pieces = self._pieces(number, shared)
        first = first_of_each(pieces, self.shares[0].manifest.where, self.table)
        first_id_n, first_bits_nB = first.column("sample_id").to_numpy(), row_bits(first)
        found = []
        for piece in pieces:
            id_m = piece.column("sample_id").to_numpy()
            same_m = (row_bits(piece) == first_bits_nB[np.searchsorted(first_id_n, id_m)]).all(axis=1)
            found.append(id_m[~same_m])
        return np.unique(np.concatenate(found))

    def _pieces(self, number: int, shares: Sequence[Share]) -> list[pa.Table]:
        span = part_rows(number, self._count)
        pieces = []
        for share, rows in zip(shares, self._rows, strict=True):
            old_n = share.at(span.start, span.stop)
            if len(old_n):
                pieces.append(share.renumbered(rows.take(old_n)))
            else:
                rows.forget()
        if not pieces:
            pieces = [self._rows[0].take(np.empty(0, np.int64))]
        return pieces


def first_of_each(pieces: Sequence[pa.Table], where: str, table: str) -> pa.Table:
    """Merge tables in the order of sample_id; of rows with the same one, keep that of the first table."""
    whole = concat(pieces, where, table)
    id_n = whole.column("sample_id").to_numpy()
    if (np.diff(id_n) > 0).all():
        return whole
    _, first_n = np.unique(id_n, return_index=True)
    return whole.take(first_n)


def _is_one_file(shares: Sequence[Share], number: int, count: int, table: str) -> bool:
    """Return whether all shares keep their rows' places and have the identical part."""
    path = part_path(table, number)
    entries = [share.manifest.header.file(path) for share in shares if share.is_whole(count)]
    digests = {entry.sha256 for entry in entries if entry is not None}
    return len(entries) == len(shares) and None not in entries and len(digests) == 1


class ScatteredRows:
    """The rows of a table in any other order, by new sample_ids, in files below a folder that the caller removes.

    One part of the new order may need rows from every part of the old one: each part is scattered to a file, one batch
    per new part, and each new part is gathered from all files. One part is in memory, the whole table on disk.
    """

    def __init__(self, parts: Iterable[pa.Table], new_N: Ids, count: int, folder: Path, where: str) -> None:
        """Scatter tables: sample_id i becomes new_N[i] of `count`, or is left out if that is -1."""
        self._where, self._paths = where, list[Path]()
        first_P = np.arange(part_count(count) + 1) * PART_ROWS
        for number, part in enumerate(parts):
            path = folder / f"{number}.arrow"
            _scatter(part, new_N[part.column("sample_id").to_numpy()], first_P, path)
            self._paths.append(path)

    def part(self, number: int) -> pa.Table:
        """Return the rows of one new part by sample_id. Raises InputError if the columns of the parts differ."""
        found = concat([pa.Table.from_batches([batch]) for batch in self._batches(number)], self._where, "a table")
        return found.take(pa.array(np.argsort(found.column("sample_id").to_numpy())))

    def _batches(self, number: int) -> Iterator[pa.RecordBatch]:
        for path in self._paths:
            with closing(pa.memory_map(str(path))) as file:
                yield pa.ipc.open_file(file).get_batch(number)


def _scatter(part: pa.Table, new_n: Ids, first_P: NDArray[np.int64], path: Path) -> None:
    wanted_m = np.flatnonzero(new_n >= 0)
    order_m = wanted_m[np.argsort(new_n[wanted_m])]
    rows = with_ids(part.take(pa.array(order_m)), new_n[order_m]).replace_schema_metadata(None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        for start, end in pairwise(np.searchsorted(new_n[order_m], first_P)):
            batches = rows.slice(start, end - start).combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema))


def concat(pieces: Sequence[pa.Table], where: str, table: str) -> pa.Table:
    """Concatenate tables. Raises InputError if their columns differ."""
    names = pieces[0].column_names
    try:
        return pa.concat_tables([piece.select(names) for piece in pieces])
    except (pa.ArrowException, KeyError):
        raise InputError(f"{where}: the columns of {table} are not the same everywhere", hint=AGAIN) from None


def with_ids(rows: pa.Table, id_n: Ids) -> pa.Table:
    """Return the table with other sample_ids (n,)."""
    place = rows.column_names.index("sample_id")
    return rows.set_column(place, rows.schema.field(place), pa.array(id_n, pa.int64()))


def row_bits(rows: pa.Table) -> NDArray[np.uint8]:
    """Return (n, bytes) of all columns but sample_id. Raises InputError for any but numbers and equal vectors."""
    found = [np.empty((len(rows), 0), np.uint8)]
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if name == "sample_id":
            continue
        values = column.combine_chunks()
        is_list = pa.types.is_fixed_size_list(values.type)
        flat = values.flatten() if is_list else values
        if values.null_count or flat.null_count or not pa.types.is_primitive(flat.type):
            raise InputError(f"column {name} does not hold one number or one vector per row", hint=AGAIN)
        numbers = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False))
        found.append(numbers.reshape(-1, values.type.list_size if is_list else 1).view(np.uint8))
    return np.concatenate(found, axis=1)


def hash_matrix(hashes: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return a column of fixed-size binary as (N, bytes)."""
    values = hashes.combine_chunks()
    width = values.type.byte_width
    return np.frombuffer(values.buffers()[1], np.uint8, len(values) * width, values.offset * width).reshape(-1, width)


def hash_column(hash_N16: NDArray[np.uint8]) -> pa.Array:
    """Return (N, 16) content hashes as fixed-size binary, the reverse of `hash_matrix`."""
    data = pa.py_buffer(np.ascontiguousarray(hash_N16))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(hash_N16), [None, data])


def places(wanted: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> Ids:
    """Return (N,) the row of each value among unique others (M,); -1 if it is missing or null."""
    whole = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    found = pc.index_in(wanted, value_set=whole, skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def places_in_order(wanted: pa.ChunkedArray, among: pa.ChunkedArray) -> Ids:
    """Return the same as `places` for texts that ascend on both sides, without a table of all of them in memory."""
    found, rows = [np.empty(0, np.int64)], range(len(among))
    for chunk in wanted.chunks:
        if not len(chunk):
            continue
        # Python orders text by code points, and UTF-8 keeps that order.
        ends = chunk[0].as_py(), chunk[-1].as_py()
        first = bisect_left(rows, ends[0], key=lambda row: among[row].as_py())
        end = bisect_right(rows, ends[1], first, key=lambda row: among[row].as_py())
        place_n = places(chunk, among.slice(first, end - first))
        found.append(np.where(place_n < 0, -1, place_n + first))
    return np.concatenate(found)


def ascends(texts: pa.ChunkedArray) -> bool:
    """Return whether texts ascend by their bytes, equal ones allowed, and none is null."""
    in_order = pc.less_equal(texts.slice(0, max(0, len(texts) - 1)), texts.slice(1))
    return not texts.null_count and pc.all(in_order).as_py() is not False


def unique_in_both(name_n: pa.Array, name_m: pa.Array) -> tuple[Ids, Ids, Ids]:
    """Return positions of values that are once on each side, and in name_n of those on both sides, but not once."""
    code: Ids = pa.concat_arrays([name_n, name_m]).dictionary_encode().indices.to_numpy().astype(np.int64)
    code_n, code_m = code[: len(name_n)], code[len(name_n) :]
    codes = int(code.max(initial=-1)) + 1
    here_U, there_U = np.bincount(code_n, minlength=codes), np.bincount(code_m, minlength=codes)
    row_U = np.full(codes, -1, np.int64)
    row_U[code_m] = np.arange(len(name_m))
    unique_n = (here_U[code_n] == 1) & (there_U[code_n] == 1)
    positions_n = np.flatnonzero(unique_n)
    return positions_n, row_U[code_n[positions_n]], np.flatnonzero(~unique_n & (there_U[code_n] > 0))
