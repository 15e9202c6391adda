"""What is in the place of a manifest that is pushed or pulled: strangers are kept, what a killed push left goes."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from made_manifests import make, some_logits
from s3 import Bucket
from tests_support import tree_bytes

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.card.readme import write_full_card
from manifests.errors import IncompleteError, InputError, MismatchError, UnreachableError
from manifests.format.header_file import parse_header
from manifests.hidden.hide import hide
from manifests.integrity import verify
from manifests.manifest import Manifest, write_local
from manifests.share.transfer import excerpt, pull, push
from manifests.stores.destinations import Destination, RemoteDestination, destination_at
from manifests.stores.store import LocalFile, LocalStore

KEYS = [f"{name}/{row}.jpg" for name in ("cat", "dog") for row in range(3)]
LABELS = [0, 0, 0, 1, 1, 1]
SECRET = b"a secret of 24 characters"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with all pictures on its card, which take longer to draw than most tests here."""
    folder = tmp_path_factory.mktemp("drawn") / "ours"
    make(folder, KEYS, LABELS, some_logits(0, 2, 6, 3), features=some_logits(1, 6, 4))
    write_full_card(folder)
    return folder


@pytest.fixture
def manifest(drawn: Path, tmp_path: Path) -> Manifest:
    return Manifest.open(shutil.copytree(drawn, tmp_path / "ours"))


def forged(manifest: Manifest, *paths: str) -> bytes:
    """The bytes of its header, naming further files of no bytes."""
    content = json.loads((manifest.folder / HEADER_NAME).read_bytes())
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    content["files"] += [{"path": path, "rows": 0, "bytes": 0, "sha256": digest} for path in paths]
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "path",
    [
        "local.json", "prune.toml", "README.md", "card/teacher.svg", ".bashrc", "samples/part-0000.parquet", "samples",
        "samples/x/part-00000.parquet", "logits/part-00000.parquet", "scores/a/b/part-00000.parquet",
        "other/part-00000.parquet", "samples/part-00001.parquet.tmp", "x/train.beton",
        "samples/.part-00001.parquet.tmp",
    ],
)  # fmt: skip
def test_a_header_names_parts_of_tables_and_the_beton_and_nothing_else(manifest: Manifest, path: str) -> None:
    with pytest.raises(InputError, match="is neither a part of a table nor a beton"):
        parse_header(forged(manifest, path), "m")


@pytest.mark.parametrize("path", [BETON_NAME, "targets/view-007/part-00000.parquet", "scores/a b/part-00000.parquet"])
def test_a_header_may_name_any_table_that_is_known(manifest: Manifest, path: str) -> None:
    assert parse_header(forged(manifest, path), "m").files[-1].path == path


def test_a_header_names_a_file_once(manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"'samples/part-00000\.parquet' is named twice"):
        parse_header(forged(manifest, "samples/part-00000.parquet"), "m")
    with pytest.raises(InputError, match=r"'scores/Teacher/part-00000\.parquet' is named twice"):
        parse_header(forged(manifest, "scores/Teacher/part-00000.parquet"), "m")


def test_a_pull_leaves_the_settings_of_this_machine_alone(manifest: Manifest, tmp_path: Path) -> None:
    (manifest.folder / "prune.toml").write_bytes(b"")
    (manifest.folder / HEADER_NAME).write_bytes(forged(manifest, "prune.toml"))
    with pytest.raises(InputError, match="is neither a part of a table"):
        pull(f"file://{manifest.folder}", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def kill_before_the_header(target: RemoteDestination) -> RemoteDestination:
    """A target whose process dies when all files but the header are there."""

    def die(*_: object, **__: object) -> None:
        raise UnreachableError("killed", hint="")

    target.finish = die  # type: ignore[method-assign]
    return target


NEXT: dict[str, Callable[[Manifest, Path], Manifest]] = {
    "--only scores": lambda whole, folder: excerpt(whole, ["scores"], folder),
    "--only samples": lambda whole, folder: excerpt(whole, ["samples"], folder),
    "--secret": lambda whole, folder: hide(whole, SECRET, folder),
    "another": lambda _, folder: make(folder, KEYS[:2], LABELS[:2]),
}


@pytest.mark.parametrize("what", NEXT)
@pytest.mark.parametrize("where", ["s3", "memory"])
def test_what_a_killed_push_left_is_taken_away_before_something_else_can_be_read(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str, what: str
) -> None:
    url = f"{bucket.url}/m" if where == "s3" else f"memory://{tmp_path.name}/m"
    with pytest.raises(IncompleteError, match="killed"):
        push(manifest, kill_before_the_header(destination_at(url)))
    filesystem, root = destination_at(url).store.filesystem, destination_at(url).store.root
    theirs = ["logits/view-000/.part-00000.parquet.tmp", ".manifest.json.tmp", BETON_NAME, "samples/part-00777.parquet"]
    ours = ["notes.txt", "photos/cat.jpg", "card/notes.md", "samples/notes.txt", ".bashrc"]
    for path in theirs + ours:
        filesystem.pipe_file(f"{root}/{path}", b"x")
    other = NEXT[what](manifest, tmp_path / "other")
    push(other, destination_at(url))
    left = {path.strip("/").removeprefix(f"{root.strip('/')}/") for path in filesystem.find(root)}
    assert left == {HEADER_NAME, *ours, *(entry.path for entry in other.header.files)}
    assert verify(url).ok


class Disturbed:
    """A target to which, when the last file is put, somebody else does something."""

    def __init__(self, inner: Destination, files: int, act: Callable[[], object]) -> None:
        self._inner, self._left, self._act, self._lock = inner, files, act, threading.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def put(self, file: LocalFile) -> None:
        self._inner.put(file)
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._act()


WHERE = ["s3", "memory", "a folder"]


def place(where: str, folder: Path, bucket: Bucket) -> str:
    return {"s3": f"{bucket.url}/m", "memory": f"memory://{folder.name}/m", "a folder": str(folder / "m")}[where]


@pytest.mark.parametrize("where", WHERE)
def test_of_two_pushes_to_one_place_the_slower_one_fails_and_the_other_is_whole(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str
) -> None:
    url, other = place(where, tmp_path, bucket), make(tmp_path / "other", KEYS[:2], LABELS[:2])
    files = len(manifest.header.files) + 3
    target = Disturbed(destination_at(url), files, lambda: push(other, destination_at(url), replace=True))
    with pytest.raises(MismatchError, match=f"someone else put another manifest, index {other.id[:12]}"):
        push(manifest, target)
    assert Manifest.open(url).id == other.id
    assert verify(url).ok


@pytest.mark.parametrize("where", WHERE)
def test_another_card_is_nobodys_manifest(manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str) -> None:
    """As of another machine that pushes the same manifest at the same time, a day later by its calendar."""
    url, theirs = place(where, tmp_path, bucket), destination_at(place(where, tmp_path, bucket))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "README.md").write_text("# Another card\n")
    card = LocalFile.of(LocalStore(tmp_path / "cards"), "README.md")
    push(manifest, Disturbed(destination_at(url), len(manifest.header.files) + 3, lambda: theirs.put(card)))
    assert Manifest.open(url).id == manifest.id
    assert verify(url).ok


def test_a_listing_that_calls_files_otherwise_is_no_change(manifest: Manifest, bucket: Bucket) -> None:
    """s3fs lists what is below bucket//m by other names."""
    push(manifest, destination_at(f"{bucket.url}//m"))
    assert Manifest.open(f"{bucket.url}//m").id == manifest.id


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", ["changed", "gone"])
def test_no_header_is_put_over_parts_that_somebody_else_touched(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str, what: str
) -> None:
    url, path = place(where, tmp_path, bucket), "samples/part-00000.parquet"
    other = make(tmp_path / "other", KEYS[:2], LABELS[:2])
    theirs = destination_at(url)

    def act() -> None:
        if what == "gone":
            theirs.remove(path)
        else:
            theirs.put(LocalFile.of(LocalStore(other.folder), path))

    with pytest.raises(MismatchError, match=f"someone else changed {path} meanwhile"):
        push(manifest, Disturbed(destination_at(url), len(manifest.header.files) + 3, act))
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        Manifest.open(url)
    push(manifest, destination_at(url), replace=True)
    assert verify(url).ok


@pytest.mark.parametrize("where", WHERE)
def test_the_same_push_twice_at_once_is_no_disturbance(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, where: str
) -> None:
    url = place(where, tmp_path, bucket)

    def again() -> None:
        for entry in manifest.header.files:
            destination_at(url).put(LocalFile.of(LocalStore(manifest.folder), entry.path))

    push(manifest, Disturbed(destination_at(url), len(manifest.header.files) + 3, again))
    (manifest.folder / "README.md").write_text("tomorrow")
    push(manifest, Disturbed(destination_at(url), 1, lambda: push(manifest, destination_at(url))))
    assert verify(url).ok


def test_a_manifest_that_somebody_takes_away_while_it_is_pushed_again_is_missed(
    manifest: Manifest, bucket: Bucket
) -> None:
    url = f"{bucket.url}/m"
    push(manifest, destination_at(url))
    (manifest.folder / "README.md").write_text("tomorrow")
    with pytest.raises(MismatchError, match=r"someone else removed manifest\.json"):
        push(manifest, Disturbed(destination_at(url), 1, lambda: destination_at(url).remove(HEADER_NAME)))


def test_what_is_missing_of_a_killed_push_alone_is_sent_and_nothing_is_taken_away(
    manifest: Manifest, bucket: Bucket
) -> None:
    with pytest.raises(IncompleteError):
        push(manifest, kill_before_the_header(destination_at(f"{bucket.url}/m")))
    before = bucket.puts()
    assert push(manifest, destination_at(f"{bucket.url}/m")).copied == 0
    assert bucket.puts() == {**before, f"m/{HEADER_NAME}": 1}


def test_a_manifest_in_the_place_of_another_has_nothing_of_its_card(
    manifest: Manifest, tmp_path: Path, bucket: Bucket
) -> None:
    push(manifest, destination_at(f"{bucket.url}/m"))
    other = make(tmp_path / "other", KEYS[:2], LABELS[:2])
    push(other, destination_at(f"{bucket.url}/m"), replace=True)
    assert bucket.objects() == sorted(f"m/{path}" for path in (HEADER_NAME, *(e.path for e in other.header.files)))


@pytest.mark.parametrize("path", ["samples/part-00000.parquet", "targets/view-000/part-00000.parquet", "README.md"])
def test_a_folder_that_something_else_is_written_to_is_no_place_for_a_push(
    manifest: Manifest, tmp_path: Path, path: str
) -> None:
    (tmp_path / "out" / path).parent.mkdir(parents=True)
    (tmp_path / "out" / path).write_bytes(b"half a scoring")
    before = tree_bytes(tmp_path / "out")
    with pytest.raises(MismatchError, match=f"holds {path}, which belongs to something else"):
        push(manifest, destination_at(str(tmp_path / "out")))
    assert tree_bytes(tmp_path / "out") == before
    push(manifest, destination_at(str(tmp_path / "out")), replace=True)
    assert verify(tmp_path / "out").ok
    assert {*tree_bytes(tmp_path / "out")} == {*tree_bytes(manifest.folder)}


def test_a_killed_push_to_a_folder_goes_on_even_with_a_card_of_another_day(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError):
        push(manifest, kill_before_the_header(destination_at(str(tmp_path / "out"))))
    (manifest.folder / "README.md").write_text("tomorrow")
    assert push(manifest, destination_at(str(tmp_path / "out"))).copied == 1
    assert (tmp_path / "out" / "README.md").read_text() == "tomorrow"


def test_a_folder_that_holds_anything_is_no_place_for_a_pull(manifest: Manifest, tmp_path: Path) -> None:
    url = f"file://{manifest.folder}"
    (tmp_path / "out" / "samples").mkdir(parents=True)
    (tmp_path / "out" / "samples" / "part-00000.parquet").write_bytes(b"half a scoring")
    before = tree_bytes(tmp_path / "out")
    with pytest.raises(MismatchError, match=r"holds files \(samples/part-00000\.parquet\) but no manifest") as error:
        pull(url, tmp_path / "out")
    assert "name a folder that is empty" in str(error.value.hint)
    write_local(tmp_path / "out", {"data": "/photos"})
    with pytest.raises(MismatchError, match="but no manifest"):
        pull(url, tmp_path / "out")
    write_local(tmp_path / "out", {"pulled_from": "s3://elsewhere"})
    with pytest.raises(MismatchError, match="an unfinished pull of s3://elsewhere"):
        pull(url, tmp_path / "out")
    (tmp_path / "out" / "local.json").unlink()
    assert tree_bytes(tmp_path / "out") == before


def test_an_empty_folder_is_a_place_for_a_pull(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "out" / "samples").mkdir(parents=True)
    (tmp_path / "out" / ".local.json.elsewhere.1.tmp").write_bytes(b"killed while it began")
    assert verify(pull(f"file://{manifest.folder}", tmp_path / "out")[0].folder).ok


def test_a_pull_notes_where_it_is_from_before_it_brings_anything_and_takes_away_what_is_no_longer_there(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, out = f"file://{tmp_path}/remote", tmp_path / "out"
    push(manifest, destination_at(url))
    with monkeypatch.context() as patch:
        left, lock = [3], threading.Lock()

        def cut(self: Manifest, entry: object, read: Callable = Manifest.file_bytes) -> bytes:
            with lock:
                left[0] -= 1
            if left[0] < 0:
                raise UnreachableError("the cable", hint="plug it in")
            return read(self, entry)

        patch.setattr(Manifest, "file_bytes", cut)
        with pytest.raises(IncompleteError):
            pull(url, out, jobs=1)
    assert json.loads((out / "local.json").read_bytes()) == {"pulled_from": f"{tmp_path}/remote"}
    assert len(list(out.rglob("*.parquet"))) == 3
    push(excerpt(manifest, ["scores"], tmp_path / "part"), destination_at(url), replace=True)
    pulled, _ = pull(url, out)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.parquet")} == {
        entry.path for entry in pulled.header.files
    }
    assert verify(out).ok


def test_a_file_that_changes_while_it_is_copied_to_a_folder_is_noticed(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = destination_at(str(tmp_path / "out"))
    path = manifest.header.files[0].path
    file = LocalFile.of(LocalStore(manifest.folder), path)

    def altered(self: LocalStore, _: str) -> BytesIO:
        return BytesIO(b"?" * file.bytes)

    monkeypatch.setattr(LocalStore, "open", altered)
    with pytest.raises(InputError, match="was altered while it was copied"):
        target.put(file)
    assert not [found for found in (tmp_path / "out").rglob("*") if found.is_file()]


def test_a_full_disk_here_is_not_blamed_on_the_other_side(
    manifest: Manifest, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(manifest, destination_at(f"{bucket.url}/m"))
    monkeypatch.setattr("manifests.share.transfer.WHOLE_BYTES", 0)

    class Full(BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("manifests.stores.destinations.FolderDestination.writer", lambda *_: Full())
    with pytest.raises(OSError, match="No space left") as error:
        pull(f"{bucket.url}/m", tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
