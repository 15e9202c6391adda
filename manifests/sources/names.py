"""Checks that all sources share: class names, labels, keys."""

import json
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.files import refuse_special
from manifests.base.layout import MAX_CLASSES
from manifests.errors import InputError, UsageError
from manifests.sources.splits import SPLIT_WORDS

LAYOUTS = (
    "accepted: DIR/train/CLASS/*.jpg, DIR/CLASS/*.jpg, DIR/*.jpg with a list, Parquet, Arrow, .tar, .zip, .npz, "
    "MNIST-like *-ubyte[.gz], CIFAR batches, FILE.beton, torchvision:NAME[=ROOT], demo:digits; see docs/data.md"
)
WITHOUT_LABELS = "if the images have no labels, or theirs are not to be used: --unlabelled"
MAX_NAMES_BYTES = 64 << 20


def refuse_label(label: str | None, where: object) -> None:
    """Raise UsageError if a label column is requested from data without columns."""
    if label is not None:
        raise UsageError(
            f"{where} has one label per sample: there is no column {label!r} to choose",
            hint="a label column can be chosen for Parquet files, lists, betons and CIFAR-100 only",
        )


def row_keys(split: str, count: int) -> list[str]:
    """Return keys of numbered rows, padded so that they sort in the order of the rows."""
    width = max(8, len(str(count)))
    return [f"{split}/{row:0{width}d}" for row in range(count)]


def data_set_name(path: Path) -> str:
    """Return the name of the nearest folder that is not just called raw, data or train."""
    resolved = path.resolve()
    for part in (resolved, *resolved.parents):
        if part.name and part.name.lower() not in (*SPLIT_WORDS, "raw", "data"):
            return part.name
    return resolved.name or "data"


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a JSON list, a JSON object {index: name}, or a text file of one name per line."""
    return check_class_names(listed_in(path), path)


def listed_in(path: Path) -> list[Any]:
    """Return what such a file lists, in its order, unchecked."""
    content = _names_in(path)
    if isinstance(content, dict):
        missing = [index for index in range(len(content)) if str(index) not in content]
        if missing:
            raise InputError(f"{path}: {len(content)} names, but none for class {missing[0]}")
        content = [content[str(index)] for index in range(len(content))]
    return content


def read_folder_names(path: Path, folders: Collection[str]) -> dict[str, str] | None:
    """Read a JSON object {folder: name}, in the order of the folders; None if it is not one that names all of them."""
    content = _names_in(path)
    if not isinstance(content, dict) or not set(folders) <= set(content):
        return None
    named = sorted(content, key=lambda name: (int(name), name) if name.isdecimal() else (-1, name))
    if named == [str(index) for index in range(len(named))]:
        return None
    return dict(zip(named, check_class_names([content[name] for name in named], path), strict=True))


def _names_in(path: Path) -> list[Any] | dict[str, Any]:
    refuse_special(path)
    try:
        if path.stat().st_size > MAX_NAMES_BYTES:
            raise InputError(f"{path} is too large for a file of class names")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise InputError(f"cannot read class names from {path}: {reason}") from None
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.rstrip().splitlines()]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, list | dict):
        raise InputError(f"{path} holds no class names", hint='expected ["cat", "dog"] or {"0": "cat", "1": "dog"}')
    return content


def check_class_names(names: Sequence[object], where: object) -> tuple[str, ...]:
    """Return the names as a tuple. Raises InputError if one is empty, not text, or there twice."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: the name of class {index} is {name!r}, expected text")
        if name in seen:
            raise InputError(f"{where}: classes {seen[name]} and {index} are both named {name!r}")
        seen[name] = index
    return tuple(seen)


def file_of_names(given: Path | None, folder: Path, *candidates: str) -> Path | None:
    """Return the file of class names that was given, else the first of some files that exists in `folder`."""
    return given or next((folder / name for name in candidates if (folder / name).is_file()), None)


def named_by(file: Path | None) -> str:
    """Say which file names the classes; nothing if none does."""
    return "" if file is None else f", named by {file.name}"


def refuse_other_order(file: Path, declared: Sequence[str] | None, where: object) -> None:
    """Raise InputError if a file that lies beside the data has the names that the data declares in another order."""
    names = read_class_names(file)
    if declared is not None and names != tuple(declared) and set(names) == set(declared):
        place = next(index for index, name in enumerate(names) if name != declared[index])
        raise InputError(
            f"class {place} is {names[place]!r} in {file}, and {declared[place]!r} in {where} itself",
            hint="name the file whose order is right with --classes, or remove the wrong one",
        )


def resolve_names(
    labels_N: NDArray[np.integer], *, given: tuple[str, ...] | None, known: tuple[str, ...] | None, where: object
) -> tuple[str, ...]:
    """Return class names as given, else as known to the data, else "0", "1", ... up to the largest label.

    Raises InputError if given and known names differ in number, or labels are not class numbers.
    """
    if given is not None and known is not None and len(given) != len(known):
        raise InputError(
            f"{len(given)} class names given, {where} has {len(known)} classes",
            hint="the file of class names belongs to another data set",
        )
    if given is not None or known is not None:
        return given or known or ()
    largest = int(labels_N.max()) if len(labels_N) else -1
    if largest >= MAX_CLASSES:
        raise InputError(f"{where}: label {largest} is not a class number", hint="choose another label column")
    return tuple(str(index) for index in range(largest + 1))


def check_source_labels(
    labels_N: NDArray[np.integer], class_names: Sequence[str], keys: Sequence[str], where: object
) -> NDArray[np.int32]:
    """Return labels as (N,) int32. Raises InputError if one is outside [0, C) or fewer than 2 classes occur."""
    if len(labels_N) == 0:
        raise InputError(f"{where} holds no samples", hint=LAYOUTS)
    if len(labels_N) != len(keys):
        raise InputError(f"{where}: {len(labels_N)} labels for {len(keys)} images")
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= len(class_names)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{where}: {keys[row]} has label {int(labels_N[row])}, outside 0..{len(class_names) - 1}"
            + (f" ({len(wrong)} samples in all)" if len(wrong) > 1 else ""),
            hint="give the right class names (--classes), or another label column",
        )
    if (labels_N == labels_N[0]).all():
        raise InputError(
            f"{where}: only one class has samples ({class_names[int(labels_N[0])]})",
            hint=f"at least two classes are needed; {WITHOUT_LABELS}",
        )
    return labels_N.astype(np.int32)


def named_labels(
    labels_N: NDArray[np.integer],
    keys: Sequence[str],
    classes: Path | None,
    known: tuple[str, ...] | None,
    where: object,
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return class names, from the file `classes` or else as `known`, and the labels, both checked."""
    given = None if classes is None else read_class_names(classes)
    class_names = resolve_names(labels_N, given=given, known=known, where=where)
    return class_names, check_source_labels(labels_N, class_names, keys, where)


def check_unique_keys(keys: Sequence[str], where: object) -> None:
    """Raise InputError if a key occurs twice; `keys` are sorted."""
    for first, second in pairwise(keys):
        if first == second:
            raise InputError(f"{where}: the key {first} occurs twice")
