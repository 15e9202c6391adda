"""The place of the images and the options to read them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.base.layout import HEADER_NAME
from manifests.errors import UsageError
from manifests.sources.base import ReadOptions, Source
from manifests.sources.downloads import refuse_download
from manifests.sources.open import open_held_out, read_source


@dataclass(frozen=True, kw_only=True)
class DataSpec(ReadOptions):
    """The place of the images and the options to read them."""

    data: str
    held_out: bool = False
    """Without a split: take the validation or test split, not train."""

    of_local: bool = False
    """Named by local.json, which may have come with the manifest: nothing is downloaded for it."""

    def open(self) -> Source:
        """Open the source; raises InputError if it is not one."""
        if self.of_local:
            refuse_download(self.data, self)
        return open_held_out(self.data, self) if self.held_out else read_source(self.data, self)

    def refuse_out(self, out: Path) -> None:
        """Raise UsageError if a manifest would be written inside the images, which would make them unreadable."""
        images = Path(self.data).expanduser()
        if images.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(images)):
            raise UsageError(
                f"{out} is inside the images of {self.data}: a manifest there would be taken for one of the classes",
                hint="name a folder outside it with --out",
            )

    def local(self) -> dict[str, Any]:
        """Return the entries for local.json: absolute paths, valid on this machine only."""
        path = Path(self.data)
        entries = {"data": str(path.resolve()) if path.exists() else self.data, **self.as_local()}
        return {name: value for name, value in entries.items() if value is not None}

    @classmethod
    def from_local(cls, local: dict[str, Any]) -> "DataSpec | None":
        """Read what an earlier command wrote into local.json; None if it names no data."""
        if "data" not in local:
            return None
        return cls(data=str(local["data"]), of_local=True, **vars(cls.in_local(local)))


def check_named(data: DataSpec | None, index_path: Path) -> None:
    """Raise UsageError if no images are named, and there is no index either."""
    if data is None and not (index_path / HEADER_NAME).is_file():
        raise UsageError(
            "DATA is missing: name the images to score",
            hint='prune score DIR, or data = "DIR" in prune.toml, or run prune index',
        )


def listing_digest(source: Source) -> str:
    """Return the sha256 over class names, keys and labels: ties unfinished parts to the data they were made from."""
    digest = hashlib.sha256("\0".join(source.class_names).encode())
    digest.update("\0".join(source.keys).encode())
    digest.update(np.ascontiguousarray(source.labels_N, "<i4").tobytes())
    return digest.hexdigest()
