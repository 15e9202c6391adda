"""The number of each class, by the names of folders or labels and a file of class names."""

import re
from collections.abc import Iterable
from pathlib import Path

from manifests.errors import InputError
from manifests.sources.names import check_class_names, read_class_names, read_folder_names

_INTEGER = re.compile(r"[0-9]{1,9}")


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return the names of labels in order: numbers by their value, before text."""
    return sorted(set(names), key=lambda name: (0, int(name), name) if _INTEGER.fullmatch(name) else (1, 0, name))


def class_order(folders: list[str], classes: Path | None, where: object) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes, and the label of each folder.

    `classes` renames the folders in their order; if it names every folder, it fixes their order instead, and may hold
    more classes than there are folders. Folders called 0, 1, ... are the classes of these numbers in it.
    """
    in_order = {name: index for index, name in enumerate(folders)}
    if classes is None:
        return check_class_names(folders, where), in_order
    if (named := read_folder_names(classes, folders)) is not None:
        return tuple(named.values()), {name: index for index, name in enumerate(named)}
    names = read_class_names(classes)
    if set(folders) <= set(names):
        return names, {name: index for index, name in enumerate(names)}
    if all(_INTEGER.fullmatch(name) for name in folders):
        return names, _numbered(folders, names, classes, where)
    if len(names) != len(folders):
        missing = next(name for name in folders if name not in names)
        raise InputError(
            f"{classes} names {len(names)} classes, {where} has {len(folders)} class folders",
            hint=f"name the folders themselves (missing: {missing}), or give one name for each in sorted order",
        )
    return names, in_order


def _numbered(folders: list[str], names: tuple[str, ...], classes: Path, where: object) -> dict[str, int]:
    """Return the label of folders whose names are numbers: the number."""
    label_of = {name: int(name) for name in folders}
    if len(set(label_of.values())) < len(folders):
        raise InputError(f"{where} has two folders of the same number")
    largest = max(label_of, key=label_of.__getitem__)
    if label_of[largest] >= len(names):
        raise InputError(
            f"{where} has the class folder {largest}, but {classes} names the classes 0 to {len(names) - 1}",
            hint='to name folders that are not counted from 0: JSON {"folder": "name"}',
        )
    return label_of
