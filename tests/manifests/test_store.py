import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from made_manifests import content_of, make, some_logits
from s3 import Bucket

from manifests.errors import InputError, UnreachableError, UsageError
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.share.transfer import pull
from manifests.stores.store import LocalStore, RemoteStore, store_of

KEYS = ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "manifest", KEYS, [0, 0, 1], some_logits(0, 2, 3, 3))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(manifest: Manifest) -> Iterator[Callable[[type], str]]:
    """Serve the manifest's folder with a handler; its address."""
    servers = []

    def serve(handler: type = _Quiet) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(manifest.folder)))
        servers.append((server, threading.Thread(target=server.serve_forever)))
        servers[-1][1].start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def upload(manifest: Manifest, bucket: Bucket, folder: str = "m") -> str:
    """Put a manifest into a bucket past the tool."""
    for path in manifest.folder.rglob("*"):
        if path.is_file():
            bucket.put(f"{folder}/{path.relative_to(manifest.folder).as_posix()}", path.read_bytes())
    return f"{bucket.url}/{folder}"


def test_a_manifest_at_a_url_reads_as_the_folder_does(manifest: Manifest, bucket: Bucket, web: Callable) -> None:
    for url in (upload(manifest, bucket), web(), f"file://{manifest.folder}"):
        there = Manifest.open(url)
        assert there.id == manifest.id
        assert content_of(there) == content_of(manifest)
        assert [ids.tolist() for ids, _ in there.logits(1)] == [[0, 1, 2]]
        assert verify(url).ok


def test_a_manifest_at_a_url_has_no_folder_no_beton_and_no_local_facts(manifest: Manifest, web: Callable) -> None:
    there = Manifest.open(web())
    assert (there.beton_path, there.local, there.not_pulled) == (None, {}, frozenset())
    for name in ("folder", "path"):
        with pytest.raises(UsageError, match=f"{there.where} is not on this machine") as error:
            getattr(there, name)
        assert error.value.hint == f"pull it first: prune pull {there.where} DIR"


def test_nothing_is_read_but_what_is_asked_for(manifest: Manifest, web: Callable) -> None:
    asked = []

    class Counting(_Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    there = Manifest.open(web(Counting))
    there.samples(["key"])
    assert asked == ["/manifest.json", "/samples/part-00000.parquet"]


def test_a_table_at_a_url_is_copied_into_a_folder(manifest: Manifest, web: Callable, tmp_path: Path) -> None:
    Manifest.open(web()).link_table("scores/teacher", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    assert path.read_bytes() == (manifest.folder / "scores/teacher/part-00000.parquet").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_an_altered_part_at_a_url_is_an_input_error(manifest: Manifest, bucket: Bucket, damage: str) -> None:
    url = upload(manifest, bucket)
    content = bytearray(bucket.get("m/samples/part-00000.parquet"))
    content[len(content) // 2] ^= 1
    bucket.put(
        "m/samples/part-00000.parquet",
        {"flip": bytes(content), "cut": bytes(content[:-1]), "grow": bytes(content + b"x")}[damage],
    )
    with pytest.raises(InputError, match=r"samples/part-00000\.parquet was altered"):
        Manifest.open(url).samples()
    assert [finding.path for finding in verify(url).findings] == ["samples/part-00000.parquet"]


def test_more_than_the_header_says_is_never_taken_into_memory(manifest: Manifest, web: Callable) -> None:
    class Endless(_Quiet):
        sent = 0

        def do_HEAD(self) -> None:
            self.send_error(405)

        def do_GET(self) -> None:
            if self.path.endswith(".json"):
                super().do_GET()
                return
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(1 << 12):
                    self.wfile.write(bytes(1 << 16))
                    Endless.sent += 1 << 16
            except OSError:
                self.close_connection = True

    with pytest.raises(InputError, match="has more bytes, the header says"):
        Manifest.open(web(Endless)).samples()
    assert Endless.sent < 1 << 27


def test_a_missing_manifest_is_told_as_one_wherever_it_is_missing(web: Callable, bucket: Bucket) -> None:
    for url in (f"{web()}/nowhere", f"{bucket.url}/nowhere", "s3://no-such-bucket/nowhere", "memory://nowhere"):
        with pytest.raises(InputError, match=f"{url} holds no manifest.json") as error:
            Manifest.open(url)
        assert type(error.value) is InputError
    with pytest.raises(InputError, match="no such folder"):
        Manifest.open("file:///no/such/folder")


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("zip://x::/nowhere.zip", InputError, "zip://x::/nowhere.zip: not found"),
        ("reference://", UsageError, "reference://: .*missing 1 required"),
        ("jupyter://u:p@x", UsageError, "jupyter://x: "),
        ("dir://x", UsageError, "dir://x: "),
        ("ftp://u:p@127.0.0.1:1/x", UnreachableError, r"ftp://127\.0\.0\.1:1/x: connection refused"),
    ],
)
def test_a_file_system_that_cannot_even_be_made_is_told_with_its_address(
    url: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as told:
        store_of(url)
    assert type(told.value) is error
    assert "u:p" not in str(told.value)


def test_a_missing_manifest_at_a_url_is_not_one_whose_making_goes_on_here(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Manifest.open(f"{bucket.url}/nowhere")
    assert str(error.value.hint).startswith("check the address")
    with pytest.raises(InputError) as error:
        Manifest.open(tmp_path)
    assert "if a command was interrupted here, run it again" in str(error.value.hint)


def test_schemes_are_known_in_capitals_and_this_machine_by_its_name(
    manifest: Manifest, bucket: Bucket, web: Callable
) -> None:
    upload(manifest, bucket)
    urls = [f"S3://{bucket.name}/m", web().replace("http", "HTTP"), f"FILE://{manifest.folder}",
            f"file://localhost{manifest.folder}"]  # fmt: skip
    for url in urls:
        assert Manifest.open(url).id == manifest.id
    assert store_of("file://localhost/tmp/x").where == "/tmp/x"
    assert store_of("file:///localhost/x").where == "/localhost/x"


def test_a_server_that_fails_is_no_damage(manifest: Manifest, web: Callable) -> None:
    class Failing(_Quiet):
        def do_HEAD(self) -> None:
            if self.path.endswith(".parquet"):
                self.send_error(503)
            else:
                super().do_HEAD()

        def do_GET(self) -> None:
            if self.path.endswith(".parquet"):
                self.send_error(503)
            else:
                super().do_GET()

    with pytest.raises(UnreachableError, match="503"):
        verify(web(Failing))


def test_a_server_that_tells_no_sizes_is_read_to_the_end(manifest: Manifest, web: Callable, tmp_path: Path) -> None:
    class Chunked(_Quiet):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def do_GET(self) -> None:
            data = (manifest.folder / self.path.lstrip("/")).read_bytes()
            self.do_HEAD()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))

    url = web(Chunked)
    assert verify(url).ok
    assert verify(pull(url, tmp_path / "back")[0].folder).ok
    path = manifest.folder / "samples/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = verify(url).findings
    assert finding.path == "samples/part-00000.parquet"
    assert "was altered: it has" in finding.problem


def test_a_host_that_does_not_answer_is_an_error_of_its_own() -> None:
    with pytest.raises(
        UnreachableError, match=r"http://127\.0\.0\.1:1/m/manifest\.json: connection refused \(4 attempts\)"
    ) as error:
        Manifest.open("http://127.0.0.1:1/m")
    assert error.value.exit_code == 3
    hint = "check the address and the network; --timeout SECONDS is the longest wait for an answer, now 20 s"
    assert error.value.hint == hint


def test_a_server_that_falls_silent_is_not_waited_for(web: Callable) -> None:
    done = threading.Event()

    class Silent(_Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            done.wait(10)

    with pytest.raises(UnreachableError):
        Manifest.open(web(Silent), timeout_s=0.2)
    done.set()


def test_a_download_that_is_cut_off_is_told(web: Callable) -> None:
    class Cut(_Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"{")

    with pytest.raises(UnreachableError, match="the answer ended before all of it had come"):
        Manifest.open(web(Cut))


@pytest.mark.parametrize(("status", "text"), [(403, "access is denied"), (401, "access is denied"), (500, "500")])
def test_a_refusing_server_is_quoted(web: Callable, status: int, text: str) -> None:
    class Refusing(_Quiet):
        def do_HEAD(self) -> None:
            self.send_error(status)

        do_GET = do_HEAD

    with pytest.raises(InputError, match=text):
        Manifest.open(web(Refusing))


def test_a_bucket_that_is_not_ours_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Locked(fsspec.get_filesystem_class("memory")):
        def info(self, path: str, **_: object) -> dict[str, object]:
            raise PermissionError("Access Denied")

    store = RemoteStore("s3://theirs/m", Locked(), "theirs/m")
    with pytest.raises(InputError, match=r"s3://theirs/m/manifest\.json: access is denied \(Access Denied\)") as error:
        store.read("manifest.json", 10)
    assert error.value.hint == "check the address and the credentials"


def test_a_url_of_unknown_kind_or_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nope") as error:
        store_of("nope://bucket/m")
    assert "s3://" in str(error.value.hint)

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3", name="s3fs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    for scheme, extra in (("s3", "s3"), ("gs", "gcs"), ("hf", "hub")):
        with pytest.raises(UsageError, match=f"{scheme}:// needs a package") as error:
            store_of(f"{scheme}://bucket/m")
        assert error.value.hint == f"pip install 'prune-toolkit[{extra}]'"


def test_a_password_in_a_url_is_in_no_message() -> None:
    with pytest.raises(UnreachableError) as error:
        Manifest.open("http://anna:hunter2@127.0.0.1:1/m")
    assert "hunter2" not in str(error.value)
    assert "127.0.0.1:1/m" in str(error.value)


LINKS: dict[str, Callable[[Path], Path]] = {
    "a part": lambda folder: folder / "samples" / "part-00000.parquet",
    "a folder of parts": lambda folder: folder / "samples",
    "the header": lambda folder: folder / "manifest.json",
}


@pytest.mark.parametrize("which", LINKS)
def test_a_link_inside_a_manifest_is_not_followed(manifest: Manifest, tmp_path: Path, which: str) -> None:
    path = LINKS[which](manifest.folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{path.name} is a symbolic link"):
        Manifest.open(manifest.folder).samples()
    if which != "the header":
        assert any("symbolic link" in finding.problem for finding in verify(manifest.folder).findings)


def test_a_beton_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    from manifests.format.header import FileEntry

    made = make(tmp_path / "m", KEYS, [0, 0, 1])
    (tmp_path / "secret").write_bytes(b"12345")
    (made.folder / "train.beton").symlink_to(tmp_path / "secret")
    entry = FileEntry(path="train.beton", rows=3, bytes=5, sha256="0" * 64)
    linked = Manifest(made.folder, made.header.model_copy(update={"files": [*made.header.files, entry]}))
    with pytest.raises(InputError, match=r"train\.beton is a symbolic link"):
        _ = linked.beton_path


def test_the_manifest_itself_may_be_a_link(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(manifest.folder)
    assert Manifest.open(tmp_path / "link").samples().num_rows == 3


@pytest.mark.timeout(20)
def test_a_named_pipe_is_not_waited_for(manifest: Manifest) -> None:
    path = manifest.folder / "samples" / "part-00000.parquet"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not a file"):
        manifest.samples()


@pytest.mark.parametrize("path", ["../other", "/etc/passwd", "a/../../b", "a//b", "./a", "a\0b", ""])
def test_no_store_reads_outside_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "other").write_text("x")
    (tmp_path / "m").mkdir()
    for store in (LocalStore(tmp_path / "m"), store_of("memory://m")):
        for method in (store.open, store.size, store.sha256):
            with pytest.raises(InputError, match="a file outside its folder"):
                method(path)
