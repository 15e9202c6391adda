"""A source of labelled images, of any kind that can be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.images.decode import ImageProblem, RawImage

ReadRows = Callable[[Sequence[int]], list[RawImage | ImageProblem]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Labelled images in canonical order: keys sorted by their UTF-8 bytes, row = position in that order."""

    kind: str
    """folder, parquet, idx, cifar, digits or beton."""
    name: str
    """Name of the data set: that of its folder."""
    split: str | None
    """The split that was opened, as the source spells it; None if there are no splits."""
    class_names: tuple[str, ...]
    """Ordered, unique; label c means class_names[c]."""
    keys: list[str] = field(repr=False)
    """Unique, sorted by their UTF-8 bytes."""
    labels_N: NDArray[np.int32] = field(repr=False)
    """(N,), each in [0, C)."""
    read: ReadRows = field(repr=False)
    """Return the images of some rows, in the order requested, with a problem in place of an unreadable one.

    May be called from several threads at once. Nothing is decoded.
    """
    root: Path | None = None
    """Folder of the image files, whose paths below it are the keys; None where images are rows of something."""


Opener = Callable[[Path, str | None, Path | None, str | None], Source]
"""A function of a path, a split, a file of class names and a label column, each None if it is not named."""
