"""Splits by the words of their names: training_set, seg_train, Testing, dev, partial-train."""

import re
from collections.abc import Collection

from manifests.errors import InputError

NO_SPLITS = "none"
"""Given as a split: the data has none, whatever the names of its folders or files look like."""
HELD_OUT = "val or test"
"""Given as a split: the one to validate on."""
_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_FAMILY = {word: family for family, words in _WORDS.items() for word in words}
SPLIT_WORDS = frozenset(_FAMILY)
_SERVING = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
"""The families that serve when one is wanted, best first."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class NoSplitsError(InputError):
    """A split was requested from data without splits."""


def split_family(name: str) -> str | None:
    """Return train, val or test by the last word of a name that is one, however spelled; None if no word is.

    Words end at whatever is not a letter, and where a capital letter follows a small one: val2017, trainImages.
    """
    return next((_FAMILY[word] for word in reversed(_words(name)) if word in _FAMILY), None)


def family_of_path(folders: str) -> str | None:
    """Return train, val or test by the last folder of a path that is called so; None if none is."""
    return next((family for name in reversed(folders.split("/")) if (family := split_family(name))), None)


def choose_split(available: Collection[str], split: str | None, where: object) -> str:
    """Return the available split that is meant: the one of that name, else of the same words; train if None.

    `val` and `test` stand for each other if there is only one of them. A plain name such as train is preferred to
    one of several words such as train_extra. Raises InputError if no split, or more than one, can be meant.
    """
    wanted = split or "train"
    if same := [name for name in available if name == wanted] or [
        name for name in available if name.lower() == wanted.lower()
    ]:
        return same[0]
    known = ", ".join(sorted(available)) or "none"
    meant = "val" if wanted == HELD_OUT else _FAMILY.get(wanted.lower(), "")
    for family in _SERVING.get(meant, ()):
        found = sorted(name for name in available if split_family(name) == family)
        plain = [name for name in found if name.lower() in _FAMILY]
        if len(plain or found) > 1:
            raise InputError(
                f"{where} has several splits for {wanted!r}: {', '.join(plain or found)}", hint="choose with --split"
            )
        if found:
            return (plain or found)[0]
    raise InputError(f"{where} has no split {wanted!r}", hint=f"splits it has: {known}; choose with --split")


def refuse_split(split: str | None, where: object) -> None:
    """Raise InputError if a split is requested from data without splits."""
    if split not in (None, NO_SPLITS):
        raise NoSplitsError(
            f"{where} has no split {split!r}: it has no splits",
            hint="leave the split out, or name the folder that holds the splits",
        )


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
