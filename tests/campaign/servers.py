"""A web server of a folder that lies: about lengths and bytes, by redirects, by packing, by silence."""

import gzip
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from mutating import damaged

Answer = Callable[["Handler", bytes], None]
ENDLESS_BYTES = 8 << 30
"""An endless body ends there, in case nobody hangs up."""
SILENT_S, DRIP_S = 60.0, 0.5
CHUNK = bytes(1 << 20)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def begin(self, status: int, size_bytes: int | None, **headers: str) -> None:
        """Send status and headers."""
        self.send_response(status)
        if size_bytes is not None:
            self.send_header("Content-Length", str(size_bytes))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.server.folder / self.path.split("?")[0].lstrip("/")
        if not self.server.is_good(path) and not path.is_file():
            self.begin(404, 0)
            return
        data = path.read_bytes() if path.is_file() else b""
        if self.server.lies(path):
            self.server.answer(self, data)
        else:
            whole(self, data)

    def reset(self) -> None:
        """Reset the connection."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def body(self, data: bytes) -> None:
        """Send a body, unless only headers were asked for."""
        if self.command != "HEAD":
            self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Serves a folder; of the files that `lies` names it answers `answer`. Connections that break are no news."""

    daemon_threads = True

    def __init__(self, folder: Path, lies: Callable[[Path], bool], answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.lies, self.answer = folder, lies, answer
        self.is_done = threading.Event()

    def is_good(self, path: Path) -> bool:
        """Return whether a path is of the folder, whatever is asked for."""
        return self.folder in path.resolve().parents and path.is_file()

    def handle_error(self, *_: object) -> None: ...

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path, lies: Callable[[Path], bool], answer: Answer) -> Iterator[str]:
    """Serve a folder; gives the address."""
    server = Server(folder, lies, answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.is_done.set()
        server.shutdown()
        thread.join()
        server.server_close()


def whole(handler: Handler, data: bytes) -> None:
    """Send the file, or the range that was asked for."""
    asked = handler.headers.get("Range", "")
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        handler.begin(200, len(data))
        handler.body(data)
        return
    end = min(len(data), int(last) + 1 if last else len(data))
    handler.begin(206, end - int(first), Content_Range=f"bytes {first}-{end - 1}/{len(data)}")
    handler.body(data[int(first) : end])


def announces_more(handler: Handler, data: bytes) -> None:
    """Announce more bytes than are sent."""
    handler.begin(200, len(data) + 1000)
    handler.body(data)


def announces_less(handler: Handler, data: bytes) -> None:
    """Announce half, and send all."""
    handler.begin(200, len(data) // 2)
    handler.body(data)


def announces_nothing(handler: Handler, data: bytes) -> None:
    """Send two thirds without a length, and hang up."""
    handler.begin(200, None)
    handler.body(data[: len(data) * 2 // 3])


def no_number(handler: Handler, data: bytes) -> None:
    """Announce a length that is none, or negative, or one above all disks."""
    handler.begin(200, None, Content_Length=Random(len(data)).choice(["x", "-1", "99999999999999999999", "1, 2", ""]))
    handler.body(data)


def other_bytes(handler: Handler, data: bytes) -> None:
    """Send damaged bytes, their number announced rightly."""
    content = damaged(data, Random(len(data)))
    handler.begin(200, len(content))
    handler.body(content)


def another_each_time(handler: Handler, data: bytes) -> None:
    """Send other bytes of the same number at each request."""
    content = Random(os.urandom(8)).randbytes(len(data))
    handler.begin(200, len(content))
    handler.body(content)


def endless(handler: Handler, data: bytes) -> None:
    """Send the file, and zeros without end, nothing announced."""
    handler.begin(200, None)
    handler.body(data)
    for _ in range(ENDLESS_BYTES // len(CHUNK)):
        handler.body(CHUNK)


def endless_headers(handler: Handler, _data: bytes) -> None:
    """Send headers without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(200_000):
        handler.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 500))


def redirected_without_end(handler: Handler, _data: bytes) -> None:
    """Redirect to itself."""
    handler.begin(302, 0, Location=handler.path)


def redirected_to(place: str) -> Answer:
    """Redirect to a place."""

    def redirected(handler: Handler, _data: bytes) -> None:
        handler.begin(302, 0, Location=place)

    redirected.__name__ = f"redirected_to {place}"
    return redirected


def html(handler: Handler, _data: bytes) -> None:
    """Answer 200 with a page of a login."""
    page = b"<!DOCTYPE html><html><script>alert(1)</script>Log in</html>" * 20
    handler.begin(200, len(page), Content_Type="text/html")
    handler.body(page)


def packed_bomb(handler: Handler, _data: bytes) -> None:
    """Send a few megabytes that unpack to gigabytes."""
    packed = gzip.compress(bytes(64 << 20), 9) * 64
    handler.begin(200, len(packed), Content_Encoding="gzip", Content_Type="application/json")
    handler.body(packed)


def packed_wrongly(handler: Handler, data: bytes) -> None:
    """Say that it is packed, which it is not."""
    handler.begin(200, len(data), Content_Encoding=Random(len(data)).choice(["gzip", "deflate", "br", "x"]))
    handler.body(data)


def reset(handler: Handler, data: bytes) -> None:
    """Send a half and reset the connection."""
    handler.begin(200, len(data))
    handler.body(data[: len(data) // 2])
    handler.reset()


def no_http(handler: Handler, _data: bytes) -> None:
    """Answer in no protocol."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\0\xff\x1b[2J")
    handler.reset()


def status(code: int) -> Answer:
    """Answer with a status."""

    def answered(handler: Handler, data: bytes) -> None:
        handler.begin(code, len(data))
        handler.body(data)

    answered.__name__ = f"status {code}"
    return answered


def wrong_range(handler: Handler, data: bytes) -> None:
    """Answer another range than was asked for."""
    handler.begin(206, len(data), Content_Range=f"bytes 5-{len(data) + 4}/{len(data) * 9}")
    handler.body(data)


def silent(handler: Handler, _data: bytes) -> None:
    """Say nothing."""
    handler.server.is_done.wait(SILENT_S)


def half_then_silent(handler: Handler, data: bytes) -> None:
    """Send a half and then nothing."""
    handler.begin(200, len(data))
    handler.body(data[: len(data) // 2])
    handler.server.is_done.wait(SILENT_S)


def dripping(handler: Handler, data: bytes) -> None:
    """Send a byte now and then."""
    handler.begin(200, len(data))
    for byte in data:
        handler.body(bytes([byte]))
        if handler.server.is_done.wait(DRIP_S):
            return


LYING: tuple[Answer, ...] = (
    announces_more, announces_less, announces_nothing, no_number, other_bytes, another_each_time, endless,
    endless_headers, redirected_without_end, redirected_to("file:///etc/passwd"), redirected_to("http://127.0.0.1:9/"),
    redirected_to("ftp://127.0.0.1/x"), redirected_to("http://[::/"), redirected_to("/dev/null"), html, packed_bomb,
    packed_wrongly, reset, no_http, status(204), status(401), status(404), status(500), status(999), wrong_range,
)  # fmt: skip
SILENT: tuple[Answer, ...] = (silent, half_then_silent, dripping)
