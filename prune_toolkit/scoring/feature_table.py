"""The input of feature scores: features, logits and labels, readable block by block, repeatedly.

The features of ImageNet are 5 GB in float16, so nothing here loads all of them at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from manifests.format.soft_labels import Logits
from manifests.images.identity import hash_words, mix64
from prune_toolkit.quotas.quotas import QUOTAS
from prune_toolkit.scoring.logit_scores import Floats, Integers, LogitRows

BLOCK_ROWS = 2048
"""In float64, 2,048 rows of 2,048 features are 32 MiB."""
HELD_OUT = Fraction(1, 10)
_SALT = 0x48454C44
"""Salt of the draw of the held-out split; any constant that no other draw uses."""


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A block of samples: features (n, D), a function that reads logits (n, C), labels (n,)."""

    features_nD: Logits
    logits: Callable[[], Logits]
    label_n: Integers

    def only(self, chosen_n: NDArray[np.bool_]) -> "FeatureRows":
        """Return some of the samples."""
        return FeatureRows(self.features_nD[chosen_n], lambda: self.logits_nC[chosen_n], self.label_n[chosen_n])

    @cached_property
    def logits_nC(self) -> Logits:
        """Logits as stored; read only if a score needs them."""
        return self.logits()

    @cached_property
    def h_nD(self) -> Floats:
        """Features in float64."""
        return np.asarray(self.features_nD, np.float64)

    @cached_property
    def h1_nE(self) -> Floats:
        """Features with a 1 appended, E = D + 1: the input of weight and bias of the last layer."""
        return np.concatenate([self.h_nD, np.ones((len(self.h_nD), 1))], axis=1)

    @cached_property
    def e_nC(self) -> Floats:
        """p - y: the gradient of the cross-entropy with respect to the logits.

        The entry of the true class is minus the sum of the others: p_y - 1 would be 0 for every confident sample.
        """
        rows = LogitRows(self.logits_nC, self.label_n)
        e_nC: Floats = rows.exp_nC / (1.0 + rows.rest_n)[:, None]
        others_n = rows.without(e_nC, rows.label_n, 0.0).sum(axis=1)
        e_nC[np.arange(len(e_nC)), rows.label_n] = -others_n
        return e_nC


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """N samples in canonical order, and functions that iterate over them."""

    label_N: NDArray[np.int64]
    class_count: int
    width: int
    """D, the number of features."""
    blocks: Callable[[], Iterator[FeatureRows]]
    """Iterate over all samples, in order."""
    held_out: Callable[[], Iterator[FeatureRows]]
    """Iterate over the held-out samples: some of these, in order, or others; never those of a test set."""
    copies: Callable[[], NDArray[np.int64]]
    """(N,) number of held-out samples equal to each sample; known once `held_out` was iterated over."""

    def collect(self, function: Callable[[FeatureRows], Floats]) -> Floats:
        """Apply a function of blocks that returns one number per sample, and return (N,) float64."""
        parts = [function(rows) for rows in self.blocks()]
        return np.concatenate(parts) if parts else np.empty(0)


def held_out_split(label_N: Integers, hash_N16: NDArray[np.uint8], class_count: int) -> NDArray[np.bool_]:
    """Flag (N,) a tenth of the samples of each class: those with the smallest hash(salt, content hash).

    Independent of the order of rows except for copies of one image. If there are fewer than five samples, all of them.
    """
    count_C = np.bincount(label_N, minlength=class_count)
    take_C = QUOTAS["proportional"](count_C, HELD_OUT)
    assert take_C is not None
    if not take_C.any():
        return np.ones(len(label_N), np.bool_)
    order_N = np.lexsort((mix64(_SALT, *hash_words(hash_N16)), label_N))
    rank_N = np.empty(len(label_N), np.int64)
    rank_N[order_N] = np.arange(len(label_N)) - (np.cumsum(count_C) - count_C)[np.asarray(label_N)[order_N]]
    held_N: NDArray[np.bool_] = rank_N < take_C[label_N]
    return held_N
