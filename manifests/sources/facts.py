"""Facts about the images of a source, found without keeping the images: sizes, content hashes, thumbnails."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.images.decode import Encoded, ImageProblem, RawImage, decode_rgb
from manifests.images.identity import HASH_BYTES, content_hash
from manifests.images.thumbnails import thumbnail
from manifests.sources.base import Source, map_images
from manifests.sources.folder import file_sizes

R = TypeVar("R")
Rows = NDArray[np.int64]
_STAT_ROWS = 2048
_STATS_PER_WORKER = 4
_UNKNOWN = -2


class PixelFacts(NamedTuple):
    """Thumbnail of an image, 192 bytes, and its sides in pixels; empty if it was not decoded."""

    thumbnail: bytes = b""
    width: int = 0
    height: int = 0


class SourceFacts:
    """A source with a memory: no image is hashed twice, and no size is looked up twice."""

    def __init__(self, source: Source, workers: int) -> None:
        self.source, self.workers = source, workers
        self._hash_M16 = np.zeros((len(source.keys), HASH_BYTES), np.uint8)
        self._is_hashed_M = np.zeros(len(source.keys), np.bool_)
        self._size_M = np.full(len(source.keys), _UNKNOWN, np.int64)

    def sizes(self, row_n: Rows) -> Rows:
        """Return (n,) bytes of some images, of files in a folder without reading them; -1 if one cannot be read."""
        left_n = row_n[self._size_M[row_n] == _UNKNOWN]
        self._size_M[left_n] = self._sizes(left_n)
        return self._size_M[row_n]

    def _sizes(self, row_n: Rows) -> Rows:
        root, keys = self.source.root, self.source.keys
        if root is None:
            return np.fromiter(self._map(row_n, _size, "reading sizes"), np.int64, len(row_n))
        paths = [keys[row] for row in row_n.tolist()]
        bands = [paths[start : start + _STAT_ROWS] for start in range(0, len(paths), _STAT_ROWS)]
        # A network file system answers slowly, but many requests at once.
        with ThreadPoolExecutor(max_workers=_STATS_PER_WORKER * self.workers, thread_name_prefix="sizes") as pool:
            return np.concatenate([np.zeros(0, np.int64), *pool.map(partial(file_sizes, root), bands)])

    def hashes(self, row_n: Rows) -> NDArray[np.uint8]:
        """Return (n, 16) content hashes of some images; zeros if one cannot be read."""
        left_n = row_n[~self._is_hashed_M[row_n]]
        for row, digest in zip(left_n.tolist(), self._map(left_n, _hash, "hashing"), strict=True):
            self._hash_M16[row] = np.frombuffer(digest, np.uint8)
        self._is_hashed_M[left_n] = True
        return self._hash_M16[row_n]

    def seen(self, row_n: Rows, hash_n16: NDArray[np.uint8] | None = None) -> Iterator[PixelFacts | None]:
        """Yield thumbnail and sides of each image, None if it cannot be decoded.

        hash_n16: images with these content hashes are not decoded.
        """
        place_M = np.full(len(self.source.keys), -1, np.int64)
        place_M[row_n] = np.arange(len(row_n))

        def work(row: int, image: RawImage | ImageProblem) -> PixelFacts | None:
            if isinstance(image, ImageProblem):
                return None
            if hash_n16 is not None:
                digest = content_hash(image)
                self._hash_M16[row], self._is_hashed_M[row] = np.frombuffer(digest, np.uint8), True
                if digest == hash_n16[place_M[row]].tobytes():
                    return PixelFacts()
            try:
                pixels = decode_rgb(image)
            except ImageProblem:
                return None
            return PixelFacts(thumbnail(pixels).tobytes(), pixels.shape[1], pixels.shape[0])

        return self._map(row_n, work, "comparing pixels")

    def _map(self, row_n: Rows, work: Callable[[int, RawImage | ImageProblem], R], what: str) -> Iterator[R]:
        read = map_images(self.source, row_n.tolist(), work, self.workers)
        with Progress(len(row_n), what) as progress, closing(read):
            for result in read:
                progress.advance(1)
                yield result


def _hash(_row: int, image: RawImage | ImageProblem) -> bytes:
    return bytes(HASH_BYTES) if isinstance(image, ImageProblem) else content_hash(image)


def _size(_row: int, image: RawImage | ImageProblem) -> int:
    if isinstance(image, ImageProblem):
        return -1
    return len(image.data) if isinstance(image, Encoded) else image.array.nbytes
