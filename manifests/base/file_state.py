"""The size and time of a mapped file: if another program cuts it short, reading the map ends the process (SIGBUS)."""

from pathlib import Path
from typing import NamedTuple

from manifests.errors import InputError


class FileState(NamedTuple):
    """A file as it was when it was opened."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file; OSError if there is none."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Raise InputError if the file is not as it was; cheap, so it is called before each pass over the file."""
        try:
            is_same = FileState.of(self.path) == self
        except OSError:
            is_same = False
        if not is_same:
            raise InputError(
                f"{self.path} was changed or removed by another program after it was opened",
                hint="restore it, or write it again, and start again once nothing writes to it",
            )
