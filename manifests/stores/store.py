"""The storage of a manifest's files: a local folder, or any URL that fsspec reads.

A store returns whole files by their path inside the manifest. It does not follow links in a local folder, so that a
manifest from another person cannot name files of this machine.
"""

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from manifests.base.files import CHUNK_BYTES
from manifests.errors import InputError, UsageError
from manifests.stores.addresses import AGAIN, UNKNOWN_SIZE, is_url, levels, without_password
from manifests.stores.patience import UNHEARD, Attempts, Patience, PatientFile, patience
from manifests.stores.streams import read_up_to, sha256_of
from manifests.stores.timeouts import S3_SCHEMES, timeout_options
from manifests.stores.web import SCHEMES, WebStore

_WRONG = "the manifest is incomplete or damaged: prune verify lists what is wrong"
BLOCK_BYTES = 8 << 20
"""Files at a URL are read in blocks of this size; what breaks is a block."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hub"}
"""Extra of this package that installs a file system, by the scheme of its URLs."""


class LocalStore:
    """A manifest's files in a folder; the folder may be a link, but nothing inside it."""

    is_local: Literal[True] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def name(self, path: str) -> str:
        """Return the name of a file for messages."""
        return str(self.folder / path)

    def size(self, path: str) -> int | None:
        """Return the bytes of a file, None if it is missing; raises InputError for a link or other non-file."""
        try:
            with self.open(path) as stream:
                return os.fstat(stream.fileno()).st_size
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def read(self, path: str, most_bytes: int) -> bytes:
        """Read a file, at most one byte more than `most_bytes`; raises OSError if it cannot be read."""
        with self.open(path) as stream:
            return stream.read(min(most_bytes, os.fstat(stream.fileno()).st_size) + 1)

    def open(self, path: str) -> BufferedReader:
        """Open a file for reading; raises OSError if it cannot be read, InputError for a link or other non-file."""
        *folders, name = levels(path)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                descriptor = self._step(descriptor, folder, os.O_DIRECTORY, path)
            # Without O_NONBLOCK, opening a named pipe would block.
            descriptor = self._step(descriptor, name, os.O_NONBLOCK, path)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name(path))
            if not stat.S_ISREG(mode):
                raise InputError(f"{self.name(path)} is not a file", hint=AGAIN)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def sha256(self, path: str) -> str:
        """Return the hexadecimal sha256 of a file; raises OSError if it cannot be read."""
        with self.open(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _step(self, descriptor: int, name: str, flags: int, path: str) -> int:
        """Open the next level and close this one, without following links."""
        try:
            found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=descriptor)
        except OSError as error:
            is_link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and _is_link(name, descriptor)
            if is_link:
                raise InputError(
                    f"{self.name(path)}: {name} is a symbolic link, and links in a manifest are not followed",
                    hint="put the file itself there, or name its folder",
                ) from None
            raise type(error)(error.errno, error.strerror, self.name(path)) from None
        os.close(descriptor)
        return found


def _is_link(name: str, descriptor: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=descriptor).st_mode)
    except OSError:
        return False


@dataclass(frozen=True)
class LocalFile:
    """A file to push, as the header names it."""

    store: LocalStore
    path: str
    sha256: str
    md5: str
    bytes: int

    @classmethod
    def of(cls, store: LocalStore, path: str, sha256: str | None = None) -> "LocalFile":
        """Read a file once for its digests. Raises InputError if it is missing or its sha256 differs."""
        found, md5, size_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            with store.open(path) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    found.update(chunk)
                    md5.update(chunk)
                    size_bytes += len(chunk)
        except OSError as error:
            raise InputError(f"cannot read {store.name(path)}: {error.strerror or error}", hint=_WRONG) from None
        if sha256 is not None and found.hexdigest() != sha256:
            raise InputError(f"{store.name(path)} was altered: its sha256 is not the header's", hint=_WRONG)
        return cls(store, path, found.hexdigest(), md5.hexdigest(), size_bytes)

    @property
    def full(self) -> Path:
        """Path of the file on this disk."""
        return self.store.folder / self.path


class RemoteStore:
    """A manifest's files at a URL of a file system of fsspec; nothing is cached on disk."""

    is_local: Literal[False] = False

    def __init__(self, url: str, filesystem: Any, root: str, bounds: Patience | None = None) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")
        self.scheme = url.partition("://")[0]
        self.where = without_password(url).rstrip("/")
        bounds = bounds or patience()
        # Their libraries ask several times by themselves.
        self.patience = bounds.once if self.scheme in ("gs", "gcs", "hf") else bounds

    @property
    def folder(self) -> Path:
        """Raises UsageError: there is no folder."""
        raise UsageError(f"{self.where} is not on this machine", hint=f"pull it first: prune pull {self.where} DIR")

    def name(self, path: str) -> str:
        """Return the name of a file for messages."""
        return f"{self.where}/{path}"

    def full(self, path: str) -> str:
        """Return the path of a file in the file system."""
        return "/".join([self.root, *levels(path)])

    def attempts(self, path: str = "") -> Attempts:
        """Return what asks the server about a file, or about all of them."""
        return Attempts(self.name(path) if path else self.where, self.patience, UNHEARD)

    def size(self, path: str) -> int | None:
        """Return the bytes of a file or UNKNOWN_SIZE, None if it is missing; raises the errors of `Attempts`."""
        full = self.full(path)
        try:
            return self.attempts(path)(lambda: self._told_bytes(full))
        except FileNotFoundError:
            return None

    def read(self, path: str, most_bytes: int) -> bytes:
        """Read a file, at most one byte more than `most_bytes`; raises the errors of `Attempts`."""
        full, attempts = self.full(path), self.attempts(path)
        if 0 <= attempts(lambda: self._told_bytes(full)) <= min(most_bytes, BLOCK_BYTES):
            return bytes(attempts(lambda: self.filesystem.cat_file(full)))
        with self.open(path) as stream:
            return read_up_to(stream, most_bytes + 1)

    def open(self, path: str) -> PatientFile:
        """Open a file for reading in blocks; raises the errors of `Attempts`."""
        full, attempts = self.full(path), self.attempts(path)
        return PatientFile(attempts(lambda: self.filesystem.open(full, "rb", block_size=BLOCK_BYTES)), attempts)

    def sha256(self, path: str) -> str:
        """Return the hexadecimal sha256 of a file, read as a stream; raises the errors of `Attempts`."""
        with self.open(path) as stream:
            return sha256_of(stream)

    def _told_bytes(self, full: str) -> int:
        size_bytes = self.filesystem.info(full).get("size")
        return UNKNOWN_SIZE if size_bytes is None else int(size_bytes)


Store = LocalStore | RemoteStore | WebStore


def store_of(where: str | Path, timeout_s: float | None = None) -> Store:
    """Return the store at a path or URL, which may be empty or missing.

    timeout_s: longest time without a byte from a server, None for what `--timeout` says or 60. Raises UsageError for
    an unknown URL scheme and for a timeout that is not a time.
    """
    text, bounds = str(where), patience(timeout_s)
    if isinstance(where, Path) or not is_url(text):
        return LocalStore(Path(where))
    scheme, _, place = text.partition("://")
    scheme = scheme.lower()
    if scheme == "file":
        return LocalStore(Path(re.sub("^localhost(?=/)", "", place)))
    url = f"{scheme}://{place}"
    if "?" in url:
        # A signed address is a password, and is valid for one file only.
        raise UsageError(
            f"{without_password(url).partition('?')[0]}: the address has a query",
            hint="name the folder, without the ? and the rest",
        )
    return WebStore(url, bounds) if scheme in SCHEMES else _remote_store(url, bounds)


def _remote_store(url: str, bounds: Patience) -> RemoteStore:
    shown = without_password(url)
    try:
        # Some file systems connect on creation, and each raises its own errors.
        filesystem, root = Attempts(shown, bounds)(lambda: _file_system(url, bounds.timeout_s))
    except FileNotFoundError:
        raise InputError(f"{shown}: not found", hint="check the address") from None
    return RemoteStore(url, filesystem, root, bounds)


def _file_system(url: str, timeout_s: float) -> tuple[Any, str]:
    """Return the file system of a URL, and the path of the URL in it. Raises UsageError if there is none."""
    from fsspec.core import url_to_fs

    scheme, shown = url.partition("://")[0], without_password(url)
    # By default, fsspec shares file systems between callers, together with cached listings.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        filesystem, root = url_to_fs(url, **options, **timeout_options(scheme, timeout_s))
    except ImportError as error:
        install = f"prune-toolkit[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else "the package it names"
        raise UsageError(
            f"{shown}: {scheme}:// needs a package that is not installed ({error.name or error})",
            hint=f"pip install '{install}'" if scheme in _EXTRAS else f"install {install}",
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        known = "known schemes: s3://, gs://, hf://, http(s)://, file://"
        raise UsageError(f"{shown}: {without_password(str(error))}", hint=known) from None
    if scheme in S3_SCHEMES:
        # It would try again in silence, and multiply our attempts.
        filesystem.retries = 1
    return filesystem, root
