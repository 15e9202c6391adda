"""Destinations of a push: a folder, or a file system of fsspec; see manifests/stores/hub.py for the hub.

A destination compares files by their digests and takes them one by one. The header comes last: until it is there,
readers see no manifest.
"""

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

from manifests.base.files import CHUNK_BYTES, atomic_file, remove_temporaries, write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError, UsageError
from manifests.stores.addresses import levels
from manifests.stores.hub import HubDestination
from manifests.stores.patience import Attempts
from manifests.stores.store import LocalFile, LocalStore, RemoteStore, store_of
from manifests.stores.web import WebStore

ATOMIC_SCHEMES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Object stores: an uploaded file appears whole or not at all."""


class FolderDestination:
    """A folder on this machine or a mounted one."""

    is_one_step = False

    def __init__(self, store: LocalStore) -> None:
        self.store, self.folder = store, store.folder
        self._known: dict[str, tuple[object, str]] = {}
        """For each file that is there: a mark that changes if someone else replaces it, and its sha256."""

    def begin(self, paths: list[str]) -> None:
        """Remove what a killed push left."""
        if self.folder.is_dir():
            remove_temporaries(self.folder)

    def listed(self) -> list[str]:
        """Return the paths of the files and links in the folder."""
        found = (path for path in self.folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def holds(self, file: LocalFile) -> bool:
        """Return whether the folder has this file with these bytes."""
        mark = self._mark(file.path)
        if self.store.size(file.path) != file.bytes or self.store.sha256(file.path) != file.sha256:
            return False
        self._known[file.path] = mark, file.sha256
        return True

    def changed(self, paths: list[str]) -> str | None:
        """Return the first file that someone else replaced by other bytes."""
        return next((path for path in paths if path in self._known and self._is_other(path, *self._known[path])), None)

    def _is_other(self, path: str, mark: object, sha256: str) -> bool:
        return self._mark(path) != mark and (self.store.size(path) is None or self.store.sha256(path) != sha256)

    def _mark(self, path: str) -> object:
        try:
            found = os.lstat(self.folder / path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def put(self, file: LocalFile) -> None:
        """Copy under another name, then rename. Raises InputError if the file was altered meanwhile."""
        digest = hashlib.sha256()
        with file.store.open(file.path) as reader, self.writer(file.path) as writer:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
            if digest.hexdigest() != file.sha256:
                raise InputError(f"{file.store.name(file.path)} was altered while it was copied", hint="push again")
        self._known[file.path] = self._mark(file.path), file.sha256

    def writer(self, path: str) -> Any:
        """Open a file inside this folder like `atomic_file`. Raises InputError if a link leads out of it."""
        place = self.folder
        for name in levels(path):
            place = place / name
            if place.is_symlink():
                raise InputError(f"{place} is a symbolic link: nothing is written through it", hint="remove it")
        return atomic_file(place)

    def remove(self, path: str) -> None:
        """Delete a file, if it is there."""
        self.folder.joinpath(*levels(path)).unlink(missing_ok=True)

    def finish(self, header: bytes, message: str, *, is_there: bool) -> None:
        """Write manifest.json, unless it is there: from then on there is a manifest."""
        if not is_there:
            write_atomic(self.folder / HEADER_NAME, header)


class RemoteDestination:
    """A folder of a remote file system."""

    is_one_step = False

    def __init__(self, store: RemoteStore) -> None:
        self.store, self._filesystem = store, store.filesystem
        self._listed: set[str] = set()
        self._known: dict[str, tuple[object, str | None]] = {}
        """For each file that is there: its `_mark`."""

    def begin(self, paths: list[str]) -> None:
        """List what is there, so that an empty place is queried once and not for every file."""
        self._listed = set(self._find())

    def _find(self) -> dict[str, dict[str, Any]]:
        """Return what the server reports about each file below the URL."""
        try:
            found = self.store.attempts()(lambda: self._filesystem.find(self.store.root, detail=True))
        except FileNotFoundError:
            return {}
        return {full.strip("/"): info for full, info in found.items()}

    def changed(self, paths: list[str]) -> str | None:
        """Return the first file that is missing or, as far as the server reports, has another size or digest now."""
        found = self._find()
        for path in paths:
            if path not in self._known:
                continue
            # A listing may lag behind, or spell a path differently.
            info = found.get(self.store.full(path).strip("/")) or self._info(path)
            if info is None or _mark(info) != self._known[path]:
                return path
        return None

    def listed(self) -> list[str]:
        """Return the paths of the files below the URL."""
        root = f"{self.store.root.strip('/')}/"
        return sorted(full.removeprefix(root) for full in self._listed if full.startswith(root))

    def holds(self, file: LocalFile) -> bool:
        """Return whether these bytes are there, by the server's digest, else by reading them back."""
        return self.store.full(file.path).strip("/") in self._listed and self._has(file)

    def _info(self, path: str) -> dict[str, Any] | None:
        """Return what the server reports about one file; None if it is missing."""
        try:
            return dict(self.store.attempts(path)(lambda: self._filesystem.info(self.store.full(path))))
        except FileNotFoundError:
            return None

    def _has(self, file: LocalFile) -> bool:
        info = self._info(file.path)
        if info is None or info.get("size") != file.bytes:
            return False
        # On S3 the ETag is an MD5, but not after a multipart upload or with encryption.
        if _md5(info) != file.md5 and self.store.sha256(file.path) != file.sha256:
            return False
        self._known[file.path] = _mark(info)
        return True

    def put(self, file: LocalFile) -> None:
        """Upload, then check that what arrived is what was sent."""
        self._write(file.path, lambda full: self._filesystem.put_file(str(file.full), full))
        if not self._has(file):
            raise InputError(f"{self.store.name(file.path)} was altered on its way", hint="push again")

    def _write(self, path: str, write: Callable[[str], Any]) -> None:
        full = self.store.full(path)

        def write_whole() -> None:
            if self.store.scheme in ATOMIC_SCHEMES:
                write(full)
                return
            folder, _, name = full.rpartition("/")
            self._filesystem.makedirs(folder, exist_ok=True)
            write(f"{folder}/.{name}.tmp")
            self._filesystem.mv(f"{folder}/.{name}.tmp", full)

        try:
            # Sending takes as long as the file is large.
            Attempts(self.store.name(path), self.store.patience, waiting=None)(write_whole)
        except FileNotFoundError:
            raise InputError(
                f"{self.store.name(path)}: this location does not exist", hint="create the bucket first"
            ) from None

    def remove(self, path: str) -> None:
        """Delete a file, if it is there."""
        try:
            self.store.attempts(path)(lambda: self._filesystem.rm_file(self.store.full(path)))
        except FileNotFoundError:
            return

    def finish(self, header: bytes, message: str, *, is_there: bool) -> None:
        """Write manifest.json, unless it is there: from then on there is a manifest."""
        if not is_there:
            self._write(HEADER_NAME, lambda full: self._filesystem.pipe_file(full, header))


Destination = FolderDestination | RemoteDestination | HubDestination
"""A place that a manifest is pushed to.

`is_one_step`: `finish` publishes all files in one step, and none of them if someone else was faster.
"""


def destination_at(where: str) -> Destination:
    """Return the destination at a path or URL. Raises UsageError if it cannot be written to."""
    store = store_of(where)
    if store.is_local:
        return FolderDestination(store)
    if isinstance(store, WebStore):
        raise UsageError(f"{store.where}: a web server accepts no push", hint="push to s3://, gs://, hf:// or a folder")
    return HubDestination(store) if store.scheme == "hf" else RemoteDestination(store)


def _mark(info: dict[str, Any]) -> tuple[object, str | None]:
    return info.get("size"), _md5(info)


def _md5(info: dict[str, Any]) -> str | None:
    """Return the hexadecimal MD5 of a file, if the server reports it."""
    if isinstance(etag := info.get("ETag"), str):
        return etag.strip('"').lower()
    if isinstance(encoded := info.get("md5Hash"), str):
        return base64.b64decode(encoded).hex()
    return None
