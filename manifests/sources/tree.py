"""Folders of files, on disk or inside an archive, behind one small interface."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manifests.errors import InputError


class Entry(Protocol):
    """A file or folder in a folder; os.DirEntry is one."""

    @property
    def name(self) -> str:
        """Name without folders."""

    def is_dir(self) -> bool:
        """Return whether it is a folder, or a link to one."""

    def is_file(self) -> bool:
        """Return whether it is a regular file, or a link to one."""

    def is_symlink(self) -> bool:
        """Return whether it is a link."""


class Folder(Protocol):
    """A folder whose entries can be listed."""

    @property
    def disk(self) -> Path | None:
        """Path of the folder; None inside an archive."""

    def __truediv__(self, path: str) -> "Folder":
        """Return the folder at a path below this one, which need not exist; itself for ""."""

    def scan(self) -> Iterator[Entry]:
        """Yield what is in the folder, in any order. Raises InputError if it cannot be read."""

    def head(self, name: str, count: int) -> bytes:
        """Return the first bytes of a file in the folder; nothing if it cannot be read."""


@dataclass(frozen=True)
class DiskFolder:
    """A folder on disk."""

    path: str

    @property
    def disk(self) -> Path:
        """Path of the folder."""
        return Path(self.path)

    def __truediv__(self, path: str) -> "DiskFolder":
        """Return the folder at a path below this one."""
        return DiskFolder(f"{self.path}/{path}") if path else self

    def __str__(self) -> str:
        return self.path

    def scan(self) -> Iterator[os.DirEntry[str]]:
        """Yield what is in the folder."""
        try:
            with os.scandir(self.path) as entries:
                yield from entries
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None

    def head(self, name: str, count: int) -> bytes:
        """Return the first bytes of a file in the folder; nothing if it cannot be read."""
        try:
            # Opening a pipe waits for somebody to write.
            if not stat.S_ISREG(os.stat(f"{self.path}/{name}").st_mode):  # noqa: PTH116 - no Path object per file
                return b""
            with open(f"{self.path}/{name}", "rb") as stream:  # noqa: PTH123 - no Path object per file
                return stream.read(count)
        except OSError:
            return b""
