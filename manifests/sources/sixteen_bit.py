"""Images of 16 bits per channel: what 8 bits show of them, found by a sample."""

from dataclasses import dataclass

import numpy as np

from manifests.images.decode import Encoded, ImageProblem, RawImage, decode_rgb, is_16_bit
from manifests.sources.base import Source, map_images

PLACES, RUN = 4, 8
"""Runs of images are sampled, because a file of many rows is read in groups of them."""
_SMALL_RANGE = 32
"""Grey levels of 256 between the darkest and the lightest hundredth of the pixels: 12 bits in 16 have 16."""
_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class SixteenBit:
    """What a sample of a data set holds."""

    sampled: int
    deep: tuple[str, ...] = ()
    """Keys of the sampled images that have 16 bits per channel."""
    flat: tuple[str, ...] = ()
    """Of these, the keys of those that use a small part of the range."""

    @property
    def conversion(self) -> str | None:
        """How they are converted, in one line; None if there are none."""
        if not self.deep:
            return None
        return f"of 16 bits ({len(self.deep)} of {self.sampled} sampled), of which the upper 8 are kept"

    @property
    def warning(self) -> str | None:
        """One line if most of them use a small part of the range; else None."""
        if 2 * len(self.flat) <= len(self.deep):
            return None
        return (
            f"{len(self.flat)} of {len(self.deep)} sampled images of 16 bits use less than an eighth of the range, "
            f"such as {self.flat[0]}: their upper 8 bits are nearly black, or of one grey; scale them to 8 bits first"
        )


def sixteen_bit(source: Source) -> SixteenBit:
    """Look into RUN images at PLACES evenly spaced places."""
    count = len(source.keys)
    starts = np.linspace(0, max(count - RUN, 0), PLACES).astype(np.int64)
    rows = np.unique((starts[:, None] + np.arange(min(RUN, count))).ravel()).tolist()
    is_flat = dict(zip(rows, map_images(source, rows, _is_flat, _WORKERS, block_rows=RUN), strict=True))
    return SixteenBit(
        sampled=len(rows),
        deep=tuple(source.keys[row] for row in rows if is_flat[row] is not None),
        flat=tuple(source.keys[row] for row in rows if is_flat[row]),
    )


def _is_flat(_row: int, image: RawImage | ImageProblem) -> bool | None:
    """Return whether an image of 16 bits uses a small part of the range; None for any other image."""
    if not isinstance(image, Encoded) or not is_16_bit(image.data):
        return None
    try:
        darkest, lightest = np.percentile(decode_rgb(image), (1, 99))
    except ImageProblem:
        return None
    return bool(lightest - darkest < _SMALL_RANGE)
