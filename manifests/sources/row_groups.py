"""One column of many Parquet files, read by row groups and cached while memory allows."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from manifests.errors import InputError
from manifests.images.decode import ImageProblem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Shard:
    """A Parquet file and its footer, so that opening it again costs nothing."""

    path: Path
    schema: "pa.Schema"
    metadata: "pq.FileMetaData"

    def open(self) -> "pq.ParquetFile":
        """Open the file; used by one thread at a time."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, metadata=self.metadata)


def open_shard(path: Path) -> Shard:
    """Read the footer of a file. Raises InputError if it is damaged."""
    import pyarrow.parquet as pq

    with damaged(path), pq.ParquetFile(path) as file:
        return Shard(path, file.schema_arrow, file.metadata)


@contextmanager
def damaged(path: Path, format_: str = "Parquet") -> Iterator[None]:
    """Turn what the reader raises into an InputError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} is not a whole {format_} file: {_first_line(error)}", hint="copy or download the file again"
        ) from None


class RowGroups:
    """The values of one column by row, for several threads, one of which reads at a time.

    Row groups used last are cached up to CACHE_BYTES: rows in order cost one read of each group, rows in random
    order too if the column is small, and a file of huge groups takes the memory of one group.
    """

    def __init__(self, shards: Sequence[Shard], column: str) -> None:
        self._shards = shards
        self._column = column
        self._groups = [
            (shard, group) for shard in range(len(shards)) for group in range(shards[shard].metadata.num_row_groups)
        ]
        self._starts = [0]
        for shard, group in self._groups:
            self._starts.append(self._starts[-1] + shards[shard].metadata.row_group(group).num_rows)
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RowGroups, (self._shards, self._column)

    def values(self, rows: Sequence[int]) -> list[Any]:
        """Return values of some rows, in the order requested; an ImageProblem for each row of an unreadable group."""
        by_group: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            if not 0 <= row < self._starts[-1]:
                raise IndexError(f"row {row} of {self._starts[-1]}")
            by_group.setdefault(bisect_right(self._starts, row) - 1, []).append(position)
        result: list[Any] = [None] * len(rows)
        for number in sorted(by_group):
            column = self._column_of(number)
            for position in by_group[number]:
                in_group = int(rows[position]) - self._starts[number]
                result[position] = column if isinstance(column, ImageProblem) else column[in_group].as_py()
        return result

    def _column_of(self, number: int) -> "pa.ChunkedArray | ImageProblem":
        import pyarrow as pa

        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            shard, group = self._groups[number]
            rows = self._starts[number + 1] - self._starts[number]
            try:
                with self._shards[shard].open() as file:
                    column = file.read_row_group(group, columns=[self._column], use_threads=False).column(0)
                if len(column) != rows:
                    raise ValueError(f"it holds {len(column)} rows, the footer says {rows}")
            except (pa.ArrowException, OSError, ValueError, IndexError) as error:
                name = self._shards[shard].path.name
                return ImageProblem(f"row group {group} of {name} cannot be read: {_first_line(error)}")
            self._kept[number] = column
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
            return column


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
