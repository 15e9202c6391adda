"""Betons of noise and of JPEGs for loader tests."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.images.decode import BetonImage


def raw_image(pixels: np.ndarray) -> BetonImage:
    """(H, W, 3) pixels as a beton stores them."""
    height, width = pixels.shape[:2]
    return BetonImage(mode=1, data=np.ascontiguousarray(pixels).reshape(-1), width=width, height=height)


def jpeg_image(data: bytes, size: tuple[int, int] | None = None) -> BetonImage:
    """JPEG bytes as a beton stores them; `size` (width, height) overrides what the file says."""
    width, height = size or Image.open(io.BytesIO(data)).size
    return BetonImage(mode=0, data=np.frombuffer(data, np.uint8), width=width, height=height)


def jpeg_bytes(pixels: np.ndarray, **options: object) -> bytes:
    """Encode with Pillow."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", **{"quality": 90, **options})
    return stream.getvalue()


def smooth(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture with large and small structure, (H, W, 3) uint8."""
    small = generator.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return (picture + generator.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)


def make_beton(path: Path, images: Sequence[BetonImage], *, views: int = 0, classes: int = 5, seed: int = 0) -> Beton:
    """Write and open a beton with random columns and (views > 0) targets."""
    generator, count = np.random.default_rng(seed), len(images)
    columns = BetonColumns(
        label_N=generator.integers(0, classes, count),
        sample_id_N=np.arange(count) * 3,
        view_id_N=generator.integers(0, 2**64, count, dtype=np.uint64),
        weight_N=generator.uniform(0.5, 2, count),
        kd_weight_N=generator.uniform(0, 1, count),
    )
    targets = generator.normal(0, 3, (count, views, classes)).astype(np.float16)
    write_beton(
        path,
        images,
        columns,
        targets=list(targets) if views else None,
        target_shape=(views, classes) if views else None,
    )
    return Beton.open(path)
