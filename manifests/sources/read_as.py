"""What a source was taken for: the choices that were made when it was opened, so that they can be told."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests.base.progress import one_line, printable

MOST_KINDS = 20
NO_LABELS = "none, as --unlabelled says"
"""What is told of the labels of images that have none."""
MOST_EXAMPLES = 3


class LeftOut:
    """Files and folders that were not taken: their number by kind, and the first names of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.images_by_content: list[str] = []
        """Kinds whose first file holds an image in spite of its name."""

    def add(self, kind: str, name: str) -> bool:
        """Count one; return whether it is the first of its kind."""
        if kind not in self.counts and len(self.counts) >= MOST_KINDS:
            kind = "other files"
        first = kind not in self.counts
        self.counts[kind] += 1
        if len(examples := self.examples.setdefault(kind, [])) < MOST_EXAMPLES:
            examples.append(one_line(printable(name)))
        return first

    def only(self, kind: str) -> "LeftOut":
        """Return what was counted of one kind."""
        found = LeftOut()
        if kind in self.counts:
            found.counts[kind], found.examples[kind] = self.counts[kind], self.examples[kind]
        return found

    def extend(self, other: "LeftOut") -> None:
        """Count what another one has counted, too."""
        for kind, count in other.counts.items():
            for name in other.examples[kind]:
                self.add(kind, name)
            self.counts[kind] += count - len(other.examples[kind])

    def __str__(self) -> str:
        return "; ".join(f"{kind}: {count:,} ({self._shown(kind)})" for kind, count in self.counts.most_common())

    def _shown(self, kind: str) -> str:
        return ", ".join(self.examples[kind]) + (", ..." if self.counts[kind] > MOST_EXAMPLES else "")


@dataclass(frozen=True, kw_only=True)
class ReadAs:
    """How the split and the labels of a source were found, and what was not taken."""

    labels: str
    """Where the labels come from, such as "names of the folders in train/"."""
    split_found: str | None = None
    """How the split was found, such as "by the name of its folder"; None if there are no splits."""
    other_splits: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    images: str | None = None
    """What was done to the pixels, such as "transposed"; None: nothing that has to be told."""
    warnings: tuple[str, ...] = ()
    """One line each, about what is probably not meant."""


def listed_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, separated by commas, and the number of those left."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
