"""Image files whose labels or splits stand in a list beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from manifests.errors import InputError
from manifests.sources.base import ReadOptions
from manifests.sources.image_files import image_files
from manifests.sources.list_file import LIST_SUFFIXES, SPLIT_BY_NUMBER, ListedFile, read_list
from manifests.sources.read_as import LeftOut
from manifests.sources.splits import NO_SPLITS, choose_split, refuse_split, split_family
from manifests.sources.tree import DiskFolder

MAX_FOUND_BYTES = 256 << 20
"""A larger file is not looked into to find out whether it is a list."""
_MOST_LISTED = 0.9
"""Share of the images that a list must name to be taken without being asked for."""
_SAMPLE = 1000
_DEPTH = 4


class Listed(NamedTuple):
    """The images of a list that are there: their keys and classes, in the order of the keys."""

    list_file: Path
    split: str | None
    keys: list[str]
    classes: list[str]
    """The label of each image as it is written, or the name of its folder."""
    other_splits: tuple[str, ...]
    left_out: LeftOut


def open_list(
    root: Path, path: Path, options: ReadOptions | None = None, *, below: str = "", split: str | None = None
) -> Listed:
    """Read the images of `root`, in its folder `below`, that a list names, of one split where it has splits.

    Raises InputError if a file is listed with two labels, or if no listed file is there.
    """
    left_out = LeftOut()
    listed = read_list(path, options)
    used = (path, path.with_name(SPLIT_BY_NUMBER[1])) if path.name == SPLIT_BY_NUMBER[0] else (path,)
    keys = list(image_files(DiskFolder(str(root)) / below, f"{below}/" if below else "", left_out, used))
    key_of = match_names([line.file for line in listed], keys)
    if not any(key is not None for key in key_of):
        raise InputError(
            f"none of the {len(listed):,} files that {path} lists is below {root}", hint=f"the first: {listed[0].file}"
        )
    splits = sorted({line.split for line in listed if line.split})
    chosen = choose_split(splits, split, path) if splits and split != NO_SPLITS else None
    if not splits:
        refuse_split(split, path)
    class_of: dict[str, str] = {}
    for line, key in zip(listed, key_of, strict=True):
        if key is None:
            left_out.add("lines of the list without a file", line.file)
        elif chosen is None or line.split == chosen:
            name = line.label if line.label is not None else key.rpartition("/")[0].rpartition("/")[2]
            if class_of.setdefault(key, name) != name:
                raise InputError(f"{path} lists {line.file} as {class_of[key]!r} and as {name!r}")
    unlisted = set(keys).difference(key for key in key_of if key is not None)
    for key in sorted(unlisted):
        left_out.add("images that the list does not name", key)
    in_order = sorted(class_of)
    return Listed(
        list_file=path,
        split=chosen,
        keys=in_order,
        classes=[class_of[key] for key in in_order],
        other_splits=tuple(name for name in splits if name != chosen),
        left_out=left_out,
    )


def match_names(names: Sequence[str], keys: Sequence[str]) -> list[str | None]:
    """Return the key of each name, None if there is none: of the same path, or of its last parts, or without ending.

    Of the ways to cut off leading folders on either side, the one that finds most of the first names is taken.
    """
    clean = [name.replace("\\", "/").removeprefix("./").lstrip("/") for name in names]
    sample, best, most = clean[:_SAMPLE], {}, 0
    best_cut: Callable[[str], str] = str
    for without_ending in (False, True):
        for cut_key in range(1 + min(_DEPTH, max((key.count("/") for key in keys), default=0))):
            index = {_cut(_stem(key) if without_ending else key, cut_key): key for key in keys}
            if len(index) < len(keys):
                break
            for cut_name in range(1 + min(_DEPTH, max((name.count("/") for name in sample), default=0))):
                cut = _cutter(cut_name)
                found = sum(cut(name) in index for name in sample)
                if found > most:
                    best, best_cut, most = index, cut, found
                if most == len(sample):
                    return [best.get(best_cut(name)) for name in clean]
    return [best.get(best_cut(name)) for name in clean]


def find_list(root: Path, folder: Path) -> Path | None:
    """Return the list that labels nearly all images below `folder`: in it, in the folder above or in `root`.

    Raises InputError if there are several. Names such as sample_submission.csv are passed over: their labels are not.
    """
    keys = list(image_files(DiskFolder(str(folder)), "", LeftOut()))
    found = []
    for place in dict.fromkeys((folder, folder.parent if folder != root else root, root)):
        found = [path for path in lists_in(place) if _labels_nearly_all(path, keys)]
        if found:
            break
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} holds no class folders, and {names} list its images", hint="choose with --list")
    return found[0] if found else None


def lists_in(folder: Path) -> list[Path]:
    """Return the files of a folder that may be lists, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in LIST_SUFFIXES
        and "submission" not in path.name.lower()
        and not path.name.startswith(".")
        and path.is_file()
        and path.stat().st_size <= MAX_FOUND_BYTES
    )


def find_split_lists(root: Path) -> dict[str, Path]:
    """Return the lists that only say which image is of which split, by split: train.txt and test.txt, also in meta/."""
    if all((root / name).is_file() for name in SPLIT_BY_NUMBER):
        return dict.fromkeys(("train", "test"), root / SPLIT_BY_NUMBER[0])
    for folder in (root, root / "meta"):
        if folder.is_dir():
            lists = {
                path.stem: path for path in lists_in(folder) if split_family(path.stem) and _names_files_only(path)
            }
            if len({split_family(name) for name in lists}) > 1:
                return lists
    return {}


def _names_files_only(path: Path) -> bool:
    listed = _try(path)
    return bool(listed) and all(line.label is None and "/" in line.file for line in listed)


def _labels_nearly_all(path: Path, keys: Sequence[str]) -> bool:
    listed = _try(path)
    if not listed or any(line.label is None for line in listed):
        return False
    found = {key for key in match_names([line.file for line in listed], keys) if key is not None}
    return len(found) >= _MOST_LISTED * len(keys)


def _try(path: Path) -> list[ListedFile]:
    try:
        return read_list(path)
    except InputError:
        return []


def _cutter(count: int) -> Callable[[str], str]:
    return lambda name: _cut(name, count)


def _cut(path: str, count: int) -> str:
    """Return a path without some of its leading folders, but with its name."""
    return "/".join(path.split("/")[min(count, path.count("/")) :])


def _stem(key: str) -> str:
    folders, mark, name = key.rpartition("/")
    return folders + mark + (name.rpartition(".")[0] or name)
