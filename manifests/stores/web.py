"""Manifests on web servers: a file is one stream, read on from the byte reached where the connection broke.

The server is asked for the rest (a range) if it names the version of the file by an ETag or a date; otherwise, or if it
sends the whole file again, what was read already must come again unchanged, byte for byte, and is left out.
"""

import errno
import hashlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote, urljoin, urlsplit

from manifests.base.files import CHUNK_BYTES
from manifests.errors import InputError, UsageError
from manifests.stores.addresses import UNKNOWN_SIZE, levels, without_password
from manifests.stores.failures import SlowError, StatusError
from manifests.stores.patience import Attempts, Patience
from manifests.stores.streams import read_up_to, sha256_of

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

SCHEMES = ("http", "https")
MOST_REDIRECTS = 5
FILL_S = 0.5
"""Time in which pieces of an answer are gathered into one block."""
LEAST_BYTES = 1024
"""That must come in one timeout: a server that sends a byte now and then would be waited for without end."""
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
VERSIONS = ("ETag", "Last-Modified")
_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+|\*)")


class WebStore:
    """A manifest's files on a web server; nothing is cached on disk."""

    is_local: Literal[False] = False

    def __init__(self, url: str, bounds: Patience) -> None:
        """Raises UsageError for a URL without a host, or whose port is not a number."""
        self.scheme = url.partition("://")[0]
        self.where = without_password(url).rstrip("/")
        self.patience = bounds
        self._client = WebClient(url, bounds)

    @property
    def folder(self) -> Path:
        """Raises UsageError: there is no folder."""
        raise UsageError(f"{self.where} is not on this machine", hint=f"pull it first: prune pull {self.where} DIR")

    def name(self, path: str) -> str:
        """Return the name of a file for messages."""
        return f"{self.where}/{path}"

    def size(self, path: str) -> int | None:
        """Return the bytes of a file or UNKNOWN_SIZE, None if it is missing; raises the errors of `Attempts`."""
        url = self._url(path)
        try:
            return self._attempts(path)(lambda: self._told_bytes(url))
        except FileNotFoundError:
            return None

    def _told_bytes(self, url: str) -> int:
        try:
            answer = self._client.ask("HEAD", url)
        except StatusError as error:
            if error.status == 404:
                raise
            # Some servers only know GET.
            answer = self._client.ask("GET", url)
        told = _length(answer)
        answer.close()
        return UNKNOWN_SIZE if told is None else told

    def read(self, path: str, most_bytes: int) -> bytes:
        """Read a file, at most one byte more than `most_bytes`; raises the errors of `Attempts`."""
        with self.open(path) as stream:
            return read_up_to(stream, most_bytes + 1)

    def open(self, path: str) -> "WebFile":
        """Open a file for reading; raises the errors of `Attempts`."""
        return WebFile(self._client, self._url(path), self._attempts(path))

    def sha256(self, path: str) -> str:
        """Return the hexadecimal sha256 of a file, read as a stream; raises the errors of `Attempts`."""
        with self.open(path) as stream:
            return sha256_of(stream)

    def _url(self, path: str) -> str:
        return "/".join([self._client.root, *levels(path)])

    def _attempts(self, path: str) -> Attempts:
        return Attempts(self.name(path), self.patience)


class WebClient:
    """Connections to web servers, shared by all files of a store."""

    def __init__(self, url: str, bounds: Patience) -> None:
        import urllib3

        parts = urlsplit(url)
        try:
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host:
            raise UsageError(
                f"{without_password(url)} is not the address of a web server", hint="for example https://example.org/m"
            )
        self._place = parts.scheme, parts.netloc.rpartition("@")[2]
        self.root = f"{parts.scheme}://{self._place[1]}{parts.path.rstrip('/')}"
        self._secret: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._secret = urllib3.make_headers(basic_auth=login)
        timeout = urllib3.Timeout(connect=bounds.timeout_s, read=bounds.timeout_s)
        self._pool = urllib3.PoolManager(maxsize=64, retries=False, timeout=timeout)

    def ask(self, method: str, url: str, headers: dict[str, str] | None = None) -> "BaseHTTPResponse":
        """Return an answer whose body was not read. Raises StatusError, and the errors of urllib3 for none."""
        for _ in range(MOST_REDIRECTS + 1):
            # The password is for the server that the user named, not for one that it names.
            secret = self._secret if urlsplit(url)[:2] == self._place else {}
            # A compressed body has other bytes than the file.
            sent = {"Accept-Encoding": "identity", **secret, **(headers or {})}
            # A HEAD has no body to leave unread, and so its connection is free again.
            answer = self._pool.request(method, url, headers=sent, redirect=False, preload_content=method == "HEAD")
            target = answer.get_redirect_location()
            if not target:
                if answer.status not in (200, 206):
                    answer.close()
                    raise StatusError(answer.status, dict(answer.headers))
                return answer
            answer.close()
            url = urljoin(url, target)
            if urlsplit(url).scheme not in SCHEMES:
                break
        raise InputError(f"{self.root} redirects too often, or to something else than a web server")


@dataclass
class _Beginning:
    """The beginning of a file that is sent again, which must be what it was."""

    left_bytes: int
    expected: bytes
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


class WebFile:
    """A file on a web server, read from its beginning to its end."""

    def __init__(self, client: WebClient, url: str, attempts: Attempts) -> None:
        self._client, self._url, self._attempts = client, url, attempts
        self._answer: BaseHTTPResponse | None = None
        self._block, self._digest, self._position = bytearray(), hashlib.sha256(), 0
        self._again: _Beginning | None = None
        self._version: dict[str, str] = {}
        """The headers of the first answer that name the version of the file."""
        self._total: int | None = None
        self._has_ranges = True
        self._waited_s, self._waited_bytes = 0.0, 0
        attempts(self._connect)

    def read(self, most_bytes: int) -> bytes:
        """Return up to `most_bytes`, none at the end.

        Raises the errors of `Attempts`, InputError if the file was replaced since the first byte.
        """
        self._attempts(lambda: self._fill(most_bytes))
        while self._again is not None:
            self._attempts(lambda: self._fill(most_bytes))
        data, self._block = bytes(self._block), bytearray()
        self._attempts.came(len(data))
        return data

    def __enter__(self) -> "WebFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _fill(self, most_bytes: int) -> None:
        """Read on for a moment. What came before an error stays in the block."""
        if self._answer is None:
            self._connect()
        answer, until = cast("BaseHTTPResponse", self._answer), time.monotonic() + FILL_S
        try:
            while len(self._block) < most_bytes and time.monotonic() < until:
                wanted = most_bytes - len(self._block) if self._again is None else self._again.left_bytes
                began = time.monotonic()
                piece = answer.read1(min(wanted, CHUNK_BYTES))
                self._waited_s += time.monotonic() - began
                self._waited_bytes += len(piece)
                if self._again is not None:
                    self._compare(self._again, piece)
                elif piece:
                    self._block += piece
                    self._digest.update(piece)
                    self._position += len(piece)
                else:
                    break
                self._check_pace()
        except BaseException:
            self._drop()
            raise

    def _check_pace(self) -> None:
        """Raise SlowError if too little came while one timeout was spent waiting."""
        timeout_s = self._attempts.bounds.timeout_s
        if self._waited_s < timeout_s:
            return
        if self._waited_bytes < LEAST_BYTES:
            raise SlowError(f"fewer than {LEAST_BYTES:,} bytes came in {timeout_s:g} s")
        self._waited_s, self._waited_bytes = 0.0, 0

    def _connect(self) -> None:
        """Ask for what is still to be read."""
        self._waited_s, self._waited_bytes = 0.0, 0
        version = next((value for value in self._version.values() if not value.startswith("W/")), None)
        is_rest = bool(self._position and version and self._has_ranges)
        asked = {"Range": f"bytes={self._position}-", "If-Range": str(version)} if is_rest else {}
        try:
            answer = self._client.ask("GET", self._url, asked)
        except StatusError as error:
            if not (asked and error.status == RANGE_NOT_SATISFIABLE):
                raise
            raise self._other_range() from None
        self._again = None
        if answer.status == PARTIAL_CONTENT and not self._is_rest(answer.headers):
            answer.close()
            raise self._other_range()
        if answer.status != PARTIAL_CONTENT and self._position:
            self._again = _Beginning(self._position, self._digest.digest())
        if not self._position:
            self._version = {name: answer.headers[name] for name in VERSIONS if name in answer.headers}
            self._total = _length(answer)
            # Ranges of a compressed body are not those of the file.
            self._has_ranges = answer.headers.get("Content-Encoding", "identity") == "identity"
        self._answer = answer

    def _is_rest(self, headers: Any) -> bool:
        """Return whether an answer is the rest of the same file."""
        found = _RANGE.fullmatch(headers.get("Content-Range", ""))
        is_same = all(headers.get(name, value) == value for name, value in self._version.items())
        is_whole = found is not None and (self._total is None or found["total"] == str(self._total))
        return found is not None and int(found["first"]) == self._position and is_same and is_whole

    def _other_range(self) -> ConnectionError:
        """Return an error that may pass: the next attempt asks for all of the file."""
        self._has_ranges = False
        return ConnectionError(errno.EPROTO, "another range came than the one that was asked for")

    def _compare(self, beginning: _Beginning, piece: bytes) -> None:
        """Leave out what was read before. Raises InputError if the file is another one now."""
        beginning.digest.update(piece)
        beginning.left_bytes -= len(piece)
        if beginning.left_bytes and piece:
            return
        if beginning.left_bytes or beginning.digest.digest() != beginning.expected:
            raise InputError(
                f"{self._attempts.where} was replaced while it was read", hint="run the same command again"
            )
        self._again = None


def _length(answer: "BaseHTTPResponse") -> int | None:
    """Return the bytes of the file that an answer announces, None if it does not."""
    text = answer.headers.get("Content-Length", "")
    is_plain = answer.headers.get("Content-Encoding", "identity") == "identity"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and is_plain else None
