"""Write betons in one pass: atomic, deterministic, and never a sample on two pages.

FFCV's own writer hangs on a bad sample, leaves half files that its reader accepts, and orders bytes at random.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.files import atomic_file
from manifests.betons import format as fmt
from manifests.betons.labelled_views import labels_each
from manifests.errors import InputError
from manifests.images.decode import MODE_JPEG, MODE_RAW, BetonImage

INDEX_FIELDS = ("label", "sample_id", "view_id", "weight", "kd_weight")
SCORED_FIELDS = ("scored_width", "scored_height")
LABELLED_FIELD = "labelled_views"
_FLOAT_FIELDS = ("weight", "kd_weight")
_ABSENT: Any = object()
Target = NDArray[np.float16] | NDArray[np.int16]
"""(V, C) logits of V views, or (V, W) words of each (manifests/format/stored_form.py)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BetonColumns:
    """The numbers of every sample, (N,) each; view ids are stored as the int64 of the same bits."""

    label_N: NDArray[np.int64]
    sample_id_N: NDArray[np.int64]
    view_id_N: NDArray[np.uint64]
    weight_N: NDArray[np.float64]
    kd_weight_N: NDArray[np.float64]
    scored_size_N2: NDArray[np.int64] | None = None
    """Width and height of the images that were scored, 0 where unknown; None if those written have these sizes."""
    labelled_views_N: NDArray[np.uint64] | None = None
    """Views that have a target, see manifests/betons/labelled_views.py; None if all samples have targets of all."""

    def __post_init__(self) -> None:
        shapes = {name: values.shape for name, values in self.fields().items()}
        if len(set(shapes.values())) > 1 or len(self.label_N.shape) != 1:
            raise ValueError(f"columns of one length expected, not {shapes}")

    def fields(self) -> dict[str, NDArray[np.number]]:
        """Return (N,) of every field besides image and target, in the order of the beton."""
        fields: dict[str, NDArray[np.number]] = {name: getattr(self, f"{name}_N") for name in INDEX_FIELDS}
        if self.scored_size_N2 is not None:
            fields |= dict(zip(SCORED_FIELDS, self.scored_size_N2.T, strict=True))
        if self.labelled_views_N is not None:
            fields[LABELLED_FIELD] = self.labelled_views_N
        return fields

    def __len__(self) -> int:
        return len(self.label_N)


def write_beton(
    path: Path,
    images: Iterable[BetonImage],
    columns: BetonColumns,
    *,
    targets: Iterable[Target] | None = None,
    target_shape: tuple[int, int] | None = None,
) -> None:
    """Write a beton in one pass over `images` (and `targets`, each float16 or int16 of `target_shape`).

    If samples have targets of different views, by `columns.labelled_views_N`, each has as many as that says, and the
    field is FFCV's for bytes of any length.

    The page size starts at 2 MiB and doubles when a larger sample arrives: what did not cross a page before
    does not cross a larger one, so no sample ever lies on two pages and sizes need not be known in advance.
    Raises ValueError if images, targets and columns differ in number or form, InputError if there are no samples or
    an image does not fit a beton.
    """
    if (targets is None) != (target_shape is None):
        raise ValueError("targets and target_shape go together")
    count = len(columns)
    if count == 0:
        raise InputError(f"{path}: no samples to write", hint="every image is unreadable, or keep is too small")
    numbers = columns.fields()
    fields = [fmt.Field("image", fmt.IMAGE)]
    fields += [fmt.Field(name, fmt.FLOAT if name in _FLOAT_FIELDS else fmt.INT) for name in numbers]
    views_n = None if columns.labelled_views_N is None else labels_each(columns.labelled_views_N)
    if target_shape is not None and views_n is not None:
        fields.append(fmt.Field("target", fmt.BYTES))
    elif target_shape is not None:
        fields.append(fmt.Field("target", fmt.NDARRAY, target_shape, "<i2"))
    descriptors = b"".join(fmt.encode_field(entry).tobytes() for entry in fields)
    metadata = np.zeros(count, fmt.metadata_dtype(fields))
    for position, column in enumerate(numbers.values(), start=1):
        metadata[f"f{position}"] = column.view(np.int64) if column.dtype == np.uint64 else column
    with atomic_file(path) as stream:
        start = fmt.HEADER.itemsize + len(descriptors) + metadata.nbytes
        stream.seek(start)
        regions = _Regions(stream, start)
        facts = _add_samples(path, regions, images, count, targets, target_shape, views_n)
        table = regions.table(count)
        for part, values in zip(("mode", "width", "height"), facts, strict=True):
            metadata["f0"][part] = np.frombuffer(values, values.typecode)
        metadata["f0"]["data_ptr"] = table["ptr"][:, 0]
        if target_shape is not None:
            stored = metadata[f"f{len(fields) - 1}"]
            stored[... if views_n is None else "ptr"] = table["ptr"][:, 1]
            if views_n is not None:
                stored["size"] = table["size"][:, 1]
        header = np.zeros((), fmt.HEADER)
        header["version"], header["num_fields"] = fmt.VERSION, len(fields)
        header["page_size"], header["num_samples"] = regions.page_bytes, count
        header["alloc_table_ptr"] = regions.position
        stream.write(table.tobytes())
        stream.seek(0)
        stream.write(header.tobytes() + descriptors + metadata.tobytes())


def _add_samples(
    path: Path,
    regions: "_Regions",
    images: Iterable[BetonImage],
    count: int,
    targets: Iterable[Target] | None,
    target_shape: tuple[int, int] | None,
    views_n: NDArray[np.int64] | None,
) -> tuple["array[int]", "array[int]", "array[int]"]:
    """Write every sample's regions; return modes, widths and heights."""
    modes, widths, heights = array("B"), array("H"), array("H")
    samples: Iterable[Any] = images if targets is None else zip_longest(images, targets, fillvalue=_ABSENT)
    row = -1
    for row, sample in enumerate(samples):
        if row >= count:
            raise ValueError(f"more samples than the {count} rows of the columns")
        image, target = (sample, None) if targets is None else sample
        if image is _ABSENT or target is _ABSENT:
            raise ValueError(f"row {row}: images and targets differ in number")
        _check_image(path, row, image)
        data = [image.data]
        if target is not None:
            assert target_shape is not None
            shape = target_shape if views_n is None else (int(views_n[row]), target_shape[1])
            if target.dtype not in (np.float16, np.int16) or target.shape != shape:
                raise ValueError(f"row {row}: target of {target.dtype}{target.shape}, float16 or int16{shape} expected")
            data.append(np.ascontiguousarray(target).reshape(-1).view(np.uint8))
        size_bytes = sum(part.nbytes for part in data)
        if size_bytes > fmt.MAX_PAGE_BYTES:
            raise InputError(
                f"{path}: row {row} takes {size_bytes:,} bytes, more than a page of a beton can hold (2 GiB)",
                hint="shrink larger images with --max-side",
            )
        regions.add(data, size_bytes)
        modes.append(image.mode)
        widths.append(image.width)
        heights.append(image.height)
    if row + 1 != count:
        raise ValueError(f"{row + 1} samples for {count} rows")
    return modes, widths, heights


def _check_image(path: Path, row: int, image: BetonImage) -> None:
    """Raise InputError for an image that does not fit a beton, ValueError for anything but an image."""
    width, height = image.width, image.height
    if width > fmt.MAX_SIDE_PX or height > fmt.MAX_SIDE_PX:
        raise InputError(
            f"{path}: row {row} is {width}x{height} px; a beton holds images of up to {fmt.MAX_SIDE_PX:,} px per side",
            hint="shrink larger images with --max-side",
        )
    right_size = image.data.nbytes == width * height * 3 if image.mode == MODE_RAW else image.data.nbytes > 0
    if min(width, height) < 1 or image.mode not in (MODE_JPEG, MODE_RAW) or not right_size:
        raise ValueError(f"row {row}: {image.data.nbytes} bytes are not a {width}x{height} image of mode {image.mode}")


class _Regions:
    """Place the regions of samples one after the other; no sample crosses a page."""

    def __init__(self, stream: IO[bytes], start: int) -> None:
        self.stream = stream
        self.position = start
        self.page_bytes = fmt.MIN_PAGE_BYTES
        self._pointers = array("Q")
        self._sizes = array("Q")

    def add(self, data: list[NDArray[np.uint8]], size_bytes: int) -> None:
        """Write one sample's regions, `size_bytes` together."""
        while size_bytes > self.page_bytes:
            self.page_bytes *= 2
        if self.position // self.page_bytes != (self.position + size_bytes - 1) // self.page_bytes:
            # A hole: zeros that take neither memory nor, on most file systems, disk.
            self.position = -(-self.position // self.page_bytes) * self.page_bytes
            self.stream.seek(self.position)
        for part in data:
            self.stream.write(part.data)
            self._pointers.append(self.position)
            self._sizes.append(part.nbytes)
            self.position += part.nbytes

    def table(self, count: int) -> NDArray[np.void]:
        """Return the allocation table, (count, regions per sample)."""
        table = np.zeros((count, len(self._pointers) // count), fmt.ALLOCATION)
        table["sample_id"] = np.arange(count)[:, None]
        table["ptr"] = np.frombuffer(self._pointers, np.uint64).reshape(table.shape)
        table["size"] = np.frombuffer(self._sizes, np.uint64).reshape(table.shape)
        return table
