"""Which folders below a data set are splits, which are classes, and which are neither."""

from typing import NamedTuple

from manifests.errors import InputError
from manifests.sources.image_files import files_beside, image_folders, loose_images
from manifests.sources.listed import lists_in
from manifests.sources.read_as import LeftOut, listed_names
from manifests.sources.splits import HELD_OUT, NO_SPLITS, choose_split, split_family
from manifests.sources.tree import Folder

BESIDE_SPLITS = "folders beside the splits"
_LIKELY_SAME = 0.5
"""Share of the names of subfolders that two folders have in common if they are probably splits of the same classes."""


class ClassFolders(NamedTuple):
    """Where the class folders are, and what is beside them."""

    split: str | None
    top: str
    """Path of their folder below the data set; "" if it is the data set itself."""
    names: list[str]
    """Sorted; each holds an image somewhere."""
    other_splits: tuple[str, ...]
    left_out: LeftOut


def find_class_folders(root: Folder, split: str | None = None) -> ClassFolders:
    """Find DIR/CLASS or DIR/SPLIT/CLASS, also with one more folder around the classes or the splits.

    Top folders are splits if all of them are called so, or if those of several splits are and hold folders of their
    own. Raises InputError where they may be either, unless `split` decides it: a name, or "none".
    """
    peeks = _Peeks()
    around = _around(peeks, root, stop_at_splits=True)
    folders, left_out = peeks.inside(root / around), LeftOut()
    left_out.extend(peeks.left_out(root / around))
    splits = _splits(peeks, root / around, folders, split)
    if not splits:
        files_beside(root / around, left_out)
        return ClassFolders(None, around, folders, (), left_out)
    labelled = [name for name in splits if _has_labels(peeks, root / around / name)]
    available = labelled if labelled and split in (None, HELD_OUT) else splits
    chosen = choose_split(available, split, root)
    for name in folders:
        if name not in splits:
            left_out.add(BESIDE_SPLITS, name)
    inner = "/".join(part for part in (around, chosen) if part)
    top = "/".join(part for part in (inner, _around(peeks, root / inner)) if part)
    files_beside(root / top, left_out)
    left_out.extend(peeks.left_out(root / top))
    return ClassFolders(
        split=chosen,
        top=top,
        names=peeks.inside(root / top),
        other_splits=tuple(name for name in splits if name != chosen),
        left_out=left_out,
    )


class _Peeks:
    """The subfolders of each folder that hold an image, looked up once."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[list[str], LeftOut]] = {}

    def inside(self, folder: Folder) -> list[str]:
        """Return the names of the subfolders that hold an image."""
        return self._look(folder)[0]

    def left_out(self, folder: Folder) -> LeftOut:
        """Return what else was found in the folder."""
        return self._look(folder)[1]

    def _look(self, folder: Folder) -> tuple[list[str], LeftOut]:
        if str(folder) not in self._found:
            left_out = LeftOut()
            self._found[str(folder)] = image_folders(folder, left_out), left_out
        return self._found[str(folder)]


def _splits(peeks: _Peeks, folder: Folder, names: list[str], split: str | None) -> list[str]:
    """Return which top folders are splits: none if they are the classes."""
    if split == NO_SPLITS:
        return []
    called = [name for name in names if split_family(name)]
    if split in names:
        return called if split in called else [*called, str(split)]
    if len(called) == len(names):
        return called
    if called:
        deep = [name for name in called if len(_class_folders(peeks, folder / name)) > 1]
        if not deep:
            return []
        if len({split_family(name) for name in called}) > 1:
            return called
        classes = listed_names([name for name in names if name not in called])
        raise _unclear(folder, f"{listed_names(deep)} may be a split, or a class beside {classes}", deep)
    # Looked into only if the first folder has subfolders: class folders are long, and most have none.
    first = set(_class_folders(peeks, folder / names[0])) if len(names) > 1 else set()
    if len(first) > 1 and all(_likely_same(first, set(_class_folders(peeks, folder / name))) for name in names[1:]):
        raise _unclear(
            folder, f"{listed_names(names)} may be splits or classes: each holds {listed_names(sorted(first))}", names
        )
    return []


def _unclear(folder: Folder, what: str, splits: list[str]) -> InputError:
    return InputError(
        f"{folder}: {what}", hint=f"if splits, choose one: --split {splits[0]}; if classes: --split {NO_SPLITS}"
    )


def _likely_same(one: set[str], two: set[str]) -> bool:
    return len(one & two) > 1 and len(one & two) >= _LIKELY_SAME * len(one | two)


def _has_labels(peeks: _Peeks, folder: Folder) -> bool:
    return len(_class_folders(peeks, folder)) > 1 or (folder.disk is not None and bool(lists_in(folder.disk)))


def _class_folders(peeks: _Peeks, folder: Folder) -> list[str]:
    return peeks.inside(folder / _around(peeks, folder))


def _around(peeks: _Peeks, folder: Folder, *, stop_at_splits: bool = False) -> str:
    """Return the path of a folder that is alone, and holds all class folders; "" if there is none."""
    path, wrapper = "", ""
    while True:
        inside = peeks.inside(folder / path)
        if len(inside) > 1:
            wrapper = path
        alone = len(inside) == 1 and not loose_images(folder / path)
        if not alone or (stop_at_splits and split_family(inside[0])):
            # A split that is alone is no wrapper, but its folder may be.
            return path if alone else wrapper
        path = f"{path}/{inside[0]}" if path else inside[0]
