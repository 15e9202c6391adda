"""Compare the images of a beton with the content hashes of a manifest: a mapped file has no checksum of its own.

Comparable are JPEGs of the indexed size, which are copied byte for byte, and pixels of sources that store pixels. What
was decoded from a PNG, or shrunk, has no hash to compare; `prune verify` covers it by the sha256 of the file.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.cores import core_count
from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.images.decode import MODE_JPEG, Encoded, Pixels
from manifests.images.identity import content_hash
from manifests.manifest import Manifest

_PIXEL_SOURCES = ("idx", "cifar", "npz", "npy", "svhn", "stl10", "digits")
_ROWS_A_TASK = 512


def stores_pixels(manifest: Manifest) -> bool:
    """Return whether the hashes of a manifest are those of pixels, not of encoded files."""
    return manifest.header.data.source in _PIXEL_SOURCES


def check_hashes(beton: Beton, row_n: NDArray[np.int64], samples: pa.Table, *, of_pixels: bool) -> None:
    """Raise InputError naming the first of `samples` whose image in a beton, at `row_n`, is not the indexed one.

    of_pixels: as `stores_pixels`.
    """
    if beton.scored_size_N2 is not None:
        # Cut from a copy of other sizes, whose bytes are others too.
        return
    beton.state.check()
    size_n = samples.column("size_bytes").to_numpy()
    width_n, height_n = (samples.column(side).to_numpy() for side in ("width", "height"))
    is_jpeg_n = beton.modes_N[row_n] == MODE_JPEG
    if of_pixels:
        comparable_n = ~is_jpeg_n & (beton.widths_N[row_n] == width_n) & (beton.heights_N[row_n] == height_n)
    else:
        comparable_n = is_jpeg_n & (beton.image_size_N[row_n] == size_n)
    hashes = samples.column("content_hash")
    expected = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    digests = expected.to_pylist()

    def first_wrong(places: NDArray[np.int64]) -> int | None:
        return next((place for place in places.tolist() if _hash(place) != digests[place]), None)

    def _hash(place: int) -> bytes:
        row = int(row_n[place])
        if is_jpeg_n[place]:
            return content_hash(Encoded(beton.image_bytes(row).tobytes()))
        pixels, pixel_count = beton.pixels(row), int(width_n[place]) * int(height_n[place])
        return content_hash(Pixels(pixels[..., 0] if size_n[place] == pixel_count else pixels))

    places = np.flatnonzero(comparable_n)
    tasks = [places[start : start + _ROWS_A_TASK] for start in range(0, len(places), _ROWS_A_TASK)]
    with ThreadPoolExecutor(core_count()) as pool:
        wrong = next((found for found in pool.map(first_wrong, tasks) if found is not None), None)
    if wrong is not None:
        raise InputError(
            f"{beton.path} is damaged: the image of {samples.column('key')[wrong].as_py()} is not the one that was "
            "indexed",
            hint="write it again: prune index DATA --beton; or name the images with --data",
        )
