"""Rows of a table in another order than they are stored in, however far they move.

This takes two passes, because one part of the new order may need rows from every part of the old one: each part is
scattered to a file, one batch per new part, and each new part is gathered from all files. One part is in memory, the
whole table on disk.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.format.parts import PART_ROWS, part_count
from manifests.tables.rows import Ids, concat, with_ids


class ScatteredRows:
    """The rows of a table by new sample_ids, in files below a folder that the caller removes."""

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
