"""Push to data set repositories of the Hugging Face hub: all files and the header are one commit."""

import hashlib
import re
from typing import Any, NamedTuple

from manifests.base.files import CHUNK_BYTES
from manifests.base.layout import HEADER_NAME
from manifests.errors import MismatchError, UsageError
from manifests.stores.failures import status_of
from manifests.stores.patience import Attempts
from manifests.stores.store import LocalFile, RemoteStore

PRECONDITION_FAILED = 412
"""The hub's status for a commit whose parent is no longer the newest."""
_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.+))?")


class HubPlace(NamedTuple):
    """A folder in a data set repository."""

    repo: str
    revision: str | None
    folder: str
    """Empty, or ending in a slash."""

    @classmethod
    def of(cls, url: str) -> "HubPlace":
        """Parse a URL. Raises UsageError if it does not name a data set repository."""
        found = _URL.fullmatch(url.rstrip("/"))
        if found is None:
            raise UsageError(f"{url} is not a data set repository", hint="for example: hf://datasets/USER/NAME")
        return cls(found["repo"], found["revision"], f"{found['folder']}/" if found["folder"] else "")


class HubDestination:
    """A data set repository, created as private if missing. Nothing is sent before `finish`."""

    is_one_step = True

    def __init__(self, store: RemoteStore) -> None:
        self.store = store
        self.place = HubPlace.of(store.where)
        self._api = hub_api()
        self._filesystem = store.filesystem
        self._head: str | None = None
        self._there: dict[str, Any] = {}
        self._listed: list[str] = []
        self._new: list[LocalFile] = []
        self._old: list[str] = []

    def begin(self, paths: list[str]) -> None:
        """Create the repository if it is missing, and query the digests of the files."""
        self.store.attempts()(lambda: self._begin(paths))
        self._filesystem.invalidate_cache()

    def _begin(self, paths: list[str]) -> None:
        repo, revision, folder = self.place
        self._api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        self._head = self._api.repo_info(repo, repo_type="dataset", revision=revision).sha
        listed = self._api.list_repo_files(repo, repo_type="dataset", revision=revision)
        self._listed = sorted(path.removeprefix(folder) for path in listed if path.startswith(folder))
        wanted = [folder + path for path in paths]
        found = self._api.get_paths_info(repo, wanted, repo_type="dataset", revision=revision)
        self._there = {info.path: info for info in found}

    def listed(self) -> list[str]:
        """Return the paths of the files in the repository, or in a folder of it."""
        return self._listed

    def holds(self, file: LocalFile) -> bool:
        """Return whether the file is there: by sha256 if it is large, else by its git digest."""
        info = self._there.get(self.place.folder + file.path)
        if info is None or info.size != file.bytes:
            return False
        lfs = getattr(info, "lfs", None)
        return bool(lfs.sha256 == file.sha256 if lfs is not None else info.blob_id == _git_blob(file))

    def put(self, file: LocalFile) -> None:
        """Note it for the commit."""
        self._new.append(file)

    def remove(self, path: str) -> None:
        """Note it for the commit."""
        self._old.append(path)

    def changed(self, paths: list[str]) -> str | None:
        """Return None: `finish` fails if there is a newer commit than `begin` saw."""
        return None

    def finish(self, header: bytes, message: str, *, is_there: bool) -> None:
        """Commit everything that is new. Raises MismatchError if someone else committed meanwhile."""
        if is_there and not self._new:
            return
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repo, revision, folder = self.place
        operations: list[Any] = [
            CommitOperationDelete(folder + path)
            for path in dict.fromkeys(self._old)
            if path != HEADER_NAME and path in self._listed
        ]
        operations += [
            CommitOperationAdd(folder + file.path, str(file.full))
            for file in sorted(self._new, key=lambda file: file.path)
        ]
        operations.append(CommitOperationAdd(folder + HEADER_NAME, header))
        options = {"repo_type": "dataset", "revision": revision, "parent_commit": self._head}

        def commit() -> None:
            try:
                self._api.create_commit(repo, operations, commit_message=message, **options)
            except Exception as error:
                if status_of(error) != PRECONDITION_FAILED:
                    raise
                raise MismatchError(
                    f"{self.store.where}: someone else made a commit meanwhile", hint="push again when they are done"
                ) from None

        # Once: if only the answer to it was lost, a second commit would find the first.
        Attempts(self.store.where, self.store.patience.once, waiting=None)(commit)


def hub_api() -> Any:
    """Return the client of the hub. Raises UsageError if its package is not installed."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UsageError(
            "hf:// needs a package that is not installed (huggingface_hub)", hint="pip install 'prune-toolkit[hub]'"
        ) from None
    return HfApi()


def _git_blob(file: LocalFile) -> str:
    digest = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)
    with file.store.open(file.path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
