"""Names of one class as two lists spell it."""

from collections.abc import Sequence


def fold(name: str) -> str:
    """Return a name without what spellings of one class differ in: case, `_` for a space, synonyms after a comma."""
    return name.partition(",")[0].replace("_", " ").casefold().strip()


def some(names: Sequence[object], limit: int = 3) -> str:
    """Return the first names, with ... if there are more."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."
