"""Images in arrays as others store them: .npz and .npy of NumPy, SVHN's .mat, STL-10's .bin."""

import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.sources.arrays import read_array
from manifests.sources.base import UNLABELLED, ReadOptions, Source
from manifests.sources.names import (
    WITHOUT_LABELS,
    data_set_name,
    file_of_names,
    named_by,
    named_labels,
    refuse_label,
    row_keys,
)
from manifests.sources.read_as import NO_LABELS, ReadAs
from manifests.sources.splits import SPLIT_WORDS, choose_split, refuse_split

_IMAGES, _LABELS = ("images", "image", "x", "data"), ("labels", "label", "y", "targets", "target")
_STL_SIDE = 96
_SVHN = ("train", "test", "extra")
_NO_LABELS_SPLIT = "unlabeled"
"""STL-10's split of images without labels, as it spells it."""
_NAMES = ("names.json", "classes.txt", "class_names.txt")
_AGAIN = "copy or download the file again"
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error)
Arrays = Mapping[str, Callable[[], NDArray[Any]]]
"""Arrays by name, read when they are called for."""


def find_array_files(folder: Path) -> bool:
    """Return whether a folder holds STL-10, SVHN, or pairs of .npy files of images and labels."""
    npy = any(labels is not None for _, labels in _pairs(_npy(folder)).values())
    return bool(_stl10(folder)) or npy or bool(_svhn(folder))


def open_array_files(path: Path, options: ReadOptions) -> Source:
    """Open a .npz, SVHN's train_32x32.mat, or a folder of STL-10's .bin files, SVHN's .mat or pairs of .npy.

    Without labels, images are enough, as STL-10's split unlabeled has them.

    Images are (N, H, W) or (N, H, W, 1 or 3) of uint8, labels (N,) or (N, 1) of whole numbers, in arrays called
    images and labels, or x and y, with the split before or after. Raises InputError if they are not.
    """
    refuse_label(options.label, path)
    folder = path if path.is_dir() else path.parent
    if path.suffix.lower() == ".npz":
        arrays, kind = _npz(path), "npz"
    elif path.suffix.lower() == ".mat" or (path.is_dir() and _svhn(path)):
        arrays, kind = _mat(_svhn(folder) if path.is_dir() else {_mat_split(path): path}), "svhn"
    elif stl10 := _stl10(folder):
        arrays, kind = stl10, "stl10"
    else:
        arrays, kind = _npy(folder), "npy"
    pairs = _pairs(arrays, (*SPLIT_WORDS, *(_SVHN if kind == "svhn" else ()), _NO_LABELS_SPLIT))
    if not options.unlabelled:
        if options.split in pairs and pairs[options.split][1] is None:
            raise InputError(f"{path}: the split {options.split} has no labels", hint=WITHOUT_LABELS)
        pairs = {split: pair for split, pair in pairs.items() if pair[1] is not None}
    if not pairs:
        known = ", ".join(sorted(arrays)) or "none"
        raise InputError(f"{path} holds no arrays of images and labels", hint=f"arrays it has: {known}")
    splits = [name for name in pairs if name]
    if splits:
        chosen: str | None = choose_split(splits, options.split, path)
    else:
        refuse_split(options.split, path)
        chosen = None
    images_name, labels_name = pairs[chosen or ""]
    try:
        images = _images(arrays[images_name]())
        labels_N = None if labels_name is None or options.unlabelled else _labels(arrays[labels_name]())
    except _DAMAGED as error:
        raise InputError(f"{path}: {images_name}, {labels_name}: {error}", hint=_AGAIN) from None
    keys = row_keys(chosen or "train", len(images))
    class_names, checked_N = UNLABELLED, np.zeros(len(keys), np.int32)
    labels = NO_LABELS if labels_name is None else f"the array {labels_name}"
    if labels_N is not None:
        file = file_of_names(options.classes, folder, *_NAMES)
        class_names, checked_N = named_labels(labels_N, keys, file, None, path)
        labels += named_by(file)
    return Source(
        kind=kind,
        name=data_set_name(path if path.is_dir() else path.with_suffix("")),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=checked_N,
        read=partial(read_array, images),
        read_as=ReadAs(
            labels=labels,
            split_found=None if chosen is None else "by the names of the arrays",
            other_splits=tuple(name for name in splits if name != chosen),
        ),
    )


def _pairs(arrays: Arrays, split_words: Collection[str] = SPLIT_WORDS) -> dict[str, tuple[str, str | None]]:
    """Return the names of images and of labels, None without, by split; by "" where the names hold no split."""
    found: dict[str, dict[str, str]] = {}
    for name in arrays:
        words = re.split(r"[\W_]+", name.lower())
        split = "_".join(word for word in words if word in split_words)
        others = [word for word in words if word not in split_words]
        for what, known in (("images", _IMAGES), ("labels", _LABELS)):
            if len(others) == 1 and others[0] in known:
                found.setdefault(split, {}).setdefault(what, name)
    return {split: (pair["images"], pair.get("labels")) for split, pair in found.items() if "images" in pair}


def _npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as content:
            names = list(content.files)
    except _DAMAGED as error:
        raise InputError(f"{path} is not a whole .npz file: {error}", hint=_AGAIN) from None

    def read(name: str) -> NDArray[Any]:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content[name])

    return {name: partial(read, name) for name in names}


def _npy(folder: Path) -> Arrays:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".npy" and path.is_file())
    return {path.stem: partial(np.load, path, mmap_mode="r", allow_pickle=False) for path in files}


def _svhn(folder: Path) -> dict[str, Path]:
    files = {split: folder / f"{split}_32x32.mat" for split in _SVHN}
    return {split: path for split, path in files.items() if path.is_file()}


def _mat_split(path: Path) -> str:
    return path.name.partition("_")[0]


def _mat(files: Mapping[str, Path]) -> Arrays:
    """SVHN: X (32, 32, 3, N), and y (N, 1) where 10 stands for the digit 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    def read(path: Path, name: str) -> NDArray[Any]:
        try:
            return np.asarray(loadmat(path, variable_names=[name])[name])
        except (MatReadError, NotImplementedError) as error:
            raise ValueError(str(error)) from None

    arrays: dict[str, Callable[[], NDArray[Any]]] = {}
    for split, path in files.items():
        arrays[f"{split}_images"] = lambda path=path: np.moveaxis(read(path, "X"), -1, 0)  # type: ignore[misc]
        arrays[f"{split}_labels"] = lambda path=path: read(path, "y") % 10  # type: ignore[misc]
    return arrays


def _stl10(folder: Path) -> Arrays:
    """STL-10: images of 3 x 96 x 96 bytes, each channel by columns, and labels from 1."""

    def images(path: Path) -> NDArray[Any]:
        return np.fromfile(path, np.uint8).reshape(-1, 3, _STL_SIDE, _STL_SIDE).transpose(0, 3, 2, 1)

    def labels(path: Path) -> NDArray[Any]:
        return np.fromfile(path, np.uint8).astype(np.int64) - 1

    arrays: dict[str, Callable[[], NDArray[Any]]] = {}
    for split in ("train", "test", _NO_LABELS_SPLIT):
        has_labels = (folder / f"{split}_y.bin").is_file()
        if (folder / f"{split}_X.bin").is_file() and (has_labels or split == _NO_LABELS_SPLIT):
            arrays[f"{split}_images"] = partial(images, folder / f"{split}_X.bin")
        if has_labels:
            arrays[f"{split}_labels"] = partial(labels, folder / f"{split}_y.bin")
    return arrays


def _images(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (N, H, W) or (N, H, W, 3). Raises ValueError for other shapes and types, which may be scaled somehow."""
    if array.dtype != np.uint8:
        raise ValueError(f"images are {array.dtype}, expected uint8 from 0 to 255")
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3 and not (array.ndim == 4 and array.shape[3] == 3):
        raise ValueError(f"images have the shape {array.shape}, expected (N, H, W) or (N, H, W, 3)")
    return array


def _labels(array: NDArray[Any]) -> NDArray[np.int64]:
    """Return (N,) class numbers. Raises ValueError for several labels per image."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"labels are {array.dtype} of the shape {array.shape}, expected one whole number per image")
    return array.astype(np.int64)
