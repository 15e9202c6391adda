"""Servers that are silent, busy or cut connections: what is told, asked again, and read on."""

import hashlib
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import fsspec
import pytest
import unruly
from hypothesis import given
from hypothesis import strategies as st
from made_manifests import make, some_logits
from unruly import Unruly, serving

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.errors import IncompleteError, InputError, UnreachableError, UsageError
from manifests.format.header import FileEntry
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.share.transfer import pull
from manifests.stores.failures import StatusError, may_pass, reason_of, retry_after_s, status_of
from manifests.stores.patience import ANEW_BYTES, Attempts, Patience, patience, patient
from manifests.stores.store import RemoteStore, store_of
from manifests.stores.timeouts import timeout_options
from manifests.stores.web import WebStore

DATA = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[Unruly]:
    with serving({"file": DATA}) as found:
        yield found


def read(server: Unruly, timeout_s: float | None = None) -> bytes:
    return store_of(server.url, timeout_s).read("file", len(DATA))


def test_an_answer_is_not_asked_for_twice_and_nothing_is_told(
    server: Unruly, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(server) == DATA
    assert server.asked == [("GET", "/file", None)]
    assert capsys.readouterr().err == ""


def test_a_silent_server_is_waited_for_told_and_given_up(server: Unruly, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [unruly.silent] * 4
    with patient(Patience(0.2, (0.0, 0.0, 0.0), tell_after_s=0.05)), pytest.raises(UnreachableError) as error:
        read(server)
    assert error.value.message == f"{server.url}/file: no answer for 0.2 s (4 attempts)"
    assert "--timeout SECONDS" in str(error.value.hint)
    waiting = f"waiting for {server.url}/file (no answer for 0.05 s, at most 0.2 s)"
    again = f"{server.url}/file: no answer for 0.2 s; trying again in 0 s"
    assert capsys.readouterr().err.splitlines() == [
        *(line for number in (2, 3, 4) for line in (waiting, f"{again} ({number} of 4)")),
        waiting,
    ]


def test_silence_in_the_middle_of_a_file_is_also_told(server: Unruly, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [unruly.silent_after(1000)]
    with patient(Patience(0.2, (0.0,), tell_after_s=0.05)):
        assert read(server) == DATA
    assert server.gets == [None, "bytes=1000-"]
    assert "waiting for" in capsys.readouterr().err


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server: Unruly) -> None:
    server.answers = [unruly.dripping] * 4
    with patient(Patience(0.2, (0.0, 0.0, 0.0))), pytest.raises(UnreachableError) as error:
        read(server)
    assert error.value.message == f"{server.url}/file: fewer than 1,024 bytes came in 0.2 s (4 attempts)"


def test_a_password_is_in_no_line_and_is_sent(server: Unruly, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [unruly.silent]
    url = server.url.replace("://", "://anna:hunt%40er2@")
    with patient(Patience(0.2, (0.0,), tell_after_s=0.05)):
        assert store_of(url).read("file", len(DATA)) == DATA
    told = capsys.readouterr().err
    assert f"waiting for {server.url}/file" in told
    assert "hunt" not in told
    assert server.headers[-1]["authorization"] == "Basic YW5uYTpodW50QGVyMg=="


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (unruly.reset, "connection reset by peer"),
        (unruly.status(429), "429 Too Many Requests"),
        (unruly.status(500), "500 Internal Server Error"),
        (unruly.status(502), "502 Bad Gateway"),
        (unruly.status(503), "503 Service Unavailable"),
        (unruly.status(504), "504 Gateway Timeout"),
        (unruly.cut(17), "the answer ended before all of it had come"),
    ],
)
def test_what_may_pass_is_asked_for_again(
    server: Unruly, answer: unruly.Answer, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [answer] * 3
    assert read(server) == DATA
    assert len(server.asked) == 4
    assert capsys.readouterr().err.splitlines() == [
        f"{server.url}/file: {reason}; trying again in 0 s ({number} of 4)" for number in (2, 3, 4)
    ]


def test_after_four_attempts_the_last_failure_is_told(server: Unruly) -> None:
    server.answers = [unruly.status(503)] * 4
    with pytest.raises(UnreachableError, match=r"/file: 503 Service Unavailable \(4 attempts\)"):
        read(server)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("code", "error"),
    [(404, FileNotFoundError), (410, FileNotFoundError), (401, InputError), (403, InputError), (400, UnreachableError)],
)
def test_a_refusal_is_final(server: Unruly, code: int, error: type[Exception]) -> None:
    server.answers = [unruly.status(code)]
    with pytest.raises(error) as told:
        read(server)
    assert "attempts" not in str(told.value)
    assert len(server.asked) == 1


def test_a_name_that_does_not_resolve_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError) as error:
        Manifest.open("http://no.such.host/m")
    assert error.value.message == "http://no.such.host/m/manifest.json: name or service not known"
    assert error.value.hint == "check the address and the network"
    assert asked == ["no.such.host"]


def slept(server: Unruly, waits_s: tuple[float, ...] = (1.0, 2.0, 4.0), timeout_s: float = 60) -> list[float]:
    found: list[float] = []
    with patient(Patience(timeout_s, waits_s, sleep=found.append)):
        assert read(server) == DATA
    return found


def test_pauses_double_and_are_a_little_longer_by_chance(server: Unruly) -> None:
    server.answers = [unruly.status(503)] * 3
    for base_s, found_s in zip((1, 2, 4), slept(server), strict=True):
        assert base_s <= found_s <= 1.25 * base_s


def test_a_server_is_asked_again_when_it_says_but_no_later_than_the_timeout(server: Unruly) -> None:
    server.answers = [unruly.status(429, Retry_After="7"), unruly.status(503, Retry_After="0"),
                      unruly.status(503, Retry_After="99999")]  # fmt: skip
    first, second, third = slept(server)
    assert first == 7
    assert 2 <= second <= 2.5
    assert third == 60


def test_a_date_to_return_at_is_understood() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after_s(StatusError(503, {"Retry-After": soon})) <= 30
    past, far = "Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 +99999999999999999999"
    for text in (past, far, "-5", "soon", "\N{SUPERSCRIPT TWO}", ""):
        assert retry_after_s(StatusError(503, {"Retry-After": text})) == 0
    said = {"ResponseMetadata": {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "12"}}}
    error = OSError("Please reduce your request rate")
    error.__cause__ = ClientError(said)
    assert (status_of(error), retry_after_s(error), may_pass(error)) == (503, 12, True)
    assert reason_of(error, 1) == "503 Service Unavailable Please reduce your request rate"


class ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, response: dict) -> None:
        super().__init__("An error occurred")
        self.response = response


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 86_401])
def test_a_timeout_is_a_time(timeout_s: float) -> None:
    with pytest.raises(UsageError, match=r"--timeout .* is not a time in seconds, above 0 and at most 86,400"):
        store_of("http://127.0.0.1:1/m", timeout_s)


def test_stores_take_the_patience_of_the_block_they_are_opened_in() -> None:
    before = patience()
    with patient(Patience(7)):
        assert (patience().timeout_s, patience(3).timeout_s) == (7, 3)
        store = store_of("http://127.0.0.1:1/m")
    assert isinstance(store, WebStore)
    assert store.patience.timeout_s == 7
    assert patience() == before


@given(st.lists(st.integers(0, len(DATA)), max_size=3), st.booleans(), st.sampled_from(['"v1"', 'W/"v1"', None]))
def test_a_file_cut_anywhere_arrives_whole(server_cuts: list[int], has_ranges: bool, etag: str | None) -> None:
    with serving({"file": DATA}) as server:
        server.has_ranges, server.etag = has_ranges, etag
        server.answers = [unruly.cut(at) for at in server_cuts]
        assert read(server) == DATA
        # A range is asked for where the server names the version of the file, and from the byte that was reached.
        if has_ranges and etag == '"v1"':
            reached, expected = 0, []
            for at in server_cuts:
                expected.append(f"bytes={reached}-" if reached else None)
                reached += min(at, len(DATA) - reached)
                if reached == len(DATA):
                    break
            else:
                expected.append(f"bytes={reached}-" if reached else None)
            assert server.gets == expected
        elif etag != '"v1"':
            assert set(server.gets) == {None}


REST = {"Content_Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"}
LIES = {
    "another start": unruly.says(206, DATA[900:], Content_Range=f"bytes 900-{len(DATA) - 1}/{len(DATA)}"),
    "another length": unruly.says(206, DATA[1000:], Content_Range=f"bytes 1000-{len(DATA) - 1}/{len(DATA) + 1}"),
    "another version": unruly.says(206, DATA[1000:], ETag='"v2"', **REST),
    "no range": unruly.says(206, DATA[1000:]),
    "a range of anything": unruly.says(206, DATA[1000:], Content_Range="bytes abc"),
    "not satisfiable": unruly.status(416),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_range_that_is_not_the_rest_of_the_file_is_not_used(server: Unruly, lie: str) -> None:
    server.answers = [unruly.cut(1000), LIES[lie]]
    assert read(server) == DATA
    assert server.gets == [None, "bytes=1000-", None]


def test_a_range_with_other_bytes_is_found_by_its_digest(tmp_path: Path) -> None:
    made = make(tmp_path / "made", ["a", "b"], [0, 1])
    path = "samples/part-00000.parquet"
    with serving(contents(made)) as server:
        data = server.files[path]
        forged = bytes(len(data) - 10)
        server.answers = [unruly.whole, unruly.cut(10),
                          unruly.says(206, forged, Content_Range=f"bytes 10-{len(data) - 1}/{len(data)}")]  # fmt: skip
        with pytest.raises(InputError, match="was altered"):
            pull(server.url, tmp_path / "pulled", jobs=1)
    assert not (tmp_path / "pulled" / "manifest.json").exists()


def test_a_range_larger_than_the_file_takes_no_memory(server: Unruly) -> None:
    most = len(DATA)
    server.answers = [unruly.cut(1000), unruly.says(206, bytes(1 << 24), **REST)]
    assert len(store_of(server.url).read("file", most)) == most + 1


def test_a_file_replaced_while_it_is_read_is_not_mixed(server: Unruly) -> None:
    for has_ranges in (True, False):
        server.has_ranges, server.files["file"], server.etag = has_ranges, DATA, '"v1"'
        server.answers = [unruly.cut(1000), lambda handler, data: replaced(handler)]
        with pytest.raises(InputError, match="file was replaced while it was read") as error:
            read(server)
        assert type(error.value) is InputError


def replaced(handler: unruly.Handler) -> None:
    handler.server.unruly.etag = '"v2"'
    unruly.whole(handler, b"x" * len(DATA))


def test_a_compressed_answer_is_unpacked_and_never_read_on_by_a_range(server: Unruly) -> None:
    import gzip

    packed = gzip.compress(DATA)

    def half(handler: unruly.Handler, data: bytes) -> None:
        handler.begin(200, len(packed), Content_Encoding="gzip")
        handler.wfile.write(packed[: len(packed) // 2])

    server.answers = [half, unruly.says(200, packed, Content_Encoding="gzip")]
    assert read(server) == DATA
    assert server.gets == [None, None]


def test_a_small_answer_that_unpacks_to_a_large_file_takes_no_memory(server: Unruly) -> None:
    import gzip

    server.answers = [unruly.says(200, gzip.compress(bytes(64 << 20)), Content_Encoding="gzip")]
    store = store_of(server.url)
    tracemalloc.start()
    try:
        assert store.read("file", 1000) == bytes(1001)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_beton_without_end_is_read_no_further_than_the_header_says(tmp_path: Path) -> None:
    made = make(tmp_path / "made", ["a", "b"], [0, 1])
    beton = FileEntry(path=BETON_NAME, rows=2, bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
    header = made.header.model_copy(update={"files": [*made.header.files, beton]})
    sent = 0

    def endless(handler: unruly.Handler, data: bytes) -> None:
        nonlocal sent
        # Without a length, the body ends with the connection.
        handler.send_response(200)
        handler.end_headers()
        while sent < 1 << 30:
            sent += handler.wfile.write(data * 100)

    files = {**contents(made), HEADER_NAME: header.model_dump_json(exclude_none=True).encode(), BETON_NAME: DATA}
    with serving(files) as server:
        assert verify(server.url).ok
        server.answers = [unruly.whole] * len(files)
        server.answers[-1] = endless
        report = verify(server.url)
    assert [(finding.path, "sha256" in finding.problem) for finding in report.findings] == [(BETON_NAME, True)]
    assert sent < 1 << 30


def test_attempts_are_counted_anew_after_many_bytes() -> None:
    attempts = Attempts("there", Patience(1, (0.0,)))
    attempts._pause(ConnectionResetError())
    attempts.came(ANEW_BYTES)
    attempts._pause(ConnectionResetError())
    with pytest.raises(UnreachableError):
        attempts._pause(ConnectionResetError())


def test_redirects_are_followed_a_few_times_and_take_no_password_along(server: Unruly) -> None:
    with serving({"elsewhere": DATA}) as other:
        server.answers = [unruly.status(302, Location=f"{other.url}/elsewhere")]
        assert store_of(server.url.replace("://", "://u:p@")).read("file", len(DATA)) == DATA
        assert "authorization" in server.headers[0]
        assert "authorization" not in other.headers[0]
    server.answers = [unruly.status(302, Location="/file")] * 9
    with pytest.raises(InputError, match="redirects too often"):
        read(server)
    server.answers = [unruly.status(302, Location="file:///etc/passwd")]
    with pytest.raises(InputError, match="or to something else than a web server"):
        read(server)


def contents(manifest: Manifest) -> dict[str, bytes]:
    paths = [path for path in manifest.folder.rglob("*") if path.is_file()]
    return {path.relative_to(manifest.folder).as_posix(): path.read_bytes() for path in paths}


def test_a_pull_that_broke_does_not_fetch_finished_files_again(tmp_path: Path) -> None:
    made = make(tmp_path / "made", ["a", "b", "c"], [0, 1, 0], some_logits(0, 2, 3, 2))
    with serving(contents(made)) as server:
        entries = len(made.header.files)
        server.answers = [unruly.whole] * entries + [unruly.status(503)] * 4
        with pytest.raises(IncompleteError, match=r"503 Service Unavailable \(4 attempts\)") as error:
            pull(server.url, tmp_path / "pulled", jobs=1)
        assert str(error.value.hint).endswith("; the same command resumes")
        fetched = {path for method, path, _ in server.asked if method == "GET"}
        server.asked.clear()
        _, moved = pull(server.url, tmp_path / "pulled", jobs=1)
        assert moved.there == entries - 1
        assert len(server.asked) == 2
        assert len(fetched) == entries + 1
    assert verify(tmp_path / "pulled").ok


def test_a_pull_of_a_large_file_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.share.transfer.WHOLE_BYTES", 10)
    made = make(tmp_path / "made", ["a", "b", "c"], [0, 1, 0])
    with serving(contents(made)) as server:
        server.answers = [unruly.whole, unruly.cut(100), unruly.cut(100)]
        pull(server.url, tmp_path / "pulled", jobs=1)
        assert server.gets[1:4] == [None, "bytes=100-", "bytes=200-"]
    assert verify(tmp_path / "pulled").ok


class Breaking(fsspec.get_filesystem_class("memory")):
    """A file system whose next reads break, each after it has lost its place."""

    breaks = 0

    def cat_file(self, path: str, **options: object) -> bytes:
        self._break()
        return super().cat_file(path, **options)

    def _break(self) -> None:
        if Breaking.breaks:
            Breaking.breaks -= 1
            raise ConnectionResetError(104, "Connection reset by peer")

    def open(self, path: str, *args: object, **options: object) -> object:
        stream, outer = super().open(path, *args, **options), self

        class Stream:
            tell, seek, close = stream.tell, stream.seek, stream.close

            def read(self, most_bytes: int) -> bytes:
                data = stream.read(most_bytes)
                outer._break()
                return data

        return Stream()


def test_files_of_other_file_systems_are_read_on_where_they_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = Breaking()
    filesystem.pipe_file("/patience/file", DATA)
    store = RemoteStore("memory://patience", filesystem, "/patience")
    for block_bytes in (1 << 20, 100):
        monkeypatch.setattr("manifests.stores.store.BLOCK_BYTES", block_bytes)
        Breaking.breaks = 3
        assert store.read("file", len(DATA)) == DATA
    Breaking.breaks = 4
    with pytest.raises(UnreachableError, match=r"memory://patience/file: connection reset by peer \(4 attempts\)"):
        store.read("file", len(DATA))
    Breaking.breaks = 0


def test_the_timeout_reaches_the_libraries_and_they_do_not_multiply_attempts() -> None:
    store = store_of("s3://bucket/m", 7)
    assert isinstance(store, RemoteStore)
    config = store.filesystem.config_kwargs
    assert (config["connect_timeout"], config["read_timeout"], config["retries"]) == (7, 7, {"total_max_attempts": 1})
    assert store.filesystem.retries == 1
    timeout = timeout_options("gs", 7)["session_kwargs"]["timeout"]
    assert (timeout.total, timeout.sock_connect, timeout.sock_read) == (None, 7, 7)
    assert RemoteStore("gs://b/m", None, "b/m").patience.waits_s == ()


def test_the_timeout_reaches_the_library_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 10)
    timeout_options("hf", 6.5)
    assert (constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT) == (7, 7)


def test_a_silent_bucket_is_given_up_after_four_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(UnreachableError, match=r"m/manifest\.json: no answer for 0\.1 s \(4 attempts\)"):
            Manifest.open("s3://bucket/m", timeout_s=0.1)


def test_who_is_told_to_stop_does_not_wait_for_servers(tmp_path: Path) -> None:
    from manifests.share.transfer import _in_parallel

    never = threading.Event()

    def stop(item: int) -> int:
        if item:
            raise KeyboardInterrupt
        never.wait(20)
        return 0

    with pytest.raises(KeyboardInterrupt):
        _in_parallel(stop, [0, 1], 2, "pulling")
    assert not never.is_set()
    never.set()


def test_one_attempt_is_the_same_patience_without_pauses() -> None:
    assert Patience(7).once == replace(Patience(7), waits_s=())
