"""Shared by the functions of the Python interface: manifests and paths as arguments, and results. Torch-free."""

from pathlib import Path

from manifests.base.cores import core_count
from manifests.errors import IncompleteError
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from trainer.cli.options import local_path

Place = str | Path
"""A path; a URL is also accepted for manifests that are only read."""


def opened(manifest: Manifest | Place) -> Manifest:
    """Return the manifest; open it if a path was given."""
    return manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)


def folder(out: Place) -> Path:
    """Return the path of an output; UsageError for a URL."""
    return local_path(out)


def optional(path: Place | None) -> Path | None:
    """Return the path, or None if there is none."""
    return None if path is None else Path(path)


def data_spec(
    data: Place | None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    *,
    held_out: bool = False,
) -> DataSpec | None:
    """Return the description of the given images, None if there are none."""
    if data is None:
        return None
    return DataSpec(data=str(data), split=split, classes=optional(classes), label=label, held_out=held_out)


def threads(workers: int | None) -> int:
    """Return the number of threads that read images: as requested, else one per core."""
    return core_count() if workers is None else workers


def whole(manifest: Manifest | None) -> Manifest:
    """Return the manifest; IncompleteError if other processes have not finished their parts of it."""
    if manifest is None:
        raise IncompleteError(
            "the parts of this process are done, those of other processes are not",
            hint="call the function again when they are: it resumes where it stopped",
        )
    return manifest
