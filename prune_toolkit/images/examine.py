"""Facts about one image: its size, content hash, dimensions, thumbnail, or why it cannot be read."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manifests.images.decode import Encoded, ImageProblem, RawImage, decode_rgb
from manifests.images.identity import HASH_BYTES, content_hash
from manifests.images.jpeg import jpeg_info
from manifests.images.thumbnails import thumbnail

Check = Literal["decode", "header"]


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """The facts about one image in its row of `samples`."""

    size_bytes: int
    content_hash: bytes
    width: int = 0
    height: int = 0
    problem: str | None = None
    thumbnail: bytes | None = None
    """None unless it was requested and the image could be decoded."""


def examine(
    image: RawImage | ImageProblem, check: Check = "decode", *, with_thumbnail: bool = False
) -> tuple[SampleFacts, NDArray[np.uint8] | None]:
    """Return facts about one image, and its RGB pixels (H, W, 3) if `check` decoded it successfully."""
    if isinstance(image, ImageProblem):
        return SampleFacts(size_bytes=0, content_hash=bytes(HASH_BYTES), problem=str(image)), None
    size_bytes = len(image.data) if isinstance(image, Encoded) else image.array.nbytes
    facts = SampleFacts(size_bytes=size_bytes, content_hash=content_hash(image))
    try:
        info = jpeg_info(image.data) if check == "header" and isinstance(image, Encoded) else None
        if info is not None and info.whole:
            pixels, width, height = None, info.width, info.height
            if info.exif_orientation >= 5:
                width, height = height, width
        else:
            pixels = decode_rgb(image)
            height, width = pixels.shape[:2]
    except ImageProblem as problem:
        return replace(facts, problem=str(problem)), None
    small = thumbnail(pixels).tobytes() if with_thumbnail and pixels is not None else None
    return replace(facts, width=width, height=height, thumbnail=small), pixels
