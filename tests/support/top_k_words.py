"""Decode the words of the K largest logits, as written by TopK.words."""

import numpy as np
from numpy.typing import NDArray

from manifests.format.top_k import TEMPERATURES, TopK, words_count


def from_words(words_nW: NDArray[np.int16] | NDArray[np.float16], k: int, class_count: int) -> TopK:
    """Decode the output of `TopK.words`, also as the float16 that a beton's reader returns.

    Raises ValueError for other shapes.
    """
    if words_nW.ndim != 2 or words_nW.shape[1] != words_count(k):
        raise ValueError(f"{words_count(k)} words per row expected for {k} classes, not an array of {words_nW.shape}")
    words_nW = np.ascontiguousarray(words_nW).view(np.int16)
    ends = np.cumsum([k, k, 2 * len(TEMPERATURES), 1, 2]).tolist()
    class_nK, logit_nK, tail, label, mean, std = (
        np.ascontiguousarray(part).view(dtype)
        for part, dtype in zip(
            np.split(words_nW, ends, axis=1),
            (np.uint16, np.float16, np.float32, np.float16, np.float32, np.float32),
            strict=True,
        )
    )
    return TopK(class_count, class_nK, logit_nK, tail, label[:, 0], mean[:, 0], std[:, 0])
