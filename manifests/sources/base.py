"""A source of labelled images, of any kind that can be read, and reading it with a pool of threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from manifests.images.decode import ImageProblem, RawImage

R = TypeVar("R")
BLOCK_ROWS = 32
ReadRows = Callable[[Sequence[int]], list[RawImage | ImageProblem]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Labelled images in canonical order: keys sorted by their UTF-8 bytes, row = position in that order."""

    kind: str
    """folder, parquet, idx, cifar, digits or beton."""
    name: str
    """Name of the data set: that of its folder."""
    split: str | None
    """The split that was opened, as the source spells it; None if there are no splits."""
    class_names: tuple[str, ...]
    """Ordered, unique; label c means class_names[c]."""
    keys: list[str] = field(repr=False)
    """Unique, sorted by their UTF-8 bytes."""
    labels_N: NDArray[np.int32] = field(repr=False)
    """(N,), each in [0, C)."""
    read: ReadRows = field(repr=False)
    """Return the images of some rows, in the order requested, with a problem in place of an unreadable one.

    May be called from several threads at once. Nothing is decoded.
    """
    root: Path | None = None
    """Folder of the image files, whose paths below it are the keys; None where images are rows of something."""


Opener = Callable[[Path, str | None, Path | None, str | None], Source]
"""A function of a path, a split, a file of class names and a label column, each None if it is not named."""


def map_images(
    source: Source,
    rows: Sequence[int],
    function: Callable[[int, RawImage | ImageProblem], R],
    workers: int,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[R]:
    """Read rows and yield function(row, image) in the order of `rows`, holding no more than a few blocks.

    Decoding and hashing release the interpreter lock, so threads are enough. Only `function`'s results are kept, and
    at most 2 * workers blocks of them: let it return something small.
    """
    blocks = [rows[start : start + block_rows] for start in range(0, len(rows), block_rows)]

    def work(block: Sequence[int]) -> list[R]:
        return [function(row, image) for row, image in zip(block, source.read(block), strict=True)]

    pending: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="images") as pool:
        try:
            for block in blocks:
                pending.append(pool.submit(work, block))
                if len(pending) >= 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
