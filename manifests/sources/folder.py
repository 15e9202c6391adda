"""Folders of images, one folder per class, as torchvision's ImageFolder reads them."""

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, RawImage
from manifests.sources.base import Source
from manifests.sources.names import (
    KNOWN_SPLITS,
    LAYOUTS,
    check_class_names,
    check_source_labels,
    check_unique_keys,
    choose_split,
    data_set_name,
    read_class_names,
    refuse_label,
    refuse_split,
)

EXTENSIONS = frozenset(("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "ppm", "pgm", "gif"))
MAX_FILE_BYTES = 1 << 30


def open_image_folder(path: Path, split: str | None, classes: Path | None, label: str | None) -> Source:
    """Open DIR/SPLIT/CLASS/... or DIR/CLASS/...; classes are the sorted names of the class folders.

    `classes` renames them in that order; if it names every folder, it fixes their order instead, and may hold
    more classes than there are folders.
    """
    refuse_label(label, path)
    chosen = _choose_folder(path, split)
    top = path if chosen is None else path / chosen
    folders = _subfolders(top)
    if not folders:
        raise InputError(f"{top} holds no class folders" + _what_instead(top), hint=LAYOUTS)
    class_names, label_of = _class_order(folders, classes, top)
    prefix = "" if chosen is None else f"{chosen}/"
    found = sorted((prefix + key, label_of[name]) for name in folders for key in _image_files(top / name, f"{name}/"))
    if not found:
        extensions = ", ".join(sorted(EXTENSIONS))
        raise InputError(f"{top} holds class folders but no images", hint=f"image files end in {extensions}")
    keys = [key for key, _ in found]
    _check_utf8(keys, path)
    check_unique_keys(keys, path)
    labels_N = np.fromiter((label for _, label in found), np.int32, len(found))
    return Source(
        kind="folder",
        name=data_set_name(path),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=check_source_labels(labels_N, class_names, keys, top),
        read=partial(_read_files, path, keys),
        root=path,
    )


def file_sizes(root: Path, keys: Sequence[str]) -> NDArray[np.int64]:
    """Return the bytes of files below a folder (n,), without reading them; -1 if one is not a file."""
    return np.fromiter((_size_bytes(f"{root}/{key}") for key in keys), np.int64, len(keys))


def _choose_folder(path: Path, split: str | None) -> str | None:
    """Return the split folder to descend into; None if `path` itself holds the class folders."""
    folders = _subfolders(path)
    if split is not None and split in folders:
        return split
    spelled = [name for name in folders if name.lower() in KNOWN_SPLITS]
    splits = [name for name in spelled if _subfolders(path / name)]
    if splits:
        return choose_split(splits, split, path)
    if folders and len(spelled) == len(folders):
        instead = _what_instead(path / spelled[0])
        raise InputError(f"{path / spelled[0]} holds no class folders{instead}", hint=LAYOUTS)
    refuse_split(split, path)
    return None


def _class_order(folders: list[str], classes: Path | None, where: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    in_order = {name: index for index, name in enumerate(folders)}
    if classes is None:
        return check_class_names(folders, where), in_order
    names = read_class_names(classes)
    if set(folders) <= set(names):
        return names, {name: index for index, name in enumerate(names)}
    if len(names) != len(folders):
        missing = next(name for name in folders if name not in names)
        raise InputError(
            f"{classes} names {len(names)} classes, {where} has {len(folders)} class folders",
            hint=f"name the folders themselves (missing: {missing}), or give one name for each in sorted order",
        )
    return names, in_order


def _subfolders(path: Path) -> list[str]:
    names = [entry.name for entry in _entries(path) if entry.is_dir()]
    _check_utf8(names, path)
    return sorted(names)


def _image_files(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the paths of the image files anywhere below `folder`, without one stat per file."""
    pending: list[tuple[str, str, tuple[str, ...]]] = [(str(folder), prefix, (os.path.realpath(folder),))]
    while pending:
        current, prefix, trail = pending.pop()
        for entry in _entries(current):
            if _is_image_name(entry.name) and (entry.is_file() or _dangles(entry)):
                yield prefix + entry.name
            elif entry.is_dir():
                below = (*trail, _followed(entry.path, trail)) if entry.is_symlink() else trail
                pending.append((entry.path, f"{prefix}{entry.name}/", below))


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder and not hidden. Raises InputError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None


def _followed(link: str, trail: tuple[str, ...]) -> str:
    target = os.path.realpath(link)
    if any(above == target or above.startswith(target + os.sep) for above in trail):
        raise InputError(f"{link} links to a folder above itself", hint="remove the link")
    return target


def _dangles(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - no Path object per file


def _is_image_name(name: str) -> bool:
    stem, _, extension = name.rpartition(".")
    return bool(stem) and extension.lower() in EXTENSIONS


def _what_instead(path: Path) -> str:
    holds_images = any(_is_image_name(entry.name) for entry in _entries(path))
    return ", but images: each class needs a folder of its own" if holds_images else ""


def _check_utf8(names: list[str], where: Path) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        for name in names:
            if name != name.encode(errors="replace").decode():
                raise InputError(
                    f"{where}: the file name {os.fsencode(name)!r} is not valid UTF-8", hint="rename the file"
                ) from None


def _read_files(root: Path, keys: Sequence[str], rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    return [_read_file(f"{root}/{keys[row]}") for row in rows]


def _read_file(path: str) -> RawImage | ImageProblem:
    try:
        facts = os.stat(path)  # noqa: PTH116 - no Path object per file
        if not stat.S_ISREG(facts.st_mode):
            return ImageProblem("not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            return ImageProblem(f"the file is larger than {MAX_FILE_BYTES >> 30} GiB")
        with open(path, "rb") as stream:  # noqa: PTH123 - no Path object per file
            return Encoded(stream.read())
    except OSError as error:
        return ImageProblem(f"cannot be read: {error.strerror or type(error).__name__}")


def _size_bytes(path: str) -> int:
    try:
        facts = os.stat(path)  # noqa: PTH116 - no Path object per file
    except OSError:
        return -1
    return facts.st_size if stat.S_ISREG(facts.st_mode) else -1
