"""Thumbnails: eight by eight means of an image's pixels, which survive another encoding and another size.

They tell whether two files show the same picture without either file: their mean difference is a few grey levels where
an image was only encoded again, and tens where it is another.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.header import Thumbnails
from manifests.manifest import Manifest

TABLE = "thumbnails"
SIDE_PX = 8
THUMBNAIL_BYTES = SIDE_PX * SIDE_PX * 3
_COLUMN = "pixels"
_BAND_ROWS = 65_536


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(192,) means of the pixels (H, W, 3) over the area of each cell of an 8x8 grid, row by row, RGB, uint8.

    In whole numbers, rounded half up: the same on every machine.
    """
    height, width = pixels.shape[:2]
    rows_8W3 = np.stack([_weighted_sum(pixels, cell) for cell in range(SIDE_PX)])
    cells_883 = np.stack([_weighted_sum(rows_8W3.swapaxes(0, 1), cell) for cell in range(SIDE_PX)], axis=1)
    area = height * width
    return np.asarray((2 * cells_883 + area) // (2 * area), np.uint8).reshape(-1)


def _weighted_sum(values: NDArray[np.integer], cell: int) -> NDArray[np.int64]:
    """Sum over that eighth of the first axis, each value by how many eighths of it lie inside; int64."""
    start, stop = cell * len(values), (cell + 1) * len(values)
    first, last = start // SIDE_PX, (stop - 1) // SIDE_PX
    total = SIDE_PX * values[first : last + 1].sum(axis=0, dtype=np.int64)
    total -= (start - SIDE_PX * first) * values[first].astype(np.int64)
    total -= (SIDE_PX * (last + 1) - stop) * values[last].astype(np.int64)
    return np.asarray(total, np.int64)


def thumbnails_block() -> Thumbnails:
    """What a header says of stored thumbnails."""
    return Thumbnails(side_px=SIDE_PX)


def thumbnails_table(sample_id_n: NDArray[np.int64], thumbnail_nP: NDArray[np.uint8]) -> pa.Table:
    """The `thumbnails` rows of n readable samples; thumbnails (n, 192)."""
    kind = pa.list_(pa.field("element", pa.uint8(), nullable=False), THUMBNAIL_BYTES)
    values = pa.array(np.ascontiguousarray(thumbnail_nP, np.uint8).reshape(-1))
    schema = pa.schema([pa.field("sample_id", pa.int64(), nullable=False), pa.field(_COLUMN, kind, nullable=False)])
    columns = [pa.array(sample_id_n, pa.int64()), pa.FixedSizeListArray.from_arrays(values, type=kind)]
    return pa.Table.from_arrays(columns, schema=schema)


def carried_tables(manifest: Manifest) -> list[str]:
    """The table of thumbnails, where a manifest has it and it was pulled: what is made of the manifest has it too."""
    return [TABLE] if manifest.has(TABLE) and TABLE not in manifest.not_pulled else []


def stored_thumbnails(manifest: Manifest, sample_id_n: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, 192) thumbnails of some samples; InputError where the table has no such samples, or is no such table."""
    thumbnail_nP = np.zeros((len(sample_id_n), THUMBNAIL_BYTES), np.uint8)
    found_n = np.zeros(len(sample_id_n), np.bool_)
    order_n = np.argsort(sample_id_n, kind="stable")
    sorted_n = sample_id_n[order_n]
    for entry in manifest.files(TABLE):
        part = manifest.part(entry, ["sample_id", _COLUMN])
        id_m, thumbnail_mP = _columns(part, manifest)
        at_n = np.searchsorted(id_m, sorted_n)
        here_n = at_n < len(id_m)
        here_n[here_n] = id_m[at_n[here_n]] == sorted_n[here_n]
        thumbnail_nP[order_n[here_n]] = thumbnail_mP[at_n[here_n]]
        found_n[order_n[here_n]] = True
    if not found_n.all():
        raise InputError(
            f"{manifest.where}: sample {int(sample_id_n[np.argmin(found_n)])} has no thumbnail",
            hint="the manifest is incomplete or damaged: fetch or make it again",
        )
    return thumbnail_nP


def mean_difference(one_nP: NDArray[np.uint8], other_nP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n,) mean absolute difference of thumbnails (n, 192), in grey levels of 0 to 255."""
    difference_n = np.zeros(len(one_nP), np.float32)
    for start in range(0, len(one_nP), _BAND_ROWS):
        band = slice(start, start + _BAND_ROWS)
        difference_n[band] = np.abs(one_nP[band].astype(np.int16) - other_nP[band]).mean(axis=1, dtype=np.float32)
    return difference_n


def _columns(part: pa.Table, manifest: Manifest) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    ids, pixels = part.column("sample_id").combine_chunks(), part.column(_COLUMN).combine_chunks()
    kind = pixels.type
    is_whole = pa.types.is_fixed_size_list(kind) and kind.list_size == THUMBNAIL_BYTES
    if not is_whole or kind.value_type != pa.uint8() or ids.type != pa.int64() or ids.null_count:
        raise InputError(f"{manifest.where}: a part of {TABLE} holds no {THUMBNAIL_BYTES} bytes a sample")
    flat = pixels.flatten()
    if pixels.null_count or flat.null_count:
        raise InputError(f"{manifest.where}: a part of {TABLE} has rows without a value")
    id_m: NDArray[np.int64] = ids.to_numpy()
    thumbnail_mP: NDArray[np.uint8] = flat.to_numpy().reshape(-1, THUMBNAIL_BYTES)
    return id_m, thumbnail_mP
