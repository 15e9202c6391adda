"""Which class of a copy is which class of a manifest: by name, or by a table of two columns."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, MismatchError
from manifests.sources.names import MAX_NAMES_BYTES

HEADER = ("ours", "theirs")
_NAMED = 5


def read_class_map(path: Path) -> list[tuple[str, str]]:
    """(name in the manifest, name in the data) of every row of a CSV file; InputError when it is no such table.

    A first row of `ours,theirs` is a header; so is any other first row whose names no class has (see `match_classes`).
    """
    try:
        if path.stat().st_size > MAX_NAMES_BYTES:
            raise InputError(f"{path} is too large for a table of class names")
        lines = path.read_text("utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read class names from {path}: {error}") from None
    pairs = []
    for number, row in enumerate(rows, 1):
        if not any(row):
            continue
        if len(row) != 2 or not all(row):
            raise InputError(
                f"{path}: row {number} has {sum(map(bool, row))} names, expected two",
                hint="a row is NAME IN THE MANIFEST,NAME IN THE DATA, such as n02012849,crane",
            )
        pairs.append((row[0], row[1]))
    if pairs and tuple(name.lower() for name in pairs[0]) == HEADER:
        pairs = pairs[1:]
    if not pairs:
        raise InputError(f"{path} holds no class names")
    return pairs


def match_classes(
    ours: Sequence[str], theirs: Sequence[str], class_map: Sequence[tuple[str, str]] | None = None
) -> NDArray[np.int64]:
    """Their label of our label, (C,): the class of the same name, whatever the order of either side.

    class_map: (our name, their name) of classes that are called otherwise there; rows of classes that neither side has
    are ignored. InputError when a name in it stands for two classes, MismatchError with the difference when the
    two sets of classes are not the same.
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


_TELL_APART = "give each class a name of its own in the class map, and in the data"


def names_there(
    ours: Sequence[str], theirs: Sequence[str], class_map: Sequence[tuple[str, str]] | None = None
) -> list[str]:
    """What each of our classes is called in the data, composed; InputError when two would be called alike."""
    ours, theirs = composed(ours), composed(theirs)
    their_name = _translation(ours, theirs, [(_nfc(name), _nfc(other)) for name, other in class_map or ()])
    wanted = [their_name.get(name, name) for name in ours]
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        both = [name for name, there in zip(ours, wanted, strict=True) if there == twice]
        raise InputError(f"{' and '.join(both)} would both be {twice!r} in the data", hint=_TELL_APART)
    return wanted


def composed(names: Sequence[str]) -> list[str]:
    """Names with each accented letter as one character, which some systems store as two; unless two would be one."""
    alike = [_nfc(name) for name in names]
    return alike if len(set(alike)) == len(set(names)) else list(names)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _translation(ours: Sequence[str], theirs: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Their name of ours, as far as the pairs tell."""
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
    """The first few of some names."""
    listed = list(names)
    more = f", ... ({len(listed):,} in all)" if len(listed) > _NAMED else ""
    return (", ".join(listed[:_NAMED]) or "none") + more


def _hint(ours: Sequence[str], theirs: Sequence[str], pairs: Sequence[tuple[str, str]] | None) -> str:
    if pairs is None:
        return "say which class is which: --class-map FILE.csv, a row is NAME IN THE MANIFEST,NAME IN THE DATA"
    turned = sum(first in set(theirs) and second in set(ours) for first, second in pairs)
    if turned == len(pairs):
        return "the columns of the class map are the other way round: first the manifest's names, then the data's"
    return "complete the class map: a row is NAME IN THE MANIFEST,NAME IN THE DATA"
