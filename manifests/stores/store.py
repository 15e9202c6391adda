"""The storage of a manifest's files: a local folder, or any URL that fsspec reads.

A store returns whole files by their path inside the manifest. It does not follow links in a local folder, so that a
manifest from another person cannot name files of this machine.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, cast

from manifests.base.files import CHUNK_BYTES
from manifests.errors import InputError, PruneError, UnreachableError, UsageError

_AGAIN = "the manifest is incomplete or damaged: fetch or make it again"
_WRONG = "the manifest is incomplete or damaged: prune verify lists what is wrong"
_WEB = ("http", "https")
UNKNOWN_SIZE = -1
"""Size of a file at a URL if the server does not report it."""
TIMEOUT_S = 60
"""Time a web server may take to respond."""
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
                raise InputError(f"{self.name(path)} is not a file", hint=_AGAIN)
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
    """A manifest's files at a URL; nothing is cached on disk."""

    is_local: Literal[False] = False

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")
        self.scheme = url.partition("://")[0]
        self.where = without_password(url).rstrip("/")
        self._is_http = self.scheme in _WEB

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

    def size(self, path: str) -> int | None:
        """Return the bytes of a file or UNKNOWN_SIZE, None if it is missing; raises the errors of `answering`."""
        try:
            with answering(self.name(path)):
                return self._told_bytes(path)
        except FileNotFoundError:
            return None

    def read(self, path: str, most_bytes: int) -> bytes:
        """Read a file, at most one byte more than `most_bytes`; raises the errors of `answering`."""
        with answering(self.name(path)):
            # A web server may send more than it announced.
            if not self._is_http and 0 <= self._told_bytes(path) <= most_bytes:
                return bytes(self.filesystem.cat_file(self.full(path)))
            with self.open(path) as stream:
                return _read_up_to(stream, most_bytes + 1)

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading in blocks; wrap the reading in `answering`."""
        with answering(self.name(path)):
            # Few web servers send ranges, so the file is read as one stream.
            block_bytes = 0 if self._is_http else 8 << 20
            return cast("IO[bytes]", self.filesystem.open(self.full(path), "rb", block_size=block_bytes))

    def sha256(self, path: str) -> str:
        """Return the hexadecimal sha256 of a file, read as a stream; raises the same errors as `read`."""
        digest = hashlib.sha256()
        with answering(self.name(path)), self.open(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _told_bytes(self, path: str) -> int:
        size_bytes = self.filesystem.info(self.full(path)).get("size")
        return UNKNOWN_SIZE if size_bytes is None else int(size_bytes)


Store = LocalStore | RemoteStore


def levels(path: str) -> list[str]:
    """Return the folders and name of a file inside a manifest; raises InputError for a path that leads out of it."""
    names = path.split("/")
    if {"", ".", ".."}.intersection(names) or "\0" in path:
        raise InputError(f"a manifest names a file outside its folder: {path!r}", hint=_AGAIN)
    return names


def _read_up_to(stream: IO[bytes], most_bytes: int) -> bytes:
    chunks, left_bytes = [], most_bytes
    while left_bytes and (chunk := stream.read(min(left_bytes, CHUNK_BYTES))):
        chunks.append(bytes(chunk))
        left_bytes -= len(chunk)
    return b"".join(chunks)


def is_url(text: str) -> bool:
    """Return whether the text is a URL, not a path on this machine."""
    return "://" in text


def store_of(where: str | Path) -> Store:
    """Return the store at a path or URL, which may be empty or missing; raises UsageError for an unknown URL scheme."""
    text = str(where)
    if isinstance(where, Path) or not is_url(text):
        return LocalStore(Path(where))
    scheme, _, place = text.partition("://")
    if scheme.lower() == "file":
        return LocalStore(Path(re.sub("^localhost(?=/)", "", place)))
    return _remote_store(f"{scheme.lower()}://{place}")


def _remote_store(url: str) -> RemoteStore:
    from fsspec.core import url_to_fs

    scheme, shown = url.partition("://")[0], without_password(url)
    if "?" in url:
        # A signed address is a password, and is valid for one file only.
        raise UsageError(
            f"{shown.partition('?')[0]}: the address has a query", hint="name the folder, without the ? and the rest"
        )
    # By default, fsspec shares file systems between callers, together with cached listings.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        if scheme in _WEB:
            from aiohttp import ClientTimeout

            # By default aiohttp aborts a file that takes over five minutes.
            timeout = ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
            options["client_kwargs"] = {"timeout": timeout}
        filesystem, root = url_to_fs(url, **options)
    except ImportError as error:
        install = f"prune-toolkit[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else "the package it names"
        raise UsageError(
            f"{shown}: {scheme}:// needs a package that is not installed ({error.name or error})",
            hint=f"pip install '{install}'" if scheme in _EXTRAS else f"install {install}",
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        known = "known schemes: s3://, gs://, hf://, http(s)://, file://"
        raise UsageError(f"{shown}: {without_password(str(error))}", hint=known) from None
    except Exception as error:
        # Some file systems connect on creation, and each raises its own errors.
        try:
            _tell(shown, error)
        except FileNotFoundError:
            raise InputError(f"{shown}: not found", hint="check the address") from None
    return RemoteStore(url, filesystem, root)


def without_password(url: str) -> str:
    """Return a URL, or text with one in it, for messages: without user and password, which may contain an @."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Turn errors of a remote file system into ours, except FileNotFoundError.

    Raises UnreachableError if the server did not answer completely, InputError if it denies access.
    """
    try:
        yield
    except (PruneError, AttributeError, NameError):
        raise
    except Exception as error:
        # Every file system has its own exceptions, from packages that may not be installed.
        _tell(where, error)


def _tell(where: str, error: Exception) -> NoReturn:
    cause = error.__cause__
    # The HTTP file system reports every failure as a missing file, with the reason as its cause.
    is_of_http = isinstance(cause, TimeoutError) or type(cause).__module__.partition(".")[0] == "aiohttp"
    if cause is None or not (is_of_http and isinstance(error, FileNotFoundError)):
        cause = error
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from None
    reason = without_password((str(cause) or type(cause).__name__).splitlines()[0])
    if isinstance(cause, PermissionError) or status in (401, 403) or "Credentials" in type(cause).__name__:
        hint = "check the address and the credentials"
        raise InputError(f"{where}: access is denied ({reason})", hint=hint) from None
    raise UnreachableError(f"{where}: {reason}", hint="check the address and the network") from None
