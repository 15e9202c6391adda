"""The place of the images and the options to read them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UsageError
from manifests.sources import open_held_out, open_source
from manifests.sources.base import Source


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The place of the images and the options to read them."""

    data: str
    split: str | None = None
    classes: Path | None = None
    label: str | None = None
    held_out: bool = False
    """Without a split: take the test or validation split, not train."""

    def open(self) -> Source:
        """Open the source; raises InputError if it is not one."""
        opener = open_held_out if self.held_out else open_source
        return opener(self.data, split=self.split, classes=self.classes, label=self.label)

    def refuse_out(self, out: Path) -> None:
        """Raise UsageError if a manifest would be written inside the images, which would make them unreadable."""
        images = Path(self.data).expanduser()
        if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
            raise UsageError(
                f"{out} is inside the images of {self.data}: a manifest there would be taken for one of the classes",
                hint="name a folder outside it with --out",
            )

    def local(self) -> dict[str, Any]:
        """Return the entries for local.json: absolute paths, valid on this machine only."""
        path = Path(self.data)
        entries = {
            "data": str(path.resolve()) if path.exists() else self.data,
            "split": self.split,
            "classes": None if self.classes is None else str(self.classes.resolve()),
            "label": self.label,
        }
        return {name: value for name, value in entries.items() if value is not None}

    @classmethod
    def from_local(cls, local: dict[str, Any]) -> "DataSpec | None":
        """Read what an earlier command wrote into local.json; None if it names no data."""
        if "data" not in local:
            return None
        classes = local.get("classes")
        return cls(
            data=str(local["data"]),
            split=local.get("split"),
            classes=None if classes is None else Path(classes),
            label=local.get("label"),
        )


def listing_digest(source: Source) -> str:
    """Return the sha256 over class names, keys and labels: ties unfinished parts to the data they were made from."""
    digest = hashlib.sha256("\0".join(source.class_names).encode())
    digest.update("\0".join(source.keys).encode())
    digest.update(np.ascontiguousarray(source.labels_N, "<i4").tobytes())
    return digest.hexdigest()
