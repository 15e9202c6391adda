"""Files that a command writes again each time: they take the place of an earlier one, and of nothing else."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from manifests.base.files import write_atomic
from manifests.errors import UsageError

_LINE_BYTES = 4096


def check_report(path: Path, columns: Sequence[str]) -> None:
    """Raise UsageError unless a CSV file with these columns may be written: nothing is there, or an earlier one."""

    def is_earlier() -> bool:
        with path.open("rb") as stream:
            line = stream.readline(_LINE_BYTES).decode("utf-8", "replace")
        return next(csv.reader([line]), []) == list(columns)

    _check(path, is_earlier)


def write_listing(path: Path, data: bytes) -> None:
    """Write a list without a header; UsageError if anything but the same list is there."""
    _check(path, lambda: path.stat().st_size == len(data) and path.read_bytes() == data)
    write_atomic(path, data)


def _check(path: Path, is_earlier: Callable[[], bool]) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_file() and is_earlier())):
        raise UsageError(
            f"{path} already exists, and is not an earlier list of this kind",
            hint="what is there is never changed: name another, or delete this one",
        )
