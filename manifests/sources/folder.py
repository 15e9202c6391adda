"""Folders of images, one folder per class, as torchvision's ImageFolder reads them, or with a list of labels."""

import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, RawImage
from manifests.sources.base import ReadOptions, Source
from manifests.sources.folder_layout import ClassFolders, find_class_folders
from manifests.sources.image_files import EXTENSIONS, loose_images
from manifests.sources.labelled_files import LabelledFiles, by_folders, by_list, by_no_labels
from manifests.sources.list_file import SPLIT_BY_NUMBER
from manifests.sources.listed import find_list, find_split_lists, lists_in, open_list
from manifests.sources.names import LAYOUTS, WITHOUT_LABELS, data_set_name
from manifests.sources.read_as import listed_names
from manifests.sources.splits import NO_SPLITS, choose_split, refuse_split
from manifests.sources.tree import DiskFolder

MAX_FILE_BYTES = 1 << 30


def open_image_folder(path: Path, options: ReadOptions) -> Source:
    """Open DIR/SPLIT/CLASS/... or DIR/CLASS/..., or images whose labels or splits stand in a list.

    A list is found by itself where it labels nearly all images that have no class folders, or where two lists are
    called like splits. Classes are numbered by class_order.
    """
    labelled = _labelled(path, options)
    read = partial(_read_files, path, labelled.keys)
    return labelled.source(kind="folder", name=data_set_name(path), read=read, root=path)


def _labelled(path: Path, options: ReadOptions) -> LabelledFiles:
    split, classes = options.split, options.classes
    if options.list_file is not None:
        return by_list(open_list(path, options.list_file, options, split=split), classes)
    found = find_class_folders(DiskFolder(str(path)), split)
    if options.unlabelled and (found.split is not None or not find_split_lists(path)):
        if found.split is None:
            refuse_split(split, path)
        return by_no_labels(DiskFolder(str(path)), found)
    if len(found.names) < 2 and (list_file := find_list(path, path / found.top)) is not None:
        of_list = None if found.split is not None else split
        return by_list(open_list(path, list_file, options, below=found.top, split=of_list), classes, found)
    if found.split is None and split != NO_SPLITS and (lists := find_split_lists(path)):
        chosen = choose_split(lists, split, path)
        by_number = lists[chosen].name in SPLIT_BY_NUMBER
        listed = open_list(path, lists[chosen], options, split=chosen if by_number else None)
        others = tuple(name for name in lists if name != chosen)
        return by_list(listed._replace(split=chosen, other_splits=others), classes)
    if found.split is None:
        refuse_split(split, path)
    if not found.names:
        raise _no_classes(path / found.top, found)
    return by_folders(DiskFolder(str(path)), found, classes)


def _no_classes(top: Path, found: ClassFolders) -> InputError:
    if found.left_out.counts["folders without images"]:
        extensions = ", ".join(sorted(EXTENSIONS))
        return InputError(f"{top} holds class folders but no images", hint=f"image files end in {extensions}")
    if loose_images(DiskFolder(str(top))):
        above = [path.name for path in lists_in(top.parent)]
        beside = f"; {listed_names(above)} above may list them: --list FILE" if above else ""
        instead = ", but images: each class needs a folder of its own, or a list its labels" + beside
        return InputError(f"{top} holds no class folders{instead}", hint=f"{WITHOUT_LABELS}; {LAYOUTS}")
    return InputError(f"{top} holds no class folders", hint=LAYOUTS)


def file_sizes(root: Path, keys: Sequence[str]) -> NDArray[np.int64]:
    """Return the bytes of files below a folder (n,), without reading them; -1 if one is not a file."""
    return np.fromiter((_size_bytes(f"{root}/{key}") for key in keys), np.int64, len(keys))


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
