"""Thumbnails: 8x8 means of an image's pixels, which survive another encoding and another size.

They show whether two files hold the same picture, without the files: their mean difference is a few grey levels if an
image was only encoded again, and tens if it is another image.
"""

import numpy as np
from numpy.typing import NDArray

SIDE_PX = 8
THUMBNAIL_BYTES = SIDE_PX * SIDE_PX * 3
_BAND_ROWS = 65_536


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (192,) means of the pixels (H, W, 3) over the area of each cell of an 8x8 grid, row by row, RGB, uint8.

    Computed in integers, rounded half up: the same on every machine.
    """
    height, width = pixels.shape[:2]
    rows_8W3 = np.stack([_weighted_sum(pixels, cell) for cell in range(SIDE_PX)])
    cells_883 = np.stack([_weighted_sum(rows_8W3.swapaxes(0, 1), cell) for cell in range(SIDE_PX)], axis=1)
    area = height * width
    return np.asarray((2 * cells_883 + area) // (2 * area), np.uint8).reshape(-1)


def _weighted_sum(values: NDArray[np.integer], cell: int) -> NDArray[np.int64]:
    """Sum one eighth of the first axis, each value weighted by how many eighths of it lie inside; int64."""
    start, stop = cell * len(values), (cell + 1) * len(values)
    first, last = start // SIDE_PX, (stop - 1) // SIDE_PX
    total = SIDE_PX * values[first : last + 1].sum(axis=0, dtype=np.int64)
    total -= (start - SIDE_PX * first) * values[first].astype(np.int64)
    total -= (SIDE_PX * (last + 1) - stop) * values[last].astype(np.int64)
    return np.asarray(total, np.int64)


def mean_difference(one_nP: NDArray[np.uint8], other_nP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n,) mean absolute difference of thumbnails (n, 192), in grey levels of 0 to 255."""
    difference_n = np.zeros(len(one_nP), np.float32)
    for start in range(0, len(one_nP), _BAND_ROWS):
        band = slice(start, start + _BAND_ROWS)
        difference_n[band] = np.abs(one_nP[band].astype(np.int16) - other_nP[band]).mean(axis=1, dtype=np.float32)
    return difference_n
