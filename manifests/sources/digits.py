"""The handwritten digits that come with scikit-learn: real images without a download."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.sources.arrays import read_array
from manifests.sources.base import Source, row_source
from manifests.sources.names import choose_split, refuse_label, row_keys

_GREY_LEVELS = 16


def open_demo(name: str, split: str | None, classes: Path | None, label: str | None) -> Source:
    """Open `digits`: 1,797 images of 8x8 px in 10 classes, 1,298 for training and 499 for testing.

    The 0..16 grey levels become round(v * 255 / 16). In each class, images are ordered by the sha256 of these pixels;
    the first 5/18 of them, rounded, are the test split. Rows keep scikit-learn's order.
    """
    refuse_label(label, f"demo:{name}")
    if name != "digits":
        raise UsageError(f"unknown demo data set {name!r}", hint="known: demo:digits")
    from sklearn.datasets import load_digits

    chosen = choose_split(("train", "test"), split, "demo:digits")
    digits = load_digits()
    images = np.floor(digits.images * 255 / _GREY_LEVELS + 0.5).astype(np.uint8)
    labels_N = np.asarray(digits.target, np.int64)
    held_out_N = _held_out(images, labels_N)
    rows = np.flatnonzero(held_out_N if chosen == "test" else ~held_out_N)
    return row_source(
        kind="digits",
        name="digits",
        split=chosen,
        keys=row_keys(chosen, len(rows)),
        labels_N=labels_N[rows],
        classes=classes,
        known=tuple(str(name) for name in digits.target_names),
        where="demo:digits",
        read=partial(read_array, images[rows]),
    )


def _held_out(images: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    held_out_N = np.zeros(len(images), np.bool_)
    for label in np.unique(labels_N):
        ranked = sorted(np.flatnonzero(labels_N == label).tolist(), key=lambda row: (digests[row], row))
        held_out_N[ranked[: round(len(ranked) * 5 / 18)]] = True
    return held_out_N
