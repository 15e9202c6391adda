import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from made_manifests import content_of, make, some_logits

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.errors import IncompleteError, MismatchError, UsageError
from manifests.format.header import FileEntry
from manifests.integrity import verify
from manifests.manifest import Manifest, commit
from manifests.share.transfer import pull, push
from manifests.stores.destinations import destination_at
from manifests.stores.hub import HubPlace, hub_api
from manifests.stores.store import RemoteStore

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
URL = "hf://datasets/team/cars"
LARGE_BYTES = 2000


class Hub:
    """A stand-in for HfApi: repositories whose files change by whole commits only."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.commits: list[list[str]] = []
        self.is_broken = False
        self.before_a_commit: Callable[[], None] | None = None

    def repo_info(self, repo_id: str, **options: Any) -> Any:
        self.calls.append(("repo_info", options))
        return SimpleNamespace(sha=f"commit-{len(self.commits)}")

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", options))
        self.repos.setdefault(repo_id, {})

    def list_repo_files(self, repo_id: str, **options: Any) -> list[str]:
        self.calls.append(("list_repo_files", options))
        return list(self.repos[repo_id])

    def get_paths_info(self, repo_id: str, paths: list[str], **options: Any) -> list[Any]:
        self.calls.append(("get_paths_info", options))
        files = self.repos[repo_id]
        return [self._info(path, files[path]) for path in paths if path in files]

    @staticmethod
    def _info(path: str, data: bytes) -> Any:
        """As the hub: a sha256 of large files, the digest of git of small ones."""
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()) if len(data) > LARGE_BYTES else None
        return SimpleNamespace(path=path, size=len(data), lfs=lfs, blob_id=git if lfs is None else "pointer")

    def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> None:
        self.calls.append(("create_commit", options))
        if self.is_broken:
            raise ConnectionError("the hub is away")
        if (other := self.before_a_commit) is not None:
            self.before_a_commit = None
            other()
        if options["parent_commit"] != f"commit-{len(self.commits)}":
            # As the hub does: https://huggingface.co/docs/huggingface_hub/package_reference/hf_api, parent_commit.
            error = OSError("412 Client Error: Precondition Failed")
            error.response = SimpleNamespace(status_code=412)
            raise error
        files, names = dict(self.repos[repo_id]), []
        for operation in operations:
            if type(operation).__name__ == "CommitOperationDelete":
                del files[operation.path_in_repo]
                continue
            content = operation.path_or_fileobj
            files[operation.path_in_repo] = content if isinstance(content, bytes) else Path(content).read_bytes()
            names.append(operation.path_in_repo)
        self.repos[repo_id] = files
        self.commits.append(names)
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/hub/{repo_id}"):
            memory.rm(f"/hub/{repo_id}", recursive=True)
        for path, data in files.items():
            memory.pipe_file(f"/hub/{repo_id}/{path}", data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub in memory, for pushing and for reading hf:// URLs."""
    found, memory = Hub(), fsspec.filesystem("memory")
    memory.store.clear()
    monkeypatch.setattr("manifests.stores.hub.hub_api", lambda: found)
    monkeypatch.setattr(
        "manifests.stores.store._remote_store",
        lambda url, bounds: RemoteStore(url, memory, url.replace("hf://datasets", "/hub"), bounds),
    )
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    keys = [f"{row:08d}" for row in range(400)]
    made = make(tmp_path / "ours", keys, [row % 3 for row in range(400)], some_logits(0, 1, 400, 3))
    (made.folder / "README.md").write_text("a card")
    return made


def test_a_push_is_one_commit_and_comes_back(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    moved = push(manifest, destination_at(URL))
    assert len(hub.commits) == 1
    assert sorted(hub.commits[0]) == sorted(
        [entry.path for entry in manifest.header.files] + ["README.md", HEADER_NAME]
    )
    assert moved.copied == len(manifest.header.files) + 1
    back, _ = pull(URL, tmp_path / "back")
    assert content_of(back) == content_of(manifest)
    assert verify(URL).ok
    sizes = [entry.bytes for entry in manifest.header.files]
    assert min(sizes) < 10 * LARGE_BYTES
    assert max(sizes) > LARGE_BYTES


def test_a_repository_is_made_private_and_named_as_a_data_set(hub: Hub, manifest: Manifest) -> None:
    push(manifest, destination_at(f"{URL}@draft/sub/folder"))
    calls = dict(hub.calls)
    assert calls["create_repo"] == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert (calls["create_commit"]["repo_type"], calls["create_commit"]["revision"]) == ("dataset", "draft")
    assert calls["create_commit"]["commit_message"] == f"scores of squares, manifest {manifest.id[:12]}"
    assert all(path.startswith("sub/folder/") for path in hub.repos["team/cars"])


def test_nothing_is_sent_twice_and_what_is_missing_is_mended(hub: Hub, manifest: Manifest) -> None:
    push(manifest, destination_at(URL))
    moved = push(manifest, destination_at(URL))
    assert (moved.copied, len(hub.commits)) == (0, 1)
    path = manifest.header.files[0].path
    hub.repos["team/cars"][path] = b"x" * manifest.header.files[0].bytes
    hub.repos["team/cars"]["README.md"] = b"A CARD"
    push(manifest, destination_at(URL))
    assert hub.commits[1] == ["README.md", path, HEADER_NAME]


def test_a_commit_that_somebody_else_was_faster_than_is_not_made(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    other = make(tmp_path / "other", ["a", "b"], [0, 1])
    hub.before_a_commit = lambda: push(other, destination_at(URL)) and None
    with pytest.raises(MismatchError, match="someone else made a commit meanwhile"):
        push(manifest, destination_at(URL))
    assert (Manifest.open(URL).id, len(hub.commits)) == (other.id, 1)
    assert verify(URL).ok


def test_what_came_before_the_commit_to_build_on_was_known_is_not_replaced(
    hub: Hub, manifest: Manifest, tmp_path: Path
) -> None:
    other, target = make(tmp_path / "other", ["a", "b"], [0, 1]), destination_at(URL)
    begin = target.begin

    def begin_late(paths: list[str]) -> None:
        push(other, destination_at(URL))
        begin(paths)

    target.begin = begin_late  # type: ignore[method-assign]
    with pytest.raises(MismatchError, match=f"holds another manifest, index {other.id[:12]}"):
        push(manifest, target)
    assert (Manifest.open(URL).id, len(hub.commits)) == (other.id, 1)


def test_a_commit_that_fails_leaves_nothing_and_goes_on(hub: Hub, manifest: Manifest) -> None:
    hub.is_broken = True
    with pytest.raises(IncompleteError, match="the hub is away"):
        push(manifest, destination_at(URL))
    assert hub.repos == {"team/cars": {}}
    hub.is_broken = False
    push(manifest, destination_at(URL))
    assert verify(URL).ok


def test_another_manifest_is_replaced_in_one_commit(hub: Hub, manifest: Manifest, tmp_path: Path) -> None:
    beton = FileEntry(path=BETON_NAME, rows=400, bytes=1, sha256="0" * 64)
    files = [*manifest.header.files, beton]
    push(commit(manifest.folder, manifest.header.model_copy(update={"files": files})), destination_at(URL))
    other = make(tmp_path / "other", ["1", "2"], [0, 1])
    with pytest.raises(MismatchError, match="another manifest"):
        push(other, destination_at(URL))
    push(other, destination_at(URL), replace=True)
    assert len(hub.commits) == 2
    assert set(hub.repos["team/cars"]) == {HEADER_NAME, "samples/part-00000.parquet"}
    assert verify(URL).ok


def test_what_is_in_the_place_without_a_header_goes_in_the_same_commit(hub: Hub, manifest: Manifest) -> None:
    strange = {"sub/targets/view-000/part-00000.parquet": b"x", "sub/card/old.svg": b"x"}
    kept = {".gitattributes": b"x", "sub/notes.txt": b"x", "targets/view-000/part-00000.parquet": b"another folder"}
    hub.repos["team/cars"] = {**strange, **kept}
    push(manifest, destination_at(f"{URL}/sub"))
    assert len(hub.commits) == 1
    sent = [*(entry.path for entry in manifest.header.files), "README.md", HEADER_NAME]
    assert set(hub.repos["team/cars"]) == {*kept, *(f"sub/{path}" for path in sent)}


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://datasets/team/cars", ("team/cars", None, "")),
        ("hf://datasets/team/cars/", ("team/cars", None, "")),
        ("hf://datasets/team/cars@v1", ("team/cars", "v1", "")),
        ("hf://datasets/team/cars@v1/a/b", ("team/cars", "v1", "a/b/")),
        ("hf://datasets/team/cars/a", ("team/cars", None, "a/")),
    ],
)
def test_a_url_names_repository_revision_and_folder(url: str, place: tuple[str, str | None, str]) -> None:
    assert HubPlace.of(url) == place


@pytest.mark.parametrize("url", ["hf://team/model", "hf://datasets/team", "hf://spaces/team/app"])
def test_what_is_no_data_set_repository_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a data set repository"):
        HubPlace.of(url)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError) as error:
        hub_api()
    assert error.value.hint == "pip install 'prune-toolkit[hub]'"
