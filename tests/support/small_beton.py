"""A small beton of every kind of image, and the pieces it is made of: for tests of the format itself."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.betons.reader import BetonColumns, write_beton
from manifests.images.decode import BetonImage, Encoded, Pixels, beton_form

COLUMN_NAMES = ("label", "sample_id", "view_id", "weight", "kd_weight")


def columns(count: int) -> BetonColumns:
    row_N = np.arange(count)
    return BetonColumns(
        label_N=row_N % 3,
        sample_id_N=row_N * 5 + 2,
        view_id_N=(1 << 63) + row_N.astype(np.uint64),
        weight_N=1 / (row_N + 3),
        kd_weight_N=np.linspace(-1, 1, count),
    )


def raw(height: int, width: int, seed: int = 0) -> BetonImage:
    return beton_form(Pixels(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)))


def jpeg(width: int = 20, height: int = 12, mode: str = "RGB", **options: Any) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + 2 * y) % 256]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def encoded(size_bytes: int) -> BetonImage:
    """A region of any size, which only JPEGs have; nothing here decodes it."""
    return BetonImage(mode=0, data=np.full(size_bytes, 7, np.uint8), width=1, height=1)


IMAGES = [raw(4, 6, 1), beton_form(Encoded(jpeg())), raw(1, 1, 2), beton_form(Encoded(jpeg(33, 9))), raw(4, 6, 3)]
TARGETS = np.arange(5 * 3 * 2, dtype=np.float16).reshape(5, 3, 2) - 7


def write(path: Path, images: list[BetonImage] = IMAGES, targets: NDArray[np.float16] | None = TARGETS) -> Path:
    shape = None if targets is None else (targets.shape[1], targets.shape[2])
    write_beton(path, images, columns(len(images)), targets=targets, target_shape=shape)
    return path
