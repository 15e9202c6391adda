"""The lines that tell what a source was taken for, and what of it is probably not meant."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manifests.images.decode import ImageProblem, RawImage
from manifests.images.identity import HASH_BYTES, content_hash
from manifests.sources.base import Source, map_images
from manifests.sources.read_as import listed_names
from manifests.sources.sixteen_bit import SixteenBit

_FEW = 10
MOST_COMPARED = 1000
"""Validation images that are compared with the training images: enough to find a set that holds some of them."""
_NO_LABELS = ("unlabelled", "unlabeled", "unsup", "unsupervised")
_DIGITS = [str(digit) for digit in range(10)]


def reading_lines(source: Source, depth: SixteenBit | None = None) -> list[str]:
    """Return the lines that tell what was taken, and what was left out."""
    read_as = source.read_as
    lines = [f"{source.name} ({source.kind}): {len(source.keys):,} images"]
    if source.split is not None:
        others = f"; also there: {listed_names(read_as.other_splits)}" if read_as.other_splits else ""
        lines[0] += f", split {source.split} ({read_as.split_found}{others})"
    lines.append(f"labels: {read_as.labels}" if source.is_unlabelled else _classes_line(source))
    if read_as.images is not None:
        lines.append(f"images: {read_as.images}")
    if depth is not None and depth.conversion is not None:
        lines.append(f"images: {depth.conversion}")
    if read_as.left_out.counts:
        lines.append(f"left out: {read_as.left_out}")
    return lines


def _classes_line(source: Source) -> str:
    names, count_C = source.class_names, np.bincount(source.labels_N, minlength=len(source.class_names))
    with_samples = np.flatnonzero(count_C)
    least, most = with_samples[count_C[with_samples].argmin()], with_samples[count_C[with_samples].argmax()]
    sizes = f"{count_C[least]:,} each"
    if count_C[least] != count_C[most]:
        sizes = f"{names[least]} has the fewest ({count_C[least]:,}), {names[most]} the most ({count_C[most]:,})"
    return f"{len(names):,} classes, {source.read_as.labels}: {listed_names(names)}; {sizes}"


def reading_warnings(source: Source, depth: SixteenBit | None = None) -> list[str]:
    """Return one line for each thing that is probably not meant."""
    left_out = source.read_as.left_out
    found = [*source.read_as.warnings]
    if not source.is_unlabelled:
        found += _label_warnings(source.class_names, source.labels_N)
    for kind in left_out.images_by_content:
        found.append(f"{kind} hold images in spite of their names, such as {left_out.examples[kind][0]}; rename them")
    beside = left_out.counts["images beside the class folders"]
    if beside:
        found.append(f"{beside:,} images lie beside the class folders and have no class")
    return found if depth is None or depth.warning is None else [*found, depth.warning]


def content_warnings(keys: Sequence[str], labels_N: NDArray[np.int32], hash_N16: NDArray[np.uint8]) -> list[str]:
    """Return one line for images of the same content (N, 16) in two classes, and one for those twice in one class.

    Zeros are the content of images that cannot be read.
    """
    order = np.lexsort(hash_N16.T[::-1])
    same = (hash_N16[order[1:]] == hash_N16[order[:-1]]).all(axis=1) & hash_N16[order[1:]].any(axis=1)
    found = []
    for in_two, what in (
        (True, "images of the same content in two classes"),
        # Images without labels are all of class 0.
        (False, "images twice in one class" if labels_N.any() else "images twice"),
    ):
        twice = np.flatnonzero(same & ((labels_N[order[1:]] != labels_N[order[:-1]]) == in_two))
        if len(twice):
            pairs = sorted(sorted((keys[order[at]], keys[order[at + 1]])) for at in twice)
            found.append(f"{what}: {len(twice):,}; the first: {pairs[0][0]} and {pairs[0][1]}")
    return found


def leak_warning(hash_N16: NDArray[np.uint8], held_out: Source, workers: int) -> str | None:
    """Return one line if validation images have the content (N, 16) of training images; None if none has.

    At most MOST_COMPARED of them, evenly spaced, are read.
    """
    count = len(held_out.keys)
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_COMPARED)).astype(np.int64)).tolist()

    def digest(_row: int, image: RawImage | ImageProblem) -> bytes:
        return bytes(HASH_BYTES) if isinstance(image, ImageProblem) else content_hash(image)

    theirs_n16 = np.frombuffer(b"".join(map_images(held_out, rows, digest, workers)), np.uint8).reshape(-1, HASH_BYTES)
    is_known_n = np.isin(_halves(theirs_n16), _halves(hash_N16)) & theirs_n16.any(axis=1)
    if not is_known_n.any():
        return None
    first = held_out.keys[rows[int(is_known_n.argmax())]]
    what = "validation images" if len(rows) == count else f"compared validation images (of {count:,})"
    return f"{is_known_n.sum():,} of {len(rows):,} {what} are training images too, such as {first}"


def _halves(hash_N16: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each hash as one number."""
    return np.ascontiguousarray(hash_N16[:, :8]).view("<u8").ravel()


def _label_warnings(class_names: Sequence[str], labels_N: NDArray[np.int32]) -> list[str]:
    count_C = np.bincount(labels_N, minlength=len(class_names))
    empty = [class_names[label] for label in np.flatnonzero(count_C == 0).tolist()]
    found = []
    if empty:
        found.append(f"classes without samples: {len(empty):,} of {len(class_names):,} ({listed_names(empty)})")
    if len(labels_N) > _FEW and np.count_nonzero(count_C) == len(labels_N):
        found.append(f"each of the {len(labels_N):,} samples is a class of its own: are these labels?")
    for name in class_names:
        if name.lower() in _NO_LABELS:
            found.append(f"{name} is read as a class: if its images have no labels, move it away, or use --unlabelled")
    if all(name.isdecimal() for name in class_names) and list(class_names) != _DIGITS:
        found.append(f"the classes are called by numbers ({listed_names(class_names, 3)}): give names with --classes")
    return found
