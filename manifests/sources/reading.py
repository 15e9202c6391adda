"""Read images of a source with a pool of threads, in order, holding no more than a few blocks."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from manifests.images.decode import ImageProblem, RawImage
from manifests.sources.base import Source

R = TypeVar("R")
BLOCK_ROWS = 32


def map_images(
    source: Source,
    rows: Sequence[int],
    function: Callable[[int, RawImage | ImageProblem], R],
    workers: int,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[R]:
    """Read rows and yield function(row, image) in the order of `rows`.

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
