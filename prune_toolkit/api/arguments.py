"""What the functions of the front door share: manifests and paths as arguments, and what they hand back. Torch-free."""

from pathlib import Path

from manifests.base.cores import core_count
from manifests.errors import IncompleteError
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from trainer.cli.local_path import local_path

Place = str | Path
"""A path; of what is only read also a URL."""


def opened(manifest: Manifest | Place) -> Manifest:
    """The manifest, opened where it was named."""
    return manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)


def folder(out: Place) -> Path:
    """Where something is written; UsageError for a URL."""
    return local_path(out)


def optional(path: Place | None) -> Path | None:
    """A path, where one was named."""
    return None if path is None else Path(path)


def data_spec(
    data: Place | None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    *,
    held_out: bool = False,
) -> DataSpec | None:
    """The images that are named, None where none are."""
    if data is None:
        return None
    return DataSpec(data=str(data), split=split, classes=optional(classes), label=label, held_out=held_out)


def threads(workers: int | None) -> int:
    """Threads that read images: as asked, else one per core."""
    return core_count() if workers is None else workers


def whole(manifest: Manifest | None) -> Manifest:
    """What was made; IncompleteError where other processes still make their parts of it."""
    if manifest is None:
        raise IncompleteError(
            "the parts of this process are done, those of others are not",
            hint="call it again when they are: it goes on where it stopped",
        )
    return manifest
