"""The idx files of MNIST and its successors, and those of EMNIST, which hold images on their side."""

import gzip
import math
import re
import string
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.sources.arrays import read_array
from manifests.sources.base import ReadOptions, Source
from manifests.sources.names import data_set_name, file_of_names, named_by, named_labels, refuse_label, row_keys
from manifests.sources.read_as import ReadAs
from manifests.sources.splits import choose_split

_NAME = re.compile(
    r"(?:emnist-(?P<set>[a-z]+)-(?P<split>train|test)|(?P<mnist>train|t10k))-images[-.]idx3-ubyte(?:\.gz)?"
)
_SPLITS = {"train": "train", "t10k": "test"}
_UBYTE = 0x08
# Deflate cannot pack more than 1032 bytes into one.
_DEFLATE_RATIO = 1032
_CHUNK_BYTES = 16 << 20
MAX_UNPACKED_BYTES = 4 << 30
"""Limit of what a packed file may hold, as for packed archives; EMNIST, the largest set, has 0.6 GiB."""
_ALL = string.digits + string.ascii_uppercase + string.ascii_lowercase
_MERGED = "".join(name for name in _ALL if name not in "cijklmopsuvwxyz")
EMNIST_NAMES = {
    "byclass": _ALL,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
}
"""Class names of the sets of EMNIST, one character each, in the order of their labels."""


class _IdxFile(NamedTuple):
    configuration: str
    """The set of EMNIST; "" for files of MNIST and its other successors."""
    split: str
    path: Path


def find_idx(path: Path) -> Path | None:
    """Return the folder (DIR, DIR/raw, DIR/gzip, DIR/NAME/raw) that holds idx files; None if none does."""
    places = (path, path / "raw", path / "gzip", *sorted(path.glob("*/raw")))
    return next((folder for folder in places if _image_files(folder)), None)


def open_idx(folder: Path, options: ReadOptions) -> Source:
    """Open {train,t10k}-images-idx3-ubyte[.gz], or emnist-SET-{train,test}-..., and their labels.

    Images of EMNIST lie on their side, as torchvision shows them, and the labels of its letters count from 0. Raises
    InputError if there are several sets of EMNIST and none is chosen.
    """
    refuse_label(options.label, folder)
    files = _chosen_set(folder, _image_files(folder), options.configuration)
    chosen = choose_split([file.split for file in files], options.split, folder)
    found = next(file for file in files if file.split == chosen)
    images, labels_path = read_idx(found.path, 3), _labels_of(found.path)
    keys = row_keys(chosen, len(images))
    labels_N: NDArray[np.integer[Any]] = read_idx(labels_path, 1)
    file, known = file_of_names(options.classes, folder, "names.json", "classes.txt"), None
    labels_from, turned, name = f"the file {labels_path.name}", None, data_set_name(folder)
    if found.configuration:
        first, known = _emnist_names(folder, found.configuration)
        name = f"emnist-{found.configuration}"
        turned = "on their side, as EMNIST stores them and torchvision shows them"
        if first:
            labels_N = labels_N - np.int64(first)
            labels_from += f", which counts from {first}"
    class_names, checked_N = named_labels(labels_N, keys, file, None if file else known, labels_path)
    return Source(
        kind="idx",
        name=name,
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=checked_N,
        read=partial(read_array, images),
        read_as=ReadAs(labels=labels_from + named_by(file), split_found="by the names of the files", images=turned),
    )


def _image_files(folder: Path) -> list[_IdxFile]:
    """Return the files of images in a folder; of one that is there twice the one that is not packed."""
    found: dict[tuple[str, str], _IdxFile] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if (match := _NAME.fullmatch(path.name)) and path.is_file():
                file = _IdxFile(match["set"] or "", match["split"] or _SPLITS[match["mnist"]], path)
                found.setdefault((file.configuration, file.split), file)
    return list(found.values())


def _chosen_set(folder: Path, files: list[_IdxFile], asked: str | None) -> list[_IdxFile]:
    sets = sorted({file.configuration for file in files})
    known = ", ".join(name or "those without a name" for name in sets)
    if asked is not None and asked not in sets:
        raise InputError(f"{folder} has no configuration {asked!r}", hint=f"sets of idx files it has: {known}")
    if asked is None and len(sets) > 1:
        raise InputError(f"{folder} holds several sets of idx files: {known}", hint="choose one with --config")
    return [file for file in files if file.configuration == (sets[0] if asked is None else asked)]


def _labels_of(images: Path) -> Path:
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = [path for path in (images.with_name(name), images.with_name(f"{name}.gz")) if path.is_file()]
    if not found:
        raise InputError(f"{images.parent} holds no {name}[.gz]", hint="copy or download the file again")
    return found[0]


def _emnist_names(folder: Path, configuration: str) -> tuple[int, tuple[str, ...] | None]:
    """Return the first label and the class names, of the mapping beside the files if there is one.

    A line of the mapping is a label and the code points of its characters; of two, the second is lower-case.
    """
    path = folder / f"emnist-{configuration}-mapping.txt"
    if not path.is_file():
        names = EMNIST_NAMES.get(configuration)
        return int(configuration == "letters"), None if names is None else tuple(names)
    try:
        rows = sorted(
            [int(word) for word in line.split()] for line in path.read_text("utf-8").splitlines() if line.strip()
        )
        names_of = {row[0]: chr(row[-1]) for row in rows if len(row) > 1}
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"cannot read the class names of {path}: {error}") from None
    first = rows[0][0] if rows else 0
    if list(names_of) != list(range(first, first + len(rows))) or first not in (0, 1):
        raise InputError(f"{path} does not name classes from 0 or 1 on, one per line")
    return first, tuple(names_of.values())


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzip; never more than its header declares."""
    packed = path.suffix == ".gz"
    try:
        size_bytes = path.stat().st_size
        with cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb") as stream:
            return _read_idx(stream, dimensions, _most_bytes(size_bytes) if packed else size_bytes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a whole idx file: {error}", hint="copy or download the file again") from None


def _most_bytes(packed_bytes: int) -> int:
    return min(packed_bytes * _DEFLATE_RATIO, MAX_UNPACKED_BYTES)


def _read_idx(stream: IO[bytes], dimensions: int, most_bytes: int) -> NDArray[np.uint8]:
    magic = _read_exactly(stream, 4)
    if magic != bytes((0, 0, _UBYTE, dimensions)):
        raise ValueError(f"it starts with {magic.hex()}, expected 0000{_UBYTE:02x}{dimensions:02x}")
    shape = tuple(np.frombuffer(_read_exactly(stream, 4 * dimensions), ">u4").tolist())
    count = math.prod(shape)
    if 0 in shape or count > most_bytes:
        unpack = ", or unpack it first" if most_bytes == MAX_UNPACKED_BYTES else ""
        raise ValueError(
            f"its header declares {'x'.join(map(str, shape))} bytes, which it cannot hold: at most "
            f"{most_bytes:,}{unpack}"
        )
    # Memory is taken page by page as it is filled, and once: a file that ends early takes no more than it has.
    values = np.empty(count, np.uint8)
    filled = 0
    while filled < count:
        part = stream.read(min(count - filled, _CHUNK_BYTES))
        if not part:
            raise ValueError(f"it ends {count - filled} bytes too early")
        values[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if stream.read(1):
        raise ValueError("it continues after the last value")
    return values.reshape(shape)


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ValueError(f"it ends {count - len(data)} bytes too early")
    return data
