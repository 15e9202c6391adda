"""Betons: a plain memory-mapped reader; the writer is in manifests/betons/writer.py.

Opening checks what FFCV takes on trust: pointers, table length, region bounds.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.file_state import FileState
from manifests.betons import format as fmt
from manifests.betons.labelled_views import MOST_VIEWS, Bits, bits_problem, labels_each
from manifests.betons.writer import INDEX_FIELDS, LABELLED_FIELD, SCORED_FIELDS, BetonColumns, write_beton
from manifests.errors import InputError
from manifests.images.decode import MODE_RAW, BetonImage, Encoded, ImageProblem, decode_rgb
from manifests.images.jpeg import jpeg_info

__all__ = ["INDEX_FIELDS", "Beton", "BetonColumns", "write_beton"]

_AGAIN = "the file is truncated or damaged: write it again (prune index --beton, or prune select)"


class Beton:
    """A beton opened for reading, also one that FFCV wrote (its first image and integer fields, with any names)."""

    def __init__(self, path: Path) -> None:
        self.state = FileState.of(path)
        """The file as it was mapped; check it before each pass over the images."""
        size_bytes = self.state.size_bytes
        if size_bytes < fmt.HEADER.itemsize:
            raise ValueError("it is shorter than a header")
        self.path = path
        # A plain array over the map: slices of np.memmap cost ten times as much.
        self._map = np.asarray(np.memmap(path, np.uint8, mode="r"))
        header = np.frombuffer(self._map[: fmt.HEADER.itemsize], fmt.HEADER)[0]
        self.page_bytes, count = int(header["page_size"]), int(header["num_samples"])
        fields, metadata_start = _fields(self._map, header)
        self.fields = {entry.name: entry for entry in fields}
        dtype = fmt.metadata_dtype(fields)
        metadata_end, table_start = metadata_start + count * dtype.itemsize, int(header["alloc_table_ptr"])
        if count < 1:
            raise ValueError("it holds no samples")
        if self.page_bytes < 1 or self.page_bytes & (self.page_bytes - 1):
            raise ValueError(f"page size {self.page_bytes} is not a power of two")
        if not metadata_end <= table_start < size_bytes:
            raise ValueError(
                f"its allocation table starts at byte {table_start}, not between {metadata_end} and {size_bytes}"
            )
        regions_per_sample = sum(entry.type_id not in (fmt.INT, fmt.FLOAT) for entry in fields)
        table_bytes = count * regions_per_sample * fmt.ALLOCATION.itemsize
        if size_bytes - table_start != table_bytes:
            raise ValueError(f"its allocation table has {size_bytes - table_start} bytes instead of {table_bytes}")
        self.allocations = np.frombuffer(self._map[table_start:], fmt.ALLOCATION)
        regions = _Regions(self.allocations, metadata_end, table_start)
        self._read_fields(np.frombuffer(self._map[metadata_start:metadata_end], dtype), regions)

    def _read_fields(self, metadata: NDArray[np.void], regions: "_Regions") -> None:
        self.columns: dict[str, NDArray[Any]] = {}
        """int64 or float64 (N,) for every scalar field; view_id as uint64."""
        self.target_pointer_N: NDArray[np.int64] | None = None
        self.target_shape: tuple[int, int] | None = None
        self.labelled_views_N: Bits | None = None
        """Views that have a target, see manifests/betons/labelled_views.py; None if all samples have those of all."""
        image: NDArray[np.void] | None = None
        ragged: NDArray[np.void] | None = None
        for position, entry in enumerate(self.fields.values()):
            values = metadata[f"f{position}"]
            if entry.type_id == fmt.IMAGE and image is None:
                image = values
            elif entry.type_id in (fmt.INT, fmt.FLOAT):
                # Copied: in the map they are strided, unaligned and read-only.
                column = np.ascontiguousarray(values)
                is_bits = entry.name == "view_id" or (entry.name == LABELLED_FIELD and entry.type_id == fmt.INT)
                self.columns[entry.name] = column.view(np.uint64) if is_bits else column
            elif entry.name == "target" and entry.dtype == "<i2" and len(entry.shape) == 2:
                self.target_pointer_N, self.target_shape = values.astype(np.int64), (entry.shape[0], entry.shape[1])
                if (regions.sizes("target", self.target_pointer_N) != entry.size_bytes).any():
                    raise ValueError("the region of a target has the wrong size")
            elif entry.name == "target" and entry.type_id == fmt.BYTES:
                ragged = values
        if ragged is not None and LABELLED_FIELD in self.columns:
            self._read_ragged(ragged, self.columns[LABELLED_FIELD], regions)
        if image is None:
            raise ValueError("it has no image field")
        for name in set(SCORED_FIELDS) & self.columns.keys():
            sides_N = self.columns[name]
            if sides_N.dtype != np.int64 or not ((sides_N >= 0) & (sides_N <= np.iinfo(np.int32).max)).all():
                raise ValueError(f"{name} is not the size of an image")
        self.modes_N = np.ascontiguousarray(image["mode"])
        self.widths_N, self.heights_N = image["width"].astype(np.int32), image["height"].astype(np.int32)
        if (self.modes_N > MODE_RAW).any() or (self.widths_N == 0).any() or (self.heights_N == 0).any():
            raise ValueError("an image has an unknown mode or no size")
        self.image_pointer_N = image["data_ptr"].astype(np.int64)
        self.image_size_N = regions.sizes("image", self.image_pointer_N)
        raw_bytes_N = self.widths_N.astype(np.int64) * self.heights_N * 3
        wrong = (self.modes_N == MODE_RAW) & (self.image_size_N != raw_bytes_N)
        if wrong.any():
            raise ValueError(f"row {wrong.argmax()}: the region of a raw image does not have the size of its pixels")

    def _read_ragged(self, values: NDArray[np.void], bits_N: NDArray[Any], regions: "_Regions") -> None:
        """Read where the targets of different views are: as many of one size as each sample has labelled views."""
        if bits_N.dtype != np.uint64:
            raise ValueError(f"{LABELLED_FIELD} does not say which views have a target")
        if (problem := bits_problem(bits_N, MOST_VIEWS)) is not None:
            raise ValueError(problem)
        pointer_N, count_N = values["ptr"].astype(np.int64), labels_each(bits_N)
        size_N = regions.sizes("target", pointer_N)
        words = int(size_N[0]) // (2 * int(count_N[0]))
        if words < 1 or (size_N != 2 * words * count_N).any() or (values["size"] != size_N.view(np.uint64)).any():
            raise ValueError("the region of a target has the wrong size")
        self.target_pointer_N, self.target_shape = pointer_N, (int(count_N.max()), words)
        self.labelled_views_N = bits_N

    @classmethod
    def open(cls, path: str | Path) -> "Beton":
        """Map a beton and check everything a decoder relies on. Raises InputError if anything is inconsistent."""
        path = Path(path)
        try:
            return cls(path)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise InputError(f"{path} is not a usable beton: {error}", hint=_AGAIN) from None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.modes_N)

    @cached_property
    def label_count_N(self) -> NDArray[np.int64] | None:
        """(N,) targets of each sample; None if all samples have `view_count`."""
        return None if self.labelled_views_N is None else labels_each(self.labelled_views_N)

    @property
    def view_count(self) -> int:
        """Stored target views per sample, or of that with the most; 0 without targets."""
        return 0 if self.target_shape is None else self.target_shape[0]

    @property
    def class_count(self) -> int:
        """Values per target, which are logits unless the header's labels say top_k; 0 without targets."""
        return 0 if self.target_shape is None else self.target_shape[1]

    @cached_property
    def scored_size_N2(self) -> NDArray[np.int64] | None:
        """(N, 2) width and height of the images that were scored, 0 where unknown; None if it is these."""
        if not set(SCORED_FIELDS) <= self.columns.keys():
            return None
        return np.stack([self.columns[name] for name in SCORED_FIELDS], axis=1)

    def drawn_sizes(self, row_n: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return (n, 2) width and height from which views of some rows are drawn: those of the scored images."""
        size_n2 = np.stack([self.widths_N[row_n], self.heights_N[row_n]], axis=1)
        if self.scored_size_N2 is None:
            return size_n2
        scored_n2 = self.scored_size_N2[row_n]
        return np.where((scored_n2 > 0).all(axis=1, keepdims=True), scored_n2, size_n2).astype(np.int32)

    def image_bytes(self, row: int) -> NDArray[np.uint8]:
        """Return the stored region of an image: JPEG bytes, or height * width * 3 raw ones; a view of the map."""
        pointer = int(self.image_pointer_N[row])
        return self._map[pointer : pointer + int(self.image_size_N[row])]

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8; raw images are a view of the map. Raises InputError if a JPEG cannot be decoded."""
        height, width = int(self.heights_N[row]), int(self.widths_N[row])
        data = self.image_bytes(row)
        if self.modes_N[row] == MODE_RAW:
            return data.reshape(height, width, 3)
        encoded = Encoded(data.tobytes())
        if (info := jpeg_info(encoded.data)) is not None and {info.width, info.height} != {width, height}:
            # Before memory is allocated for the size that the JPEG declares.
            raise self._another_size(row, info.width, info.height)
        try:
            pixels = decode_rgb(encoded)
        except ImageProblem as problem:
            raise InputError(f"{self.path}: row {row}: {problem}", hint=_AGAIN) from None
        if pixels.shape[:2] != (height, width):
            raise self._another_size(row, pixels.shape[1], pixels.shape[0])
        return pixels

    def _another_size(self, row: int, width: int, height: int) -> InputError:
        expected = f"{int(self.widths_N[row])}x{int(self.heights_N[row])}"
        return InputError(f"{self.path}: row {row} is {width}x{height}, its metadata says {expected}", hint=_AGAIN)

    def image(self, row: int) -> BetonImage:
        """Return the stored form of an image, to be copied into another beton byte for byte."""
        return BetonImage(
            mode=int(self.modes_N[row]),
            data=self.image_bytes(row),
            width=int(self.widths_N[row]),
            height=int(self.heights_N[row]),
        )

    def raw_block(self, row_n: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Return (n, H, W, 3) pixels if all these rows are raw and of one size, in one gather; None otherwise."""
        if len(row_n) == 0 or (self.modes_N[row_n] != MODE_RAW).any():
            return None
        height, width = int(self.heights_N[row_n[0]]), int(self.widths_N[row_n[0]])
        if (self.heights_N[row_n] != height).any() or (self.widths_N[row_n] != width).any():
            return None
        size = height * width * 3
        block = np.empty((len(row_n), size), np.uint8)
        for position, pointer in enumerate(self.image_pointer_N[row_n].tolist()):
            block[position] = self._map[pointer : pointer + size]
        return block.reshape(-1, height, width, 3)

    def targets(self, row_n: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the stored targets (n, V, C) float16 of some rows. Raises ValueError if there are none.

        If the header's labels say top_k, these are the bits of words (n, V, W) int16: view them as such. Where samples
        have targets of different views, theirs come first, in the order of these, and zeros follow.
        """
        if self.target_pointer_N is None or self.target_shape is None:
            raise ValueError(f"{self.path} has no targets")
        size = int(np.prod(self.target_shape)) * 2
        if self.label_count_N is None:
            block = np.empty((len(row_n), size), np.uint8)
            size_n = [size] * len(row_n)
        else:
            block = np.zeros((len(row_n), size), np.uint8)
            size_n = (self.label_count_N[row_n] * (self.target_shape[1] * 2)).tolist()
        for position, (pointer, held) in enumerate(zip(self.target_pointer_N[row_n].tolist(), size_n, strict=True)):
            block[position, :held] = self._map[pointer : pointer + held]
        return block.view(np.float16).reshape(-1, *self.target_shape)


def _fields(mapped: NDArray[np.uint8], header: np.void) -> tuple[list[fmt.Field], int]:
    """Return the fields a file declares, and where their descriptors end."""
    if header["version"] != fmt.VERSION:
        raise ValueError(f"it has format version {header['version']}, this reader knows {fmt.VERSION}")
    end = fmt.HEADER.itemsize + int(header["num_fields"]) * fmt.FIELD.itemsize
    if end > len(mapped):
        raise ValueError(f"its {header['num_fields']} fields do not fit in {len(mapped)} bytes")
    fields = [fmt.decode_field(row) for row in np.frombuffer(mapped[fmt.HEADER.itemsize : end], fmt.FIELD)]
    if not fields or len({entry.name for entry in fields}) < len(fields):
        raise ValueError("it has no fields, or two of the same name")
    return fields, end


class _Regions:
    """The allocation table in the order of the file, checked: inside the data, without overlaps."""

    def __init__(self, table: NDArray[np.void], start: int, end: int) -> None:
        # Compared one by one before they are added: forged sums of uint64 wrap around.
        if (table["ptr"] < start).any() or (table["ptr"] > end).any() or (table["size"] > end).any():
            raise ValueError("the allocation table points outside the data")
        table = table[table["size"] > 0]
        order = np.argsort(table["ptr"], kind="stable")
        self._pointers, self._sizes = table["ptr"][order].astype(np.int64), table["size"][order].astype(np.int64)
        ends = self._pointers + self._sizes
        if len(ends) == 0 or ends[-1] > end:
            raise ValueError("the allocation table is empty or points outside the data")
        if (ends[:-1] > self._pointers[1:]).any():
            raise ValueError("regions of the allocation table overlap")

    def sizes(self, what: str, pointer_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bytes of the region at each pointer. Raises ValueError if there is none."""
        position_N = np.minimum(np.searchsorted(self._pointers, pointer_N), len(self._pointers) - 1)
        wrong = self._pointers[position_N] != pointer_N
        if wrong.any():
            raise ValueError(f"row {wrong.argmax()}: its {what} points to no region of the allocation table")
        return self._sizes[position_N]
