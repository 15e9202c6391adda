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
from manifests.sources.base import ReadOptions, Source
from manifests.sources.label_column import is_no_label
from manifests.sources.names import WITHOUT_LABELS, data_set_name, file_of_names, named_by, named_labels, row_keys
from manifests.sources.read_as import NO_LABELS, ReadAs
from manifests.sources.splits import refuse_split

_LABEL_FIELDS = ("label", "labels", "target", "class", "y")


def open_beton(path: Path, options: ReadOptions) -> Source:
    """Open a beton: its first image field, and the field of labels, as _label_field tells it.

    Class names: from a file of them, else those of the manifest it lies in, else names.json beside it, else numbers.
    """
    refuse_split(options.split, path)
    beton = Beton.open(path)
    images = beton_images(beton)
    if options.unlabelled:
        return replace(images, name=data_set_name(path.with_suffix("")), read_as=ReadAs(labels=NO_LABELS))
    known = None if options.classes is not None else _manifest_names(path.parent)
    file = options.classes if known else file_of_names(options.classes, path.parent, "names.json", "classes.txt")
    field = _label_field(beton, options.label)
    class_names, labels_N = named_labels(_labels(beton, field), images.keys, file, known, path)
    return replace(
        images,
        name=data_set_name(path.with_suffix("")),
        class_names=class_names,
        labels_N=labels_N,
        read_as=ReadAs(labels=f"field {field}{named_by(file)}"),
    )


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
        read_as=ReadAs(labels="none"),
    )


def read_beton(beton: Beton, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    """Return images as stored, JPEG regions encoded and raw ones as pixels: views of the mapped file."""
    return [
        Encoded(beton.image_bytes(row).tobytes()) if beton.modes_N[row] == MODE_JPEG else Pixels(beton.pixels(row))
        for row in rows
    ]


def _label_field(beton: Beton, label: str | None) -> str:
    """Return the field `label`, else one called like a label, else the only one of whole numbers that is not an id.

    Raises InputError if it is not clear.
    """
    numbers = [name for name, values in beton.columns.items() if values.dtype in (np.int64, np.float64)]
    known = f"fields of one number: {', '.join(numbers) or 'none'}; all fields: {', '.join(beton.fields)}"
    if label is not None:
        if label not in numbers:
            raise InputError(f"{beton.path} has no field of one number {label!r}", hint=known)
        return label
    named = [name for name in _LABEL_FIELDS if name in numbers]
    whole = [name for name in numbers if beton.columns[name].dtype == np.int64 and not is_no_label(name)]
    if not named and len(whole) != 1:
        raise InputError(
            f"{beton.path}: it is not clear which field holds the labels",
            hint=f"--label FIELD; {known}; lists, such as one-hot labels, are not read; {WITHOUT_LABELS}",
        )
    return (named or whole)[0]


def _labels(beton: Beton, field: str) -> NDArray[np.int64]:
    values_N = beton.columns[field]
    decimals = values_N[values_N != np.rint(values_N)]
    if len(decimals):
        raise InputError(
            f"{beton.path}: the field {field!r} holds decimals such as {decimals[0]:g}, not classes",
            hint="choose another field with --label",
        )
    return values_N.astype(np.int64)


def _manifest_names(folder: Path) -> tuple[str, ...] | None:
    return tuple(read_header(folder).data.class_names) if (folder / HEADER_NAME).is_file() else None
