"""A source of labelled images, of any kind that can be read, and reading it with a pool of threads."""

import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.images.decode import ImageProblem, RawImage
from manifests.images.identity import NO_CLASS
from manifests.sources.read_as import NO_LABELS, ReadAs

R = TypeVar("R")
BLOCK_ROWS = 32
UNLABELLED: tuple[str, ...] = (NO_CLASS,)
"""The class names of images without labels."""
ReadRows = Callable[[Sequence[int]], list[RawImage | ImageProblem]]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What decides how data is read where it is not certain; None: find out."""

    split: str | None = None
    """Name of a split; NO_SPLITS: the data has none; HELD_OUT: the one to validate on."""
    classes: Path | None = None
    """File of class names."""
    label: str | None = None
    """Column of the labels."""
    configuration: str | None = None
    """Configuration of a hub's repository, the folder of its Parquet files; or the set of EMNIST."""
    list_file: Path | None = None
    """List of the files and their labels."""
    file_column: str | None = None
    split_column: str | None = None
    unlabelled: bool | None = None
    """True: the images have no labels, and any that are there are not used."""

    def __post_init__(self) -> None:
        asked = {"--label": self.label, "--list": self.list_file}
        if self.unlabelled and (flag := next((flag for flag, value in asked.items() if value is not None), None)):
            raise UsageError(f"--unlabelled and {flag} contradict each other", hint="leave out one of the two")
        # A notebook gives text for paths.
        for name in ("classes", "list_file"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))

    def as_local(self) -> dict[str, str | bool | None]:
        """Return the entries for local.json, with absolute paths."""
        return {
            name: str(value.resolve()) if isinstance(value, Path) else value
            for name, value in ((entry.name, getattr(self, entry.name)) for entry in fields(ReadOptions))
        }

    @staticmethod
    def in_local(local: Mapping[str, Any]) -> "ReadOptions":
        """Return the options that an earlier command wrote into local.json."""
        named: dict[str, Any] = {entry.name: local.get(entry.name) for entry in fields(ReadOptions)}
        paths = {name: Path(named[name]) for name in ("classes", "list_file") if named[name] is not None}
        return ReadOptions(**{**named, **paths})


def local_problem(local: Mapping[str, Any]) -> str | None:
    """Return which entry of local.json is not the text or flag that it should be, None if all are."""
    flags = ("unlabelled", "is_copy")
    for name in ("data", "beton", *(entry.name for entry in fields(ReadOptions)), "is_copy"):
        value = local.get(name)
        is_right = isinstance(value, bool) if name in flags else isinstance(value, str) and _names_a_file(value)
        if value is not None and not is_right:
            return f"its {name!r} is not {'true or false' if name in flags else 'text'}"
    return None


def _names_a_file(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Labelled images in canonical order: keys sorted by their UTF-8 bytes, row = position in that order."""

    kind: str
    """folder, parquet, idx, cifar, digits, beton, tar, zip, webdataset, arrow, npz, npy, svhn or stl10."""
    name: str
    """Name of the data set: that of its folder."""
    split: str | None
    """The split that was opened, as the source spells it; None if there are no splits."""
    class_names: tuple[str, ...]
    """Ordered, unique; label c means class_names[c]. Only UNLABELLED for images without labels."""
    keys: list[str] = field(repr=False)
    """Unique, sorted by their UTF-8 bytes."""
    labels_N: NDArray[np.int32] = field(repr=False)
    """(N,), each in [0, C)."""
    read: ReadRows = field(repr=False)
    """Return the images of some rows, in the order requested, with a problem in place of an unreadable one.

    May be called from several threads at once. Nothing is decoded.
    """
    read_as: ReadAs = field(repr=False)
    """How the split and the labels were found, and what was left out."""
    root: Path | None = None
    """Folder of the image files, whose paths below it are the keys; None where images are rows of something."""

    @property
    def is_unlabelled(self) -> bool:
        """Return whether the images have no labels."""
        return self.class_names == UNLABELLED


Opener = Callable[[Path, ReadOptions], Source]


def without_labels(source: Source) -> Source:
    """Return the images of a source as unlabelled ones; its keys and their order stay."""
    found = source.read_as.labels
    told = NO_LABELS if found == NO_LABELS else f"{NO_LABELS}; not used: {found}"
    return replace(
        source,
        class_names=UNLABELLED,
        labels_N=np.zeros(len(source.keys), np.int32),
        read_as=replace(source.read_as, labels=told),
    )


def map_images(
    source: Source,
    rows: Sequence[int],
    function: Callable[[int, RawImage | ImageProblem], R],
    workers: int,
    block_rows: int = BLOCK_ROWS,
) -> Generator[R, None, None]:
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
