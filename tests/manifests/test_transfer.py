import base64
import errno
import hashlib
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec
import pytest
from made_manifests import content_of, make, some_logits
from s3 import Bucket
from tests_support import tree_bytes

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.errors import IncompleteError, InputError, MismatchError, UnreachableError, UsageError
from manifests.format.header import Hidden
from manifests.integrity import verify
from manifests.manifest import Manifest, commit, file_entry, write_local
from manifests.share.transfer import pull, push
from manifests.stores.destinations import FolderDestination, RemoteDestination, destination_at
from manifests.stores.store import LocalFile, LocalStore, RemoteStore

KEYS = [f"{name}/{row}.jpg" for name in ("cat", "dog") for row in range(3)]
LABELS = [0, 0, 0, 1, 1, 1]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "ours", KEYS, LABELS, some_logits(0, 2, 6, 3))


@pytest.fixture
def other(tmp_path: Path) -> Manifest:
    """Another manifest, with fewer tables."""
    return make(tmp_path / "other", KEYS[:4], LABELS[:4])


def with_beton(manifest: Manifest, redistributable: bool | None, content: bytes = b"images") -> Manifest:
    """The manifest with something in the place of a beton."""
    (manifest.folder / BETON_NAME).write_bytes(content)
    data = manifest.header.data.model_copy(update={"redistributable": redistributable})
    files = [*manifest.header.files, file_entry(manifest.folder, BETON_NAME, 6)]
    return commit(manifest.folder, manifest.header.model_copy(update={"files": files, "data": data}))


def contract(manifest: Manifest) -> list[str]:
    return sorted([entry.path for entry in manifest.header.files] + [HEADER_NAME])


TARGETS: dict[str, Callable[[Path, Bucket], str]] = {
    "s3": lambda _, bucket: f"{bucket.url}/team/m",
    "a folder": lambda folder, _: str(folder / "deep" / "er"),
    "file://": lambda folder, _: f"file://{folder}/filed",
    "memory, without digests or atomic puts": lambda folder, _: f"memory://{folder.name}/m",
}


@pytest.mark.parametrize("where", TARGETS)
def test_what_is_pushed_and_pulled_back_is_the_same_to_the_byte(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str
) -> None:
    url = TARGETS[where](tmp_path, bucket)
    moved = push(manifest, destination_at(url))
    assert (moved.manifest_id, moved.copied, moved.there) == (manifest.id, len(manifest.header.files), 0)
    assert moved.copied_bytes == sum(entry.bytes for entry in manifest.header.files)
    assert verify(url).ok
    back, moved = pull(url, tmp_path / "back")
    assert (moved.copied, moved.there) == (len(manifest.header.files), 0)
    assert content_of(back) == content_of(manifest)
    for path in contract(manifest):
        assert (back.folder / path).read_bytes() == (manifest.folder / path).read_bytes()
    assert verify(back.folder).ok
    assert push(manifest, destination_at(url)).copied == pull(url, tmp_path / "back")[1].copied == 0


def test_local_facts_temporary_files_and_strangers_do_not_travel(manifest: Manifest, bucket: Bucket) -> None:
    write_local(manifest.folder, {"data": "/home/anna/photos"})
    for name in (".part.host.1.tmp", "samples/.part-00000.parquet.host.1.tmp", "card/.teacher.svg.host.1.tmp",
                 ".times/part-00000.json", "notes.txt", "samples/extra.parquet"):  # fmt: skip
        (manifest.folder / name).parent.mkdir(exist_ok=True)
        (manifest.folder / name).write_text("/home/anna")
    push(manifest, destination_at(f"{bucket.url}/m"))
    assert bucket.objects() == [f"m/{path}" for path in contract(manifest)]


def test_the_card_and_its_pictures_travel_with_the_manifest(manifest: Manifest, bucket: Bucket) -> None:
    cards = {"README.md", "croissant.json", "card/teacher.svg"}
    for name in (*cards, "card/no-score.svg"):
        (manifest.folder / name).parent.mkdir(exist_ok=True)
        (manifest.folder / name).write_text(name)
    push(manifest, destination_at(f"{bucket.url}/m"))
    assert bucket.get("m/card/teacher.svg") == b"card/teacher.svg"
    assert set(bucket.objects()) == {f"m/{path}" for path in (*contract(manifest), *cards)}


def test_a_card_that_is_a_link_is_not_pushed(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "teacher.svg").write_text("secret")
    (manifest.folder / "card").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="card is a symbolic link"):
        push(manifest, destination_at(str(tmp_path / "pushed")))
    assert not (tmp_path / "pushed" / "card").exists()


class Breaking:
    """A target that fails at its n-th file, and shows the place to a reader before each."""

    def __init__(self, inner: RemoteDestination | FolderDestination, files: int, seen: list[str]) -> None:
        self._inner, self._left, self._seen, self._lock = inner, files, seen, threading.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def put(self, file: LocalFile) -> None:
        with self._lock:
            self._look()
            self._left -= 1
            if self._left < 0:
                raise UnreachableError("the cable", hint="plug it in")
            self._inner.put(file)

    def finish(self, header: bytes, message: str, *, is_there: bool) -> None:
        self._look()
        self._inner.finish(header, message, is_there=is_there)
        self._look()

    def _look(self) -> None:
        where = self._inner.store.where
        try:
            self._seen.append("whole" if verify(where).ok else "torn")
        except InputError as error:
            self._seen.append("absent" if "holds no manifest.json" in error.message or "no such folder" in error.message
                              else f"torn: {error}")  # fmt: skip


@pytest.mark.parametrize("where", ["s3", "a folder"])
def test_a_push_that_breaks_anywhere_goes_on_and_a_reader_sees_all_or_nothing(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str
) -> None:
    url, seen = TARGETS[where](tmp_path, bucket), []
    for _ in manifest.header.files[1:]:
        with pytest.raises(IncompleteError, match="the cable") as error:
            push(manifest, Breaking(destination_at(url), 1, seen), jobs=1)
        assert error.value.hint == "plug it in; the same command resumes"
    push(manifest, Breaking(destination_at(url), 1, seen), jobs=1)
    assert set(seen) == {"absent", "whole"}
    assert seen.index("whole") == len(seen) - 1
    if where == "s3":
        assert bucket.puts() == {f"team/m/{path}": 1 for path in contract(manifest)}


def test_a_push_over_what_is_half_there_and_damaged_mends_it(manifest: Manifest, bucket: Bucket) -> None:
    path = manifest.header.files[0].path
    bucket.put(f"m/{path}", b"x" * manifest.header.files[0].bytes)
    moved = push(manifest, destination_at(f"{bucket.url}/m"))
    assert moved.copied == len(manifest.header.files)
    assert verify(f"{bucket.url}/m").ok


@pytest.mark.parametrize("where", TARGETS)
def test_another_manifest_is_replaced_only_when_asked_and_its_header_goes_first(
    manifest: Manifest, other: Manifest, tmp_path: Path, bucket: Bucket, where: str
) -> None:
    url = TARGETS[where](tmp_path, bucket)
    push(manifest, destination_at(url))
    with pytest.raises(
        MismatchError, match=f"another manifest, scores {manifest.id[:12]}; this one is {other.id[:12]}"
    ):
        push(other, destination_at(url))
    assert Manifest.open(url).id == manifest.id
    seen: list[str] = []
    push(other, Breaking(destination_at(url), 99, seen), replace=True)
    assert set(seen[:-1]) == {"absent"}
    assert seen[-1] == "whole"
    assert Manifest.open(url).id == other.id
    if where == "s3":
        assert bucket.objects() == [f"team/m/{path}" for path in contract(other)]


def test_what_is_no_manifest_is_not_overwritten_unasked(manifest: Manifest, bucket: Bucket) -> None:
    bucket.put(f"m/{HEADER_NAME}", b"something else")
    with pytest.raises(MismatchError, match="something that is not a manifest"):
        push(manifest, destination_at(f"{bucket.url}/m"))
    push(manifest, destination_at(f"{bucket.url}/m"), replace=True)
    assert verify(f"{bucket.url}/m").ok


@pytest.mark.parametrize("damage", ["altered", "missing", "a link"])
def test_a_damaged_manifest_is_not_pushed(manifest: Manifest, bucket: Bucket, tmp_path: Path, damage: str) -> None:
    path = manifest.folder / manifest.header.files[-1].path
    content = path.read_bytes()
    path.unlink()
    if damage == "altered":
        path.write_bytes(content[:-1] + b"?")
    if damage == "a link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match={"altered": "was altered", "missing": "cannot read"}.get(damage, "link")):
        push(manifest, destination_at(f"{bucket.url}/m"))
    assert f"m/{HEADER_NAME}" not in bucket.puts()


def test_what_arrives_altered_is_noticed_before_the_header_is_put(
    manifest: Manifest, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = destination_at(f"{bucket.url}/m")
    filesystem = target.store.filesystem
    put = filesystem.put_file

    def flip(source: str, full: str) -> None:
        put(source, full)
        if full.endswith("logits/view-001/part-00000.parquet"):
            filesystem.pipe_file(full, b"?" * Path(source).stat().st_size)

    monkeypatch.setattr(filesystem, "put_file", flip)
    with pytest.raises(InputError, match=r"view-001/part-00000\.parquet was altered on its way"):
        push(manifest, target)
    assert f"m/{HEADER_NAME}" not in bucket.puts()


def test_an_upload_in_several_parts_has_no_md5_and_is_read_back(
    manifest: Manifest, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = with_beton(manifest, None, bytes(range(256)) * (44 << 10))
    target = destination_at(f"{bucket.url}/m")
    filesystem = target.store.filesystem
    monkeypatch.setattr(filesystem, "put_file", partial(filesystem.put_file, chunksize=5 << 20))
    push(large, target, with_images=True)
    assert filesystem.info(f"{bucket.name}/m/{BETON_NAME}")["ETag"].endswith('-3"')
    assert push(large, destination_at(f"{bucket.url}/m"), with_images=True).copied == 0
    assert bucket.puts()[f"m/{BETON_NAME}"] == 1


def test_the_md5_that_google_keeps_is_enough(manifest: Manifest, tmp_path: Path) -> None:
    store = LocalStore(manifest.folder)
    file = LocalFile.of(store, manifest.header.files[0].path)
    digest = hashlib.md5((manifest.folder / file.path).read_bytes(), usedforsecurity=False).digest()

    class Google(fsspec.get_filesystem_class("memory")):
        def info(self, path: str, **_: object) -> dict[str, object]:
            return {"name": path, "size": file.bytes, "md5Hash": base64.b64encode(digest).decode()}

        def find(self, path: str, **_: object) -> dict[str, dict[str, object]]:
            return {f"/m/{file.path}": self.info(path)}

    target = RemoteDestination(RemoteStore("gs://bucket/m", Google(), "/m"))
    target.begin([])
    assert target.holds(file)
    digest = bytes(16)
    with pytest.raises(FileNotFoundError):
        target.holds(file)


def test_images_travel_only_when_asked_and_allowed(manifest: Manifest, tmp_path: Path) -> None:
    free = with_beton(manifest, None)
    push(free, destination_at(str(tmp_path / "without")))
    assert not (tmp_path / "without" / BETON_NAME).exists()
    push(free, destination_at(str(tmp_path / "with")), with_images=True)
    assert (tmp_path / "with" / BETON_NAME).read_bytes() == b"images"
    assert not (pull(str(tmp_path / "with"), tmp_path / "a")[0].folder / BETON_NAME).exists()
    assert (pull(str(tmp_path / "with"), tmp_path / "b", with_images=True)[0].folder / BETON_NAME).exists()
    bound = with_beton(manifest, False)
    push(bound, destination_at(str(tmp_path / "bound")))
    for act in (
        lambda: push(bound, destination_at(str(tmp_path / "never")), with_images=True),
        lambda: pull(str(tmp_path / "bound"), tmp_path / "never", with_images=True),
    ):
        with pytest.raises(UsageError, match="must not be redistributed"):
            act()
    assert not (tmp_path / "never").exists()


def test_images_of_hidden_keys_never_travel(manifest: Manifest, tmp_path: Path) -> None:
    hidden = Hidden(method="hmac-sha256", check="0" * 64)
    made = with_beton(manifest, True)
    made = commit(made.folder, made.header.model_copy(update={"hidden": hidden}))
    push(made, destination_at(str(tmp_path / "there")))
    (tmp_path / "there" / BETON_NAME).write_bytes(b"images")
    for act in (
        lambda: push(made, destination_at(str(tmp_path / "never")), with_images=True),
        lambda: pull(str(tmp_path / "there"), tmp_path / "never", with_images=True),
    ):
        with pytest.raises(UsageError, match="the keys are hidden, but a beton would show the images"):
            act()
    assert not (tmp_path / "never").exists()


def test_a_beton_that_was_not_sent_is_told_and_the_rest_is_pulled(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    made = with_beton(manifest, None)
    push(made, destination_at(f"{bucket.url}/m"))
    back, _ = pull(f"{bucket.url}/m", tmp_path / "back", with_images=True)
    assert verify(back.folder).ok
    assert capsys.readouterr().err == (
        f"{bucket.url}/m holds no train.beton: it was pushed without --with-images, or never written\n"
    )
    push(made, destination_at(f"{bucket.url}/m"), with_images=True)
    back, _ = pull(f"{bucket.url}/m", tmp_path / "back", with_images=True)
    assert (back.folder / BETON_NAME).read_bytes() == b"images"


def test_a_part_of_a_manifest_is_pulled_with_its_id_and_completed_later(manifest: Manifest, tmp_path: Path) -> None:
    url = f"file://{manifest.folder}"
    part, moved = pull(url, tmp_path / "part", only=["scores"])
    assert (part.id, moved.copied) == (manifest.id, 2)
    assert part.not_pulled == {"logits"}
    report = verify(part.folder)
    assert report.ok
    assert report.absent == ["logits/view-000", "logits/view-001"]
    assert part.scores().equals(manifest.scores())
    with pytest.raises(InputError, match="its logits were not pulled") as error:
        next(iter(part.logits()))
    assert error.value.hint == f"prune pull {manifest.folder} {part.folder} --only logits"
    with pytest.raises(UsageError, match="lacks its logits"):
        push(part, destination_at(str(tmp_path / "elsewhere")))
    with pytest.raises(UsageError, match=r"--only targets: .* has only logits, samples, scores"):
        pull(url, tmp_path / "never", only=["targets"])
    whole, moved = pull(url, tmp_path / "part", only=["logits"])
    assert (moved.copied, moved.there) == (2, 1)
    assert (whole.not_pulled, verify(whole.folder).absent) == (frozenset(), [])


def test_a_missing_file_that_was_pulled_is_damage(manifest: Manifest, tmp_path: Path) -> None:
    part, _ = pull(str(manifest.folder), tmp_path / "part", only=["scores"])
    (part.folder / "scores/teacher/part-00000.parquet").unlink()
    assert [finding.problem for finding in verify(part.folder).findings] == ["is missing"]


def test_where_the_images_are_here_outlives_a_pull_and_nothing_of_it_is_told(
    manifest: Manifest, tmp_path: Path
) -> None:
    write_local(manifest.folder, {"data": "/theirs"})
    back, _ = pull(str(manifest.folder), tmp_path / "back", only=["scores"])
    assert (back.local, back.pulled_from) == ({}, str(manifest.folder))
    beside = json.loads((back.folder / "local.json").read_text())
    write_local(back.folder, {**beside, "data": "/ours"})
    again, _ = pull(str(manifest.folder), tmp_path / "back")
    assert (again.local, again.not_pulled) == ({"data": "/ours"}, frozenset())


def test_a_pull_does_not_touch_another_manifest(manifest: Manifest, other: Manifest) -> None:
    before = tree_bytes(other.folder)
    with pytest.raises(MismatchError, match="holds another manifest"):
        pull(str(manifest.folder), other.folder)
    assert tree_bytes(other.folder) == before


def test_an_altered_remote_part_is_never_written_here(manifest: Manifest, bucket: Bucket, tmp_path: Path) -> None:
    url = f"{bucket.url}/m"
    push(manifest, destination_at(url))
    path = "logits/view-000/part-00000.parquet"
    content = bytearray(bucket.get(f"m/{path}"))
    content[9] ^= 4
    bucket.put(f"m/{path}", bytes(content))
    with pytest.raises(InputError, match=f"{path} was altered"):
        pull(url, tmp_path / "back")
    assert not (tmp_path / "back" / path).exists()
    assert not (tmp_path / "back" / HEADER_NAME).exists()
    push(manifest, destination_at(url))
    assert pull(url, tmp_path / "back")[1].copied < len(manifest.header.files)
    assert verify(tmp_path / "back").ok


@pytest.mark.parametrize("length", [-1, +1])
def test_a_large_file_is_streamed_and_checked_too(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("manifests.share.transfer.WHOLE_BYTES", 0)
    back, _ = pull(f"file://{manifest.folder}", tmp_path / "back")
    assert verify(back.folder).ok
    path = manifest.folder / manifest.header.files[0].path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] if length < 0 else content + b"?")
    with pytest.raises(InputError, match="was altered"):
        pull(f"file://{manifest.folder}", tmp_path / "again")


def test_a_pull_that_loses_the_connection_is_incomplete_and_goes_on(
    manifest: Manifest, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/m"
    push(manifest, destination_at(url))
    with monkeypatch.context() as patch:
        left = [2]

        def cut(self: Manifest, entry: object, read: Callable = Manifest.file_bytes) -> bytes:
            left[0] -= 1
            if left[0] < 0:
                raise UnreachableError("the cable", hint="plug it in")
            return read(self, entry)

        patch.setattr(Manifest, "file_bytes", cut)
        with pytest.raises(IncompleteError, match="the cable"):
            pull(url, tmp_path / "back", jobs=1)
    assert not (tmp_path / "back" / HEADER_NAME).exists()
    moved = pull(url, tmp_path / "back")[1]
    assert (moved.there, moved.copied) == (2, len(manifest.header.files) - 2)


def test_a_full_disk_ends_a_pull_with_nothing_half_written(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            pull(f"file://{manifest.folder}", tmp_path / "back")
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == []


def test_a_link_in_the_folder_is_not_written_through(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_local(tmp_path / "back", {"pulled_from": str(manifest.folder)})
    (tmp_path / "back" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="samples is a symbolic link"):
        pull(str(manifest.folder), tmp_path / "back")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_manifest_at_a_url_is_pulled_before_it_is_pushed_on(manifest: Manifest, tmp_path: Path) -> None:
    push(manifest, destination_at(f"memory://{tmp_path.name}"))
    with pytest.raises(UsageError, match="is not on this machine"):
        push(Manifest.open(f"memory://{tmp_path.name}"), destination_at(str(tmp_path / "x")))


def test_a_web_server_takes_no_files() -> None:
    with pytest.raises(UsageError, match="accepts no push"):
        destination_at("https://example.org/m")


def test_a_bucket_that_is_not_there_and_a_host_that_is_not_there(
    manifest: Manifest, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="this location does not exist"):
        push(manifest, destination_at("s3://no-such-bucket/m"))

    class Dead(fsspec.get_filesystem_class("memory")):
        def info(self, path: str, **_: object) -> None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    target = destination_at("memory://dead/m")
    target.store.filesystem = Dead()
    with pytest.raises(UnreachableError, match=r"memory://dead/m/manifest\.json: connection refused"):
        push(manifest, target)
