"""A beton as a source of images: this toolkit's or FFCV's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.base.layout import HEADER_NAME
from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.format.header_file import read_header
from manifests.images.decode import MODE_JPEG, Encoded, ImageProblem, Pixels, RawImage
from manifests.sources.names import (
    check_source_labels,
    data_set_name,
    names_beside,
    read_class_names,
    refuse_split,
    resolve_names,
    row_keys,
)

_NOT_LABELS = ("sample_id", "view_id")


@dataclass(frozen=True, eq=False, kw_only=True)
class BetonSource:
    """Rows of a beton: JPEG regions are encoded images, raw regions are pixels."""

    name: str
    class_names: tuple[str, ...]
    keys: list[str] = field(repr=False)
    labels_N: NDArray[np.int32] = field(repr=False)
    beton: Beton = field(repr=False)
    kind: str = "beton"
    split: str | None = None
    root: None = None

    def read(self, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
        """Return the images as stored, in the order requested; pixels are views of the mapped file."""
        return [self._image(int(row)) for row in rows]

    def _image(self, row: int) -> RawImage:
        if self.beton.modes_N[row] == MODE_JPEG:
            return Encoded(self.beton.image_bytes(row).tobytes())
        return Pixels(self.beton.pixels(row))


def open_beton(path: Path, *, split: str | None = None, classes: Path | None = None) -> BetonSource:
    """Open a beton: its first image field, and its field `label` or else its first integer field.

    Class names: `classes`, else those of the manifest it lies in, else names.json beside it, else numbers.
    """
    refuse_split(split, path)
    beton = Beton.open(path)
    labels_N = _labels(beton)
    keys = row_keys("row", beton.count)
    given = None if classes is None else read_class_names(classes)
    class_names = resolve_names(
        labels_N, given=given, known=None if given is not None else _known_names(path), where=path
    )
    return BetonSource(
        name=data_set_name(path.with_suffix("")),
        class_names=class_names,
        keys=keys,
        labels_N=check_source_labels(labels_N, class_names, keys, path),
        beton=beton,
    )


def _labels(beton: Beton) -> NDArray[np.int64]:
    integers = [name for name, values in beton.columns.items() if values.dtype == np.int64]
    candidates = [name for name in integers if name not in _NOT_LABELS]
    if not candidates:
        raise InputError(f"{beton.path} has no integer field for the labels: its fields are {', '.join(beton.fields)}")
    name = "label" if "label" in candidates else candidates[0]
    return np.asarray(beton.columns[name], np.int64)


def _known_names(path: Path) -> tuple[str, ...] | None:
    if (path.parent / HEADER_NAME).is_file():
        return tuple(read_header(path.parent).data.class_names)
    beside = names_beside(path.parent, "names.json", "classes.txt")
    return None if beside is None else read_class_names(beside)
