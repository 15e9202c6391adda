"""Samples with the same content, and samples whose thumbnails hardly differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.images.identity import HASH_BYTES, hash_words
from manifests.images.thumbnails import SIDE_PX, mean_difference

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
MOST_GREY_LEVELS = 2.0
"""Mean difference of two thumbnails up to which images are near duplicates; another encoding stays below 1."""
_BLOCKS = 2
"""Thumbnails are looked up by the means of 2 x 2 blocks, in each colour."""
_PAIRS_AT_ONCE = 500_000


def first_of_content(hash_N16: NDArray[np.uint8]) -> Ids:
    """Return the first row (N,) with the same content hash as each row: its own unless there are copies before it."""
    first_N = np.arange(len(hash_N16))
    half_N = hash_words(hash_N16)[0]
    order_N = np.argsort(half_N)
    half_N = half_N[order_N]
    same_N = half_N[1:] == half_N[:-1]
    # Few rows have a copy: only those whose first half occurs again are compared by all bytes.
    row_n = np.sort(order_N[np.append(False, same_N) | np.append(same_N, False)]) if same_N.any() else first_N[:0]
    content_n = np.ascontiguousarray(hash_N16[row_n]).view(f"V{HASH_BYTES}").ravel()
    _, first_G, group_n = np.unique(content_n, return_index=True, return_inverse=True)
    first_N[row_n] = row_n[first_G[group_n]]
    return first_N


def in_two_classes(first_N: Ids, label_N: NDArray[np.integer[Any]]) -> Mask:
    """Return (N,) whether the content of a row lies in several classes; `first_N` as `first_of_content` returns it."""
    is_split_N = np.zeros(len(first_N), np.bool_)
    is_split_N[first_N[label_N != label_N[first_N]]] = True
    return is_split_N[first_N]


def nearest_before(
    thumbnail_NP: NDArray[np.uint8], limit: float = MOST_GREY_LEVELS, workers: int = 1
) -> tuple[Ids, NDArray[np.float32]]:
    """Return the row before each row (N,) whose thumbnail differs least, up to `limit` grey levels, and by how much.

    -1 where there is none; the first of equals. Exact: the mean difference of the blocks of two thumbnails is never
    larger than that of the thumbnails, so a tree of blocks finds every candidate.
    """
    first_N = np.arange(len(thumbnail_NP))
    if len(thumbnail_NP):
        row_N = np.ascontiguousarray(thumbnail_NP).view(f"V{thumbnail_NP.shape[1]}").ravel()
        _, first_U, group_N = np.unique(row_N, return_index=True, return_inverse=True)
        first_N = first_U[group_N]
    other_N = np.where(first_N < np.arange(len(first_N)), first_N, -1)
    difference_N = np.zeros(len(first_N), np.float32)
    row_U = np.unique(first_N)
    near_U, difference_U = _nearest_of_unique(thumbnail_NP[row_U], limit, workers)
    has_near_U = near_U >= 0
    other_N[row_U[has_near_U]] = row_U[near_U[has_near_U]]
    difference_N[row_U] = difference_U
    return other_N, difference_N


def _nearest_of_unique(thumbnail_UP: NDArray[np.uint8], limit: float, workers: int) -> tuple[Ids, NDArray[np.float32]]:
    count = len(thumbnail_UP)
    from scipy.spatial import cKDTree

    near_U, difference_U = np.full(count, -1, np.int64), np.zeros(count, np.float32)
    if count < 2:
        return near_U, difference_U
    side = SIDE_PX // _BLOCKS
    block_UB = thumbnail_UP.reshape(count, _BLOCKS, side, _BLOCKS, side, 3).mean(axis=(2, 4)).reshape(count, -1)
    tree = cKDTree(block_UB)
    # A little more than the limit, so that rounding loses no pair.
    radius = block_UB.shape[1] * limit + 1e-6
    pairs_U = tree.query_ball_point(block_UB, radius, p=1, return_length=True, workers=workers)
    band_U = np.cumsum(pairs_U) // _PAIRS_AT_ONCE
    for rows in np.split(np.arange(count), np.flatnonzero(np.diff(band_U)) + 1):
        found = tree.query_ball_point(block_UB[rows], radius, p=1, workers=workers)
        row_p, other_p = np.repeat(rows, [len(each) for each in found]), np.concatenate(found).astype(np.int64)
        row_p, other_p = row_p[other_p < row_p], other_p[other_p < row_p]
        difference_p = mean_difference(thumbnail_UP[row_p], thumbnail_UP[other_p])
        is_near_p = difference_p <= limit
        row_p, other_p, difference_p = row_p[is_near_p], other_p[is_near_p], difference_p[is_near_p]
        order_p = np.lexsort((other_p, difference_p, row_p))
        row_q, at_q = np.unique(row_p[order_p], return_index=True)
        near_U[row_q], difference_U[row_q] = other_p[order_p][at_q], difference_p[order_p][at_q]
    return near_U, difference_U
