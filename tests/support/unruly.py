"""A web server of files in memory that misbehaves as it is told, answer by answer, and records what it was asked."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler", bytes], None]
"""Answers a GET for a file of these bytes."""


@dataclass
class Unruly:
    """What the server holds, how it answers, and what it was asked."""

    files: dict[str, bytes]
    answers: list[Answer] = field(default_factory=list)
    """For the next GETs, one each; afterwards it behaves."""
    has_ranges: bool = True
    etag: str | None = '"v1"'
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request, their names in lower case."""
    is_done: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def gets(self) -> list[str | None]:
        """The range of each GET."""
        return [range_ for method, _, range_ in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "Server"

    def log_message(self, *_: object) -> None: ...

    def begin(self, status: int, size_bytes: int, **headers: str) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in {"Content-Length": str(size_bytes), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if (etag := self.server.unruly.etag) is not None and "ETag" not in headers:
            self.send_header("ETag", etag)
        self.end_headers()

    def reset(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        unruly = self.server.unruly
        with self.server.lock:
            unruly.asked.append((method, self.path, self.headers.get("Range")))
            unruly.headers.append({name.lower(): value for name, value in self.headers.items()})
            answer = unruly.answers.pop(0) if method == "GET" and unruly.answers else whole
        data = unruly.files.get(self.path.lstrip("/"))
        if data is None:
            self.send_error(404)
        elif method == "HEAD":
            self.begin(200, len(data))
        else:
            answer(self, data)


def whole(handler: Handler, data: bytes) -> None:
    """Send the file, or the range that was asked for."""
    unruly, range_ = handler.server.unruly, handler.headers.get("Range")
    if range_ is None or not unruly.has_ranges or handler.headers.get("If-Range") not in (None, unruly.etag):
        handler.begin(200, len(data))
        handler.wfile.write(data)
        return
    first = int(range_.removeprefix("bytes=").removesuffix("-"))
    if first >= len(data):
        handler.begin(416, 0)
        return
    handler.begin(206, len(data) - first, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
    handler.wfile.write(data[first:])


def cut(at: int) -> Answer:
    """Announce all, or the rest that was asked for, and close after `at` bytes of it."""

    def answer(handler: Handler, data: bytes) -> None:
        first = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if first and handler.server.unruly.has_ranges:
            handler.begin(206, len(data) - first, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
            data = data[first:]
        else:
            handler.begin(200, len(data))
        handler.wfile.write(data[:at])

    return answer


def silent(handler: Handler, data: bytes) -> None:
    """Send nothing."""
    handler.server.unruly.is_done.wait(20)


def silent_after(at: int) -> Answer:
    """Send the first `at` bytes and then nothing."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.begin(200, len(data))
        handler.wfile.write(data[:at])
        handler.server.unruly.is_done.wait(20)

    return answer


def reset(handler: Handler, data: bytes) -> None:
    """Reset the connection."""
    handler.reset()


def status(code: int, **headers: str) -> Answer:
    """Answer with a status."""
    return lambda handler, data: handler.begin(code, 0, **headers)


def says(code: int, body: bytes, **headers: str) -> Answer:
    """Answer with any bytes and headers."""

    def answer(handler: Handler, data: bytes) -> None:
        handler.begin(code, len(body), **headers)
        handler.wfile.write(body)

    return answer


def dripping(handler: Handler, data: bytes) -> None:
    """Send a byte now and then."""
    handler.begin(200, len(data))
    for byte in data:
        handler.wfile.write(bytes([byte]))
        if handler.server.unruly.is_done.wait(0.02):
            return


class Server(ThreadingHTTPServer):
    """The server; connections that break are no news."""

    daemon_threads = True

    def __init__(self, unruly: Unruly) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.unruly, self.lock = unruly, threading.Lock()

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Unruly]:
    """Serve files; the server's address is in `url`."""
    unruly = Unruly(files)
    server = Server(unruly)
    unruly.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield unruly
    finally:
        unruly.is_done.set()
        server.shutdown()
        thread.join()
        server.server_close()
