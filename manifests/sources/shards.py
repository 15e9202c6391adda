"""Files that are parts of one data set: which of them are the split that is meant, and whether all are there."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from manifests.errors import InputError
from manifests.sources.read_as import LeftOut, listed_names
from manifests.sources.splits import NO_SPLITS, choose_split, refuse_split, split_family

_SHARD = re.compile(
    r"(?P<stem>part)-[0-9]+-.*|(?P<name>.*?)(?:(?:^|[-_.])(?P<index>[0-9]+)(?:-of-(?P<count>[0-9]+)(?:-[0-9a-f]+)?)?)?"
)
"""A file name without its ending: NAME-00000-of-00002, perhaps with a digest, NAME-0, 0000, Spark's part-0-x."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The files of one split, in the order of their names."""

    split: str | None
    files: list[Path]
    found: str | None = None
    """How the split was found; None if there are no splits."""
    other_splits: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    warnings: tuple[str, ...] = ()


def by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by their names without number and ending."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        match = _SHARD.fullmatch(file.stem)
        groups["" if match is None else match["stem"] or match["name"] or ""].append(file)
    return groups


def by_split_name(groups: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Name groups of files by their split, such as train of cifar-train; by the whole stem where two have the same."""
    stems_of: dict[str, list[str]] = defaultdict(list)
    for stem in groups:
        stems_of[_split_name(stem)].append(stem)
    return {stem if len(stems) > 1 else name: groups[stem] for name, stems in stems_of.items() for stem in stems}


def choose_shards(
    by_name: Mapping[str, list[Path]],
    split: str | None,
    where: object,
    *,
    found: str = "by the names of the files",
    left_out: LeftOut | None = None,
) -> Shards:
    """Choose the files of a split among files grouped by split, or by a stem that is none.

    Raises InputError if there is no such split, more than one may be meant, or shards are missing.
    """
    left_out = left_out or LeftOut()
    named = [name for name in by_name if split_family(name)]
    if split == NO_SPLITS or (not named and split not in by_name):
        refuse_split(split, where)
        files = sorted((file for files in by_name.values() for file in files), key=lambda file: file.name)
        _refuse_missing(files)
        unknown = sorted(name for name in by_name if name)
        several = f"files of several names are read as one data set: {listed_names(unknown)}"
        return Shards(split=None, files=files, left_out=left_out, warnings=(several,) * (len(unknown) > 1))
    chosen = choose_split(named if split is None else list(by_name), split, where)
    for name in by_name:
        if name not in named and name != chosen:
            left_out.add("files of no split", by_name[name][0].name)
    _refuse_missing(by_name[chosen])
    others = tuple(sorted(name for name in named if name != chosen))
    return Shards(split=chosen, files=by_name[chosen], found=found, other_splits=others, left_out=left_out)


def one_shard(path: Path, split: str | None) -> Shards:
    """Return a file that was named alone; its split is that of its name. Raises InputError if another is asked for."""
    (name,) = by_split_name(by_stem([path]))
    if split_family(name) is None:
        refuse_split(split, path)
        return Shards(split=None, files=[path])
    if split not in (None, NO_SPLITS):
        choose_split((name,), split, path)
    return Shards(split=name, files=[path], found="by the name of the file")


def _split_name(stem: str) -> str:
    return next((part for part in reversed(re.split(r"[-.\s]", stem)) if split_family(part)), stem)


def _refuse_missing(files: Sequence[Path]) -> None:
    """Raise InputError if a file says that it is one of N, and not all N are there."""
    there: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    for file in files:
        match = _SHARD.fullmatch(file.stem)
        if match is not None and match["count"] is not None:
            there[match["name"], match["count"]][int(match["index"])] = file
    for (name, count), shard_of in there.items():
        missing = int(count) - sum(index < int(count) for index in shard_of)
        if missing:
            beside = next(iter(shard_of.values()))
            digits = len(str(beside.stem)[len(name) :].lstrip("-_.").partition("-")[0])
            first = islice((index for index in range(int(count)) if index not in shard_of), 3)
            lost = ", ".join(f"{name}-{index:0{digits}d}-of-{count}{beside.suffix}".lstrip("-") for index in first)
            raise InputError(
                f"{missing:,} of {int(count):,} shards missing beside {beside}: {lost}"
                + (", ..." if missing > 3 else ""),
                hint="copy or download them again: without them, rows have other numbers than elsewhere",
            )
