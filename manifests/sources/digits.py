"""The handwritten digits that come with scikit-learn: real images without a download."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.sources.arrays import ArraySource, array_source
from manifests.sources.names import choose_split, read_class_names, resolve_names

_GREY_LEVELS = 16


def open_digits(*, split: str | None = None, classes: Path | None = None) -> ArraySource:
    """Open 1,797 images of 8x8 px in 10 classes, 1,298 for training and 499 for testing.

    The 0..16 grey levels become round(v * 255 / 16). In each class, images are ordered by the sha256 of these pixels;
    the first 5/18 of them, rounded, are the test split. Rows keep scikit-learn's order.
    """
    from sklearn.datasets import load_digits

    chosen = choose_split(("train", "test"), split, "demo:digits")
    digits = load_digits()
    images = np.floor(digits.images * 255 / _GREY_LEVELS + 0.5).astype(np.uint8)
    labels_N = np.asarray(digits.target, np.int64)
    held_out_N = _held_out(images, labels_N)
    rows = np.flatnonzero(held_out_N if chosen == "test" else ~held_out_N)
    class_names = resolve_names(
        labels_N,
        given=None if classes is None else read_class_names(classes),
        known=tuple(str(name) for name in digits.target_names),
        where="demo:digits",
    )
    return array_source(
        kind="digits",
        name="digits",
        split=chosen,
        class_names=class_names,
        labels_N=labels_N[rows],
        images=images[rows],
        where="demo:digits",
    )


def _held_out(images: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    held_out_N = np.zeros(len(images), np.bool_)
    for label in np.unique(labels_N):
        ranked = sorted(np.flatnonzero(labels_N == label).tolist(), key=lambda row: (digests[row], row))
        held_out_N[ranked[: round(len(ranked) * 5 / 18)]] = True
    return held_out_N
