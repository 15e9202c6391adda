"""Choose the images to score: an index, the index of the named data, or the data itself."""

from pathlib import Path

from manifests.base.layout import HEADER_NAME
from manifests.base.progress import note
from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.readers import ImagesAtHand


def images_to_score(data: DataSpec | None, index_path: Path) -> ImagesAtHand:
    """Return the manifest or images that `data` names; those of the index at `index_path` if it is of this data.

    Raises UsageError if there is neither.
    """
    index = Manifest.open(index_path) if (index_path / HEADER_NAME).is_file() else None
    if data is None:
        if index is None:
            raise UsageError(
                "DATA is missing: name the images to score",
                hint='prune score DIR, or data = "DIR" in prune.toml, or run prune index',
            )
        return ImagesAtHand.of_index(index)
    if _is_manifest(data) or index is None or not index.local:
        return _opened(data)
    if data.local().items() <= index.local.items():
        note(f"using the index at {index_path}/")
        return ImagesAtHand.of_index(index)
    return ImagesAtHand.of_source(data)


def images_of_same_classes(data: DataSpec | None, images: ImagesAtHand) -> ImagesAtHand | None:
    """Open further images, to validate on or to hold out; raises MismatchError unless their classes match `images`."""
    if data is None:
        return None
    found = _opened(data)
    if found.class_names != images.class_names:
        raise MismatchError(
            f"{data.data} has other classes than the data: {found.class_names[:3]}... and {images.class_names[:3]}...",
            hint="give both the same class names in the same order, if necessary with --classes",
        )
    return found


def _is_manifest(data: DataSpec) -> bool:
    return (Path(data.data) / HEADER_NAME).is_file()


def _opened(data: DataSpec) -> ImagesAtHand:
    return ImagesAtHand.of_index(Manifest.open(data.data)) if _is_manifest(data) else ImagesAtHand.of_source(data)
