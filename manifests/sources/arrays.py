"""Images stored in one array: the idx files of MNIST and its successors, and the handwritten digits of scikit-learn."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.images.decode import ImageProblem, Pixels, RawImage
from manifests.sources.base import ReadOptions, Source
from manifests.sources.names import data_set_name, named_labels, names_beside, refuse_label, row_keys
from manifests.sources.read_as import ReadAs
from manifests.sources.splits import choose_split

_IDX_SPLITS = {"train": "train", "test": "t10k"}
_UBYTE = 0x08
# Deflate cannot pack more than 1032 bytes into one.
_DEFLATE_RATIO = 1032
_CHUNK_BYTES = 16 << 20
_GREY_LEVELS = 16


def read_array(images: NDArray[np.uint8], rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    """Return some rows of an array (N, H, W) or (N, H, W, 3), as views of it."""
    return [Pixels(images[row]) for row in rows]


def find_idx(path: Path) -> Path | None:
    """Return the folder at or below `path` (DIR, DIR/raw, DIR/NAME/raw) that holds idx files; None if none does."""
    return next((folder for folder in (path, path / "raw", *sorted(path.glob("*/raw"))) if _idx_splits(folder)), None)


def open_idx(folder: Path, options: ReadOptions) -> Source:
    """Open {train,t10k}-images-idx3-ubyte[.gz] and their labels."""
    refuse_label(options.label, folder)
    chosen = choose_split(_idx_splits(folder), options.split, folder)
    prefix = _IDX_SPLITS[chosen]
    images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
    labels_path = _idx_file(folder, f"{prefix}-labels-idx1-ubyte")
    keys = row_keys(chosen, len(images))
    known = None if options.classes is not None else names_beside(folder, "names.json", "classes.txt")
    class_names, labels_N = named_labels(read_idx(labels_path, 1), keys, options.classes, known, labels_path)
    return Source(
        kind="idx",
        name=data_set_name(folder),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(read_array, images),
        read_as=ReadAs(labels=f"the file {labels_path.name}", split_found="by the names of the files"),
    )


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzip; never more than its header declares."""
    packed = path.suffix == ".gz"
    try:
        size_bytes = path.stat().st_size
        with cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb") as stream:
            return _read_idx(stream, dimensions, size_bytes * (_DEFLATE_RATIO if packed else 1))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a whole idx file: {error}", hint="copy or download the file again") from None


def _read_idx(stream: IO[bytes], dimensions: int, most_bytes: int) -> NDArray[np.uint8]:
    magic = _read_exactly(stream, 4)
    if magic != bytes((0, 0, _UBYTE, dimensions)):
        raise ValueError(f"it starts with {magic.hex()}, expected 0000{_UBYTE:02x}{dimensions:02x}")
    shape = tuple(np.frombuffer(_read_exactly(stream, 4 * dimensions), ">u4").tolist())
    count = math.prod(shape)
    if 0 in shape or count > most_bytes:
        raise ValueError(f"its header declares {'x'.join(map(str, shape))} bytes, which it cannot hold")
    data = _read_exactly(stream, count)
    if stream.read(1):
        raise ValueError("it continues after the last value")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    parts = []
    missing = count
    while missing:
        part = stream.read(min(missing, _CHUNK_BYTES))
        if not part:
            raise ValueError(f"it ends {missing} bytes too early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _idx_splits(folder: Path) -> list[str]:
    return [split for split, prefix in _IDX_SPLITS.items() if _idx_files(folder, f"{prefix}-images-idx3-ubyte")]


def _idx_files(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _idx_file(folder: Path, name: str) -> Path:
    found = _idx_files(folder, name)
    if not found:
        raise InputError(f"{folder} holds no {name}[.gz]", hint="copy or download the file again")
    return found[0]


def open_demo(name: str, options: ReadOptions) -> Source:
    """Open `digits`: 1,797 images of 8x8 px in 10 classes, 1,298 for training and 499 for testing.

    The 0..16 grey levels become round(v * 255 / 16). In each class, images are ordered by the sha256 of these pixels;
    the first 5/18 of them, rounded, are the test split. Rows keep scikit-learn's order.
    """
    refuse_label(options.label, f"demo:{name}")
    if name != "digits":
        raise UsageError(f"unknown demo data set {name!r}", hint="known: demo:digits")
    from sklearn.datasets import load_digits

    chosen = choose_split(("train", "test"), options.split, "demo:digits")
    digits = load_digits()
    images = np.floor(digits.images * 255 / _GREY_LEVELS + 0.5).astype(np.uint8)
    held_out_N = _held_out(images, digits.target)
    rows = np.flatnonzero(held_out_N if chosen == "test" else ~held_out_N)
    keys, known = row_keys(chosen, len(rows)), tuple(str(name) for name in digits.target_names)
    class_names, labels_N = named_labels(digits.target[rows], keys, options.classes, known, "demo:digits")
    return Source(
        kind="digits",
        name="digits",
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(read_array, images[rows]),
        read_as=ReadAs(labels="those of scikit-learn", split_found="by content: 5 of 18 images are the test split"),
    )


def _held_out(images: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    held_out_N = np.zeros(len(images), np.bool_)
    for label in np.unique(labels_N):
        ranked = sorted(np.flatnonzero(labels_N == label).tolist(), key=lambda row: (digests[row], row))
        held_out_N[ranked[: round(len(ranked) * 5 / 18)]] = True
    return held_out_N
