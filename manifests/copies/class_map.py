"""Match the classes of a copy with those of a manifest: by name, or by a table of two columns."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.base.files import refuse_special
from manifests.errors import InputError, MismatchError
from manifests.sources.names import MAX_NAMES_BYTES

HEADER = ("ours", "theirs")
_NAMED = 5
_TELL_APART = "give each class a name of its own in the class map, and in the data"
ClassMap = Sequence[tuple[str, str]]
"""Our name and theirs of classes that have other names in the data."""


def read_class_map(path: Path) -> list[tuple[str, str]]:
    """Return (name in the manifest, name in the data) per row of a CSV file. Raises InputError for another table.

    A first row of `ours,theirs` is a header; so is any other first row whose names no class has (see `match_classes`).
    """
    pairs = read_pairs(path, "NAME IN THE MANIFEST,NAME IN THE DATA, such as n02012849,crane")
    if tuple(name.lower() for name in pairs[0]) == HEADER:
        pairs = pairs[1:]
    if not pairs:
        raise InputError(f"{path} holds no class names")
    return pairs


def read_pairs(path: Path, row: str) -> list[tuple[str, str]]:
    """Return the rows of a CSV file of two columns; raises InputError for another file, saying what a `row` is."""
    refuse_special(path)
    try:
        if path.stat().st_size > MAX_NAMES_BYTES:
            raise InputError(f"{path} is too large for a table of class names")
        lines = path.read_text("utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in cells] for cells in csv.reader(lines, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read class names from {path}: {error}") from None
    pairs = []
    for number, cells in enumerate(rows, 1):
        if not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"{path}: row {number} has {sum(map(bool, cells))} names, expected two",
                hint=f"a row is {row}",
            )
        pairs.append((cells[0], cells[1]))
    if not pairs:
        raise InputError(f"{path} holds no class names")
    return pairs


def match_classes(ours: Sequence[str], theirs: Sequence[str], class_map: ClassMap | None = None) -> NDArray[np.int64]:
    """Return their label for each of our labels, (C,): the class of the same name, in any order on either side.

    class_map: (our name, their name) of classes with other names there; rows of classes that neither side has are
    ignored. Raises InputError if a name in it stands for two classes, MismatchError with the difference if the two
    sets of classes are not the same.
    """
    label_of = {name: label for label, name in enumerate(composed(theirs))}
    wanted = names_there(ours, theirs, class_map)
    only_here = [
        name if there == name else f"{name} ({there} by the class map)"
        for name, there in zip(composed(ours), wanted, strict=True)
        if there not in label_of
    ]
    only_there = sorted(label_of.keys() - set(wanted))
    if only_here or only_there:
        raise MismatchError(
            f"the data has other classes than the manifest: only in the manifest {_some(only_here)}; "
            f"only in the data {_some(only_there)}",
            hint=_hint(ours, theirs, class_map),
        )
    return np.array([label_of[name] for name in wanted], np.int64)


def names_there(ours: Sequence[str], theirs: Sequence[str], class_map: ClassMap | None = None) -> list[str]:
    """Return the name of each of our classes in the data, composed. Raises InputError if two would be the same."""
    ours, theirs = composed(ours), composed(theirs)
    their_name = _translation(ours, theirs, [(_nfc(name), _nfc(other)) for name, other in class_map or ()])
    wanted = [their_name.get(name, name) for name in ours]
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        both = [name for name, there in zip(ours, wanted, strict=True) if there == twice]
        raise InputError(f"{' and '.join(both)} would both be {twice!r} in the data", hint=_TELL_APART)
    return wanted


def composed(names: Sequence[str]) -> list[str]:
    """Return names with accented letters as one character, not two as on some systems, unless names would collide."""
    alike = [_nfc(name) for name in names]
    return alike if len(set(alike)) == len(set(names)) else list(names)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _translation(ours: Sequence[str], theirs: Sequence[str], pairs: ClassMap) -> Mapping[str, str]:
    """Return their names by ours, as far as the pairs give them."""
    here, there = set(ours), set(theirs)
    if pairs and pairs[0][0] not in here and pairs[0][1] not in there:
        pairs = pairs[1:]
    unique = dict.fromkeys(pairs)
    for ours_first in (True, False):
        known: dict[str, str] = {}
        for pair in unique:
            name, other = pair if ours_first else pair[::-1]
            if name in known and (pair[0] in here or pair[1] in there):
                raise InputError(
                    f"the class map says that {name!r} is {known[name]!r} and {other!r}: one name, two classes",
                    hint=_TELL_APART,
                )
            known[name] = other
    return {name: other for name, other in unique if name in here}


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f", ... ({len(listed):,} in all)" if len(listed) > _NAMED else ""
    return (", ".join(listed[:_NAMED]) or "none") + more


def _hint(ours: Sequence[str], theirs: Sequence[str], pairs: ClassMap | None) -> str:
    if pairs is None:
        return "map the classes: --class-map FILE.csv with rows of NAME IN THE MANIFEST,NAME IN THE DATA"
    turned = sum(first in set(theirs) and second in set(ours) for first, second in pairs)
    if turned == len(pairs):
        return "the columns of the class map are the other way round: first the manifest's names, then the data's"
    return "complete the class map: a row is NAME IN THE MANIFEST,NAME IN THE DATA"
