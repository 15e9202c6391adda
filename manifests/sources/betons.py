"""A beton as a source of images: this toolkit's or FFCV's own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.base.layout import HEADER_NAME
from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.format.header_file import read_header
from manifests.images.decode import MODE_JPEG, Encoded, ImageProblem, Pixels, RawImage
from manifests.sources.base import Source
from manifests.sources.names import data_set_name, named_labels, names_beside, refuse_label, refuse_split, row_keys

_NOT_LABELS = ("sample_id", "view_id")


def open_beton(path: Path, split: str | None, classes: Path | None, label: str | None) -> Source:
    """Open a beton: its first image field, and its field `label` or else its first integer field.

    Class names: `classes`, else those of the manifest it lies in, else names.json beside it, else numbers.
    """
    refuse_label(label, path)
    refuse_split(split, path)
    beton = Beton.open(path)
    images = beton_images(beton)
    known = None if classes is not None else _known_names(path.parent)
    class_names, labels_N = named_labels(_labels(beton), images.keys, classes, known, path)
    name = data_set_name(path.with_suffix(""))
    return replace(images, name=name, class_names=class_names, labels_N=labels_N)


def beton_images(beton: Beton) -> Source:
    """Return the images of a beton without classes and labels."""
    return Source(
        kind="beton",
        name=beton.path.name,
        split=None,
        class_names=(),
        keys=row_keys("row", beton.count),
        labels_N=np.zeros(0, np.int32),
        read=partial(read_beton, beton),
    )


def read_beton(beton: Beton, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    """Return images as stored, JPEG regions encoded and raw ones as pixels: views of the mapped file."""
    return [
        Encoded(beton.image_bytes(row).tobytes()) if beton.modes_N[row] == MODE_JPEG else Pixels(beton.pixels(row))
        for row in rows
    ]


def _labels(beton: Beton) -> NDArray[np.int64]:
    integers = [name for name, values in beton.columns.items() if values.dtype == np.int64]
    candidates = [name for name in integers if name not in _NOT_LABELS]
    if not candidates:
        raise InputError(f"{beton.path} has no integer field for the labels: its fields are {', '.join(beton.fields)}")
    return np.asarray(beton.columns["label" if "label" in candidates else candidates[0]], np.int64)


def _known_names(folder: Path) -> tuple[str, ...] | None:
    if (folder / HEADER_NAME).is_file():
        return tuple(read_header(folder).data.class_names)
    return names_beside(folder, "names.json", "classes.txt")
