"""Where the files of a manifest are: in a local folder, or at any URL that fsspec reads.

A store hands out whole files by their path inside the manifest. It follows no link in a local folder, so that a
manifest that somebody sent cannot name files of this machine.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from manifests.base.files import CHUNK_BYTES
from manifests.errors import InputError, PruneError, UnreachableError, UsageError

_AGAIN = "the manifest is incomplete or damaged: fetch or make it again"
_WEB = ("http", "https")
UNKNOWN_SIZE = -1
"""Size of a file at a URL, where the server does not tell it."""
TIMEOUT_S = 60
"""How long a web server may say nothing."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hub"}
"""Extra of this package that brings a file system, by the scheme of its URLs."""


class LocalStore:
    """A manifest's files in a folder; the folder may be a link, nothing inside it may."""

    is_local: Literal[True] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def name(self, path: str) -> str:
        """A file for messages."""
        return str(self.folder / path)

    def size(self, path: str) -> int | None:
        """Bytes of a file, None when there is none; InputError for a link or what is no file."""
        try:
            with self.open(path) as stream:
                return os.fstat(stream.fileno()).st_size
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def read(self, path: str, most_bytes: int) -> bytes:
        """A file, at most one byte more of it than asked for; OSError when it cannot be read."""
        with self.open(path) as stream:
            return stream.read(min(most_bytes, os.fstat(stream.fileno()).st_size) + 1)

    def open(self, path: str) -> BufferedReader:
        """A file to read from; OSError when it cannot be read, InputError for a link or what is no file."""
        *folders, name = levels(path)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                descriptor = self._step(descriptor, folder, os.O_DIRECTORY, path)
            # Without O_NONBLOCK a named pipe would be waited for.
            descriptor = self._step(descriptor, name, os.O_NONBLOCK, path)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name(path))
            if not stat.S_ISREG(mode):
                raise InputError(f"{self.name(path)} is no file", hint=_AGAIN)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def sha256(self, path: str) -> str:
        """Hexadecimal sha256 of a file; OSError when it cannot be read."""
        with self.open(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _step(self, descriptor: int, name: str, flags: int, path: str) -> int:
        """Open one level further down and close this one, following no link."""
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


class RemoteStore:
    """A manifest's files at a URL; nothing is kept on this disk."""

    is_local: Literal[False] = False

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")
        self.scheme = url.partition("://")[0]
        self.where = without_password(url).rstrip("/")

    @property
    def folder(self) -> Path:
        """UsageError: there is no folder."""
        raise UsageError(f"{self.where} is not on this machine", hint=f"pull it first: prune pull {self.where} DIR")

    def name(self, path: str) -> str:
        """A file for messages."""
        return f"{self.where}/{path}"

    def full(self, path: str) -> str:
        """A file as the file system calls it."""
        return "/".join([self.root, *levels(path)])

    def size(self, path: str) -> int | None:
        """Bytes of a file or UNTOLD, None when there is none; InputError when the other side refuses or is silent."""
        try:
            with answering(self.name(path)):
                return self._told_bytes(path)
        except FileNotFoundError:
            return None

    def read(self, path: str, most_bytes: int) -> bytes:
        """A file, at most one byte more of it than asked for; FileNotFoundError, or InputError as of `size`."""
        with answering(self.name(path)):
            # A web server may send more than it announced.
            if not self._is_http and 0 <= self._told_bytes(path) <= most_bytes:
                return bytes(self.filesystem.cat_file(self.full(path)))
            with self.open(path) as stream:
                return _read_up_to(stream, most_bytes + 1)

    def open(self, path: str) -> IO[bytes]:
        """A file to read from, in blocks: wrap the reading in `answering`."""
        with answering(self.name(path)):
            # Few web servers send ranges: of those the file comes in one stream.
            block_bytes = 0 if self._is_http else 8 << 20
            stream: IO[bytes] = self.filesystem.open(self.full(path), "rb", block_size=block_bytes)
            return stream

    def sha256(self, path: str) -> str:
        """Hexadecimal sha256 of a file, read as a stream; errors as of `read`."""
        digest = hashlib.sha256()
        with answering(self.name(path)), self.open(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _told_bytes(self, path: str) -> int:
        size_bytes = self.filesystem.info(self.full(path)).get("size")
        return UNKNOWN_SIZE if size_bytes is None else int(size_bytes)

    @property
    def _is_http(self) -> bool:
        return self.scheme in _WEB


Store = LocalStore | RemoteStore


def levels(path: str) -> list[str]:
    """Folders and name of a file inside a manifest; InputError for a path that leads out of it."""
    names = path.split("/")
    if {"", ".", ".."}.intersection(names) or "\0" in path:
        raise InputError(f"a manifest names a file outside of it: {path!r}", hint=_AGAIN)
    return names


def _read_up_to(stream: IO[bytes], most_bytes: int) -> bytes:
    chunks, left_bytes = [], most_bytes
    while left_bytes and (chunk := stream.read(min(left_bytes, CHUNK_BYTES))):
        chunks.append(bytes(chunk))
        left_bytes -= len(chunk)
    return b"".join(chunks)


def is_url(text: str) -> bool:
    """Whether it names a place by URL, and not by a path on this machine."""
    return "://" in text


def store_of(where: str | Path) -> Store:
    """The store at a path or URL, which may be empty or not there yet; UsageError for a URL of unknown kind."""
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
        # A signed address is a password, and holds for one file only.
        raise UsageError(
            f"{shown.partition('?')[0]}: the address has a query", hint="name the folder, without what follows the ?"
        )
    # A file system is shared by all that name it alike, with what it once listed, unless told otherwise.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        if scheme in _WEB:
            from aiohttp import ClientTimeout

            # By default a file that takes over five minutes is given up.
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
        known = "known are s3://, gs://, hf://, http(s)://, file://"
        raise UsageError(f"{shown}: {without_password(str(error))}", hint=known) from None
    except Exception as error:
        # Some look at the other side while they are made, each with errors of its own.
        try:
            _tell(shown, error)
        except FileNotFoundError:
            raise InputError(f"{shown}: there is no such place", hint="check the address") from None
    return RemoteStore(url, filesystem, root)


def without_password(url: str) -> str:
    """A URL, or text with one in it, for messages: without user and password, which may hold an @ itself."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Turn what a remote file system raises into errors of ours; FileNotFoundError stays what it is.

    UnreachableError when the other side did not answer to the end, InputError when it refuses.
    """
    try:
        yield
    except (PruneError, AttributeError, NameError):
        raise
    except Exception as error:
        # Every file system has exceptions of its own, of packages that need not be installed.
        _tell(where, error)


def _tell(where: str, error: Exception) -> NoReturn:
    cause: BaseException = error
    if isinstance(error, FileNotFoundError) and _is_of_http(error.__cause__):
        # HTTP calls whatever goes wrong a missing file, and keeps the reason as its cause.
        cause = error.__cause__ or error
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from None
    reason = without_password((str(cause) or type(cause).__name__).splitlines()[0])
    if isinstance(cause, PermissionError) or status in (401, 403) or "Credentials" in type(cause).__name__:
        hint = "check the address and the credentials"
        raise InputError(f"{where}: access is denied ({reason})", hint=hint) from None
    raise UnreachableError(f"{where}: {reason}", hint="check the address and the network") from None


def _is_of_http(cause: BaseException | None) -> bool:
    return isinstance(cause, TimeoutError) or type(cause).__module__.partition(".")[0] == "aiohttp"
