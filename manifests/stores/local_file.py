"""A file to push, with its digests."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from manifests.base.files import CHUNK_BYTES
from manifests.errors import InputError
from manifests.stores.store import LocalStore


@dataclass(frozen=True)
class LocalFile:
    """A file to push, as the header names it."""

    store: LocalStore
    path: str
    sha256: str
    md5: str
    bytes: int

    @classmethod
    def of(cls, store: LocalStore, path: str, sha256: str | None = None) -> "LocalFile":
        """Read a file once for its digests. Raises InputError if it is missing or its sha256 differs."""
        found, md5, size_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            with store.open(path) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    found.update(chunk)
                    md5.update(chunk)
                    size_bytes += len(chunk)
        except OSError as error:
            raise InputError(f"cannot read {store.name(path)}: {error.strerror or error}", hint=_DAMAGED) from None
        if sha256 is not None and found.hexdigest() != sha256:
            raise InputError(f"{store.name(path)} was altered: its sha256 is not the header's", hint=_DAMAGED)
        return cls(store, path, found.hexdigest(), md5.hexdigest(), size_bytes)

    @property
    def full(self) -> Path:
        """Path of the file on this disk."""
        return self.store.folder / self.path


_DAMAGED = "the manifest is incomplete or damaged: prune verify lists what is wrong"
