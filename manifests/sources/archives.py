"""Tar and zip archives of images, read in place: nothing is unpacked to disk."""

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, RawImage
from manifests.sources.folder import MAX_FILE_BYTES
from manifests.untrusted.rules import path_problem

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
MAX_MEMORY_BYTES = 4 << 30
"""Largest content of a compressed tar: it cannot be read at random, so its files are held in memory."""
_AGAIN = "copy or download the file again"
_DAMAGED = (
    *(OSError, EOFError, ValueError, LookupError, RuntimeError, NotImplementedError),
    *(tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
)


class Archive(Protocol):
    """The files in an archive, or in several, by their paths."""

    @property
    def names(self) -> Sequence[str]:
        """Paths of the regular files, in the order of the archive."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. May be called from several threads at once. Raises InputError."""


def is_archive(path: Path) -> bool:
    """Return whether the name of a file is that of an archive."""
    return path.name.lower().endswith(ARCHIVES)


def open_archive(path: Path) -> Archive:
    """Open a tar, compressed or not, or a zip. Raises InputError if it is damaged."""
    try:
        if path.name.lower().endswith(".zip"):
            return ZipArchive(path)
        return TarArchive((path,)) if path.name.lower().endswith(".tar") else MemoryArchive(path)
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a whole archive: {error or type(error).__name__}", hint=_AGAIN) from None


class _Place(NamedTuple):
    file: int
    offset: int
    size_bytes: int


class TarArchive:
    """One or more uncompressed tars, also inside each other: where each file begins, and how long it is.

    Files of several tars lie in folders called like these, without their ending.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._places: dict[str, _Place] = {}
        for number, path in enumerate(self._paths):
            folder = "" if len(self._paths) == 1 else f"{path.stem}/"
            with path.open("rb") as stream:
                for name, offset, size_bytes in _members(stream, folder):
                    self._places[name] = _Place(number, offset, size_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return TarArchive, (self._paths,)

    @property
    def names(self) -> Sequence[str]:
        """Paths of the regular files."""
        return list(self._places)

    @cached_property
    def _descriptors(self) -> list[int]:
        return [os.open(path, os.O_RDONLY) for path in self._paths]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        place = self._places[name]
        if place.size_bytes > MAX_FILE_BYTES:
            raise InputError(f"{name} is larger than {MAX_FILE_BYTES >> 30} GiB")
        data = os.pread(self._descriptors[place.file], place.size_bytes, place.offset)
        if len(data) != place.size_bytes:
            raise InputError(f"{self._paths[place.file]} ends inside {name}", hint=_AGAIN)
        return data

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", ()):
            os.close(descriptor)


def _members(stream: IO[bytes], folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, offset and size of the files of the tar that begins here, and of the tars in it."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        inner = []
        for member in tar:
            if not member.isreg() or member.sparse is not None:
                continue
            if member.name.endswith(".tar"):
                inner.append(member)
            else:
                yield folder + _clean(member.name), member.offset_data, member.size
    for member in inner:
        stream.seek(member.offset_data)
        yield from _members(stream, f"{folder}{_clean(member.name).removesuffix('.tar')}/")


class MemoryArchive:
    """A compressed tar, held in memory: it cannot be read at random."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: dict[str, bytes] = {}
        total_bytes = 0
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                total_bytes += member.size
                if total_bytes > MAX_MEMORY_BYTES:
                    raise InputError(
                        f"{path} holds more than {MAX_MEMORY_BYTES >> 30} GiB",
                        hint="decompress it to a plain .tar, which is read in place",
                    )
                if member.isreg() and (content := tar.extractfile(member)) is not None:
                    self._data[_clean(member.name)] = content.read()

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryArchive, (self._path,)

    @property
    def names(self) -> Sequence[str]:
        """Paths of the regular files."""
        return list(self._data)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self._data[name]


class ZipArchive:
    """A zip."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)
        named = (info for info in self._zip.infolist() if info.filename)
        self._infos = {_clean(info.filename): info for info in named if not info.is_dir()}

    def __reduce__(self) -> tuple[Any, ...]:
        return ZipArchive, (self._path,)

    @property
    def names(self) -> Sequence[str]:
        """Paths of the regular files."""
        return list(self._infos)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        info = self._infos[name]
        if info.file_size > MAX_FILE_BYTES:
            raise InputError(f"{name} is larger than {MAX_FILE_BYTES >> 30} GiB")
        try:
            return self._zip.read(info)
        except (*_DAMAGED, zipfile.BadZipFile) as error:
            raise InputError(f"{name} cannot be read: {error}") from None


def read_image(archive: Archive, name: str) -> RawImage | ImageProblem:
    """Return an image of an archive as it is stored, or what is wrong with it."""
    try:
        return Encoded(archive.read(name))
    except (OSError, InputError) as error:
        return ImageProblem(f"cannot be read: {error.message if isinstance(error, InputError) else error.strerror}")


@dataclass(frozen=True)
class ArchiveEntry:
    """A file or folder in an archive."""

    name: str
    folder: bool

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return not self.folder

    def is_symlink(self) -> bool:
        """Return False: links in archives are not followed."""
        return False


class ArchiveFolder:
    """A folder in an archive."""

    disk = None

    def __init__(self, archive: Archive, path: str = "", tree: Mapping[str, dict[str, bool]] | None = None) -> None:
        self._archive, self._path = archive, path
        self._tree = _tree_of(archive.names) if tree is None else tree

    def __truediv__(self, path: str) -> "ArchiveFolder":
        """Return the folder at a path below this one."""
        return ArchiveFolder(self._archive, "/".join(part for part in (self._path, path) if part), self._tree)

    def __str__(self) -> str:
        return self._path or "the archive"

    def scan(self) -> Iterator[ArchiveEntry]:
        """Yield what is in the folder."""
        for name, folder in self._tree.get(self._path, {}).items():
            yield ArchiveEntry(name, folder)

    def head(self, name: str, count: int) -> bytes:
        """Return the first bytes of a file in the folder."""
        try:
            return self._archive.read(f"{self._path}/{name}" if self._path else name)[:count]
        except (OSError, InputError):
            return b""


def _tree_of(names: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return the entries of each folder, and whether they are folders."""
    tree: dict[str, dict[str, bool]] = {}
    for name in names:
        if path_problem(name) is not None:
            continue
        folder, _, file = name.rpartition("/")
        tree.setdefault(folder, {})[file] = False
        while folder:
            above, _, below = folder.rpartition("/")
            known = tree.setdefault(above, {})
            if below in known:
                break
            known[below] = True
            folder = above
    return tree


def _clean(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


class ArchivePath:
    """A file or folder in an archive, read like a path."""

    def __init__(self, where: Path, archive: Archive, path: str = "") -> None:
        self._where, self._archive, self._path = where, archive, path

    def __truediv__(self, path: str) -> "ArchivePath":
        """Return the path below this one."""
        return ArchivePath(self._where, self._archive, f"{self._path}/{path}" if self._path else path)

    def __str__(self) -> str:
        return f"{self._where}:{self._path}"

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self._path in self._archive.names

    def read_bytes(self) -> bytes:
        """Return the content of the file."""
        return self._archive.read(self._path)
