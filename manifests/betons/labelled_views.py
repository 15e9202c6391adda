"""Which views of a sample have a stored label, where samples differ in it: bit v of a uint64 stands for view v.

The labels of a sample are stored in the order of its views: slot 0 is view 0, slot s the view of its bit number s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
MOST_VIEWS = 64
"""Views that such labels are chosen from."""
LEAST_LABELS = 2
"""Labels of a sample: that of view 0, and of one augmented view that a student is shown."""


def bits_of(labelled_nV: NDArray[np.bool_]) -> Bits:
    """Return (n,) uint64 of (n, V) flags, V at most 64."""
    place_V = np.left_shift(np.uint64(1), np.arange(labelled_nV.shape[1], dtype=np.uint64))
    bits_n: Bits = np.where(labelled_nV, place_V, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return bits_n


def bits_of_views(ids_of_views: Sequence[NDArray[np.int64]], count: int) -> Bits:
    """Return (count,) uint64 by sample_id, given the sample_ids that have a label of view 0, 1, ..."""
    bits_N = np.zeros(count, np.uint64)
    for view, ids in enumerate(ids_of_views):
        bits_N[ids] |= np.uint64(1 << view)
    return bits_N


def labels_each(bits_n: Bits) -> NDArray[np.int64]:
    """Return the number of labels (n,) of each sample."""
    return np.bitwise_count(bits_n).astype(np.int64)


def view_of_slot(bits_n: Bits, slot_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the view (n,) whose label is in a slot, 0 <= slot < labels of the sample."""
    byte_n8 = np.ascontiguousarray(bits_n.astype("<u8")).view(np.uint8).reshape(-1, 8)
    is_labelled_nV = np.unpackbits(byte_n8, axis=1, bitorder="little")
    reached_nV = np.cumsum(is_labelled_nV, axis=1, dtype=np.uint8) > slot_n[:, None]
    return np.asarray(reached_nV.argmax(axis=1), np.int64)


def bits_problem(bits_n: Bits, views: int) -> str | None:
    """Return what is wrong with the labelled views of the first such row; None if `views` views allow all of them."""
    checks: tuple[tuple[str, NDArray[Any]], ...] = (
        (f"a label of a view that is not from 0 to {views - 1}", bits_n >> np.uint64(views) != 0)
        if views < MOST_VIEWS
        else ("", np.zeros(len(bits_n), np.bool_)),
        ("no label of view 0", bits_n & np.uint64(1) == 0),
        (f"fewer than {LEAST_LABELS} labels", labels_each(bits_n) < LEAST_LABELS),
    )
    for what, wrong_n in checks:
        if wrong_n.any():
            return f"row {int(np.argmax(wrong_n))} has {what}"
    return None
