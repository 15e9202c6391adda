"""Images stored in one array, such as the handwritten digits of scikit-learn."""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.images.decode import ImageProblem, Pixels, RawImage
from manifests.sources.base import ReadOptions, Source
from manifests.sources.names import named_labels, refuse_label, row_keys
from manifests.sources.read_as import ReadAs
from manifests.sources.splits import choose_split

_GREY_LEVELS = 16


def read_array(images: NDArray[np.uint8], rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    """Return some rows of an array (N, H, W) or (N, H, W, 3), as views of it."""
    return [Pixels(images[row]) for row in rows]


def open_demo(name: str, options: ReadOptions) -> Source:
    """Open `digits`: 1,797 images of 8x8 px in 10 classes, 1,298 for training and 499 for testing.

    The 0..16 grey levels become round(v * 255 / 16). In each class, images are ordered by the sha256 of these pixels;
    the first 5/18 of them, rounded, are the test split. Rows keep scikit-learn's order.
    """
    refuse_label(options.label, f"demo:{name}")
    if name != "digits":
        raise UsageError(f"unknown demo data set {name!r}", hint="known: demo:digits")
    from sklearn.datasets import load_digits

    chosen = choose_split(("train", "test"), options.split, "demo:digits")
    digits = load_digits()
    images = np.floor(digits.images * 255 / _GREY_LEVELS + 0.5).astype(np.uint8)
    held_out_N = _held_out(images, digits.target)
    rows = np.flatnonzero(held_out_N if chosen == "test" else ~held_out_N)
    keys, known = row_keys(chosen, len(rows)), tuple(str(name) for name in digits.target_names)
    class_names, labels_N = named_labels(digits.target[rows], keys, options.classes, known, "demo:digits")
    return Source(
        kind="digits",
        name="digits",
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(read_array, images[rows]),
        read_as=ReadAs(labels="those of scikit-learn", split_found="by content: 5 of 18 images are the test split"),
    )


def _held_out(images: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    held_out_N = np.zeros(len(images), np.bool_)
    for label in np.unique(labels_N):
        ranked = sorted(np.flatnonzero(labels_N == label).tolist(), key=lambda row: (digests[row], row))
        held_out_N[ranked[: round(len(ranked) * 5 / 18)]] = True
    return held_out_N
