"""Scores of penultimate features: GraNd of the last layer, and the distance of Moderate.

A feature score is a function of a `FeatureTable`, which it may read as often as it needs, block by block: the features
of ImageNet are 5 GB in float16. It is computed in float64 from features and logits as stored, and returned as float32.
The scores `influence` and `prototypes` are in influence.py and prototypes.py.
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
from prune_toolkit.scoring.score import Score

FEATURES = "features"
"""Name of the set of these scores."""
MOST_BYTES = 512 << 20
"""Limit of features in memory at once, in float16."""
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
        """p - y: see `errors`."""
        return errors(self.logits_nC, self.label_n)


def errors(logits_nC: Logits | Floats, label_n: Integers) -> Floats:
    """Return p - y, (n, C): the gradient of the cross-entropy with respect to the logits.

    The entry of the true class is minus the sum of the others: p_y - 1 would be 0 for every confident sample.
    """
    rows = LogitRows(logits_nC, label_n)
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
        return np.concatenate([np.empty(0), *map(function, self.blocks())])


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
    return np.asarray(rank_N < take_C[label_N])


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureScore(Score):
    """A score of all samples together."""

    function: Callable[[FeatureTable], Floats]
    family = FEATURES

    def __call__(self, table: FeatureTable) -> NDArray[np.float32]:
        """Compute the score, (N,) float32, of the samples of a table."""
        return np.asarray(self.function(table)).astype(np.float32)


feature_score = FeatureScore.adding
"""Register a function of a `FeatureTable` that returns one float64 per sample."""


@feature_score(
    "grand",
    harder="high",
    formula="||p - y||_2 sqrt(||h||_2^2 + 1), h the input of the last layer",
    source="Paul et al. 2021 (GraNd), here of the last layer of one converged teacher",
    needs=("logits", "features", "labels"),
    cost="one teacher pass",
)
def grand(table: FeatureTable) -> Floats:
    """Norm of the gradient of the cross-entropy with respect to weight and bias of the last layer."""
    return table.collect(lambda rows: np.linalg.norm(rows.e_nC, axis=1) * np.linalg.norm(rows.h1_nE, axis=1))


@feature_score(
    "moderate",
    harder="high",
    formula="||h - m_y||_2, m_c the coordinate-wise median of h over class c",
    source="Xia et al. 2023 (Moderate)",
    needs=("features",),
    cost="one teacher pass; features are read once for every 512 MiB of them",
)
def centre_distance(table: FeatureTable) -> Floats:
    """Distance of the features from the median of their class."""
    median_CD = class_medians(table)
    return table.collect(lambda rows: np.linalg.norm(rows.h_nD - median_CD[rows.label_n], axis=1))


def class_medians(table: FeatureTable) -> Floats:
    """Coordinate-wise medians (C, D) of the features of each class; 0 for a class without samples."""
    median_CD = np.zeros((table.class_count, table.width))
    order_N = np.argsort(table.label_N, kind="stable")
    end_C = np.cumsum(np.bincount(table.label_N, minlength=table.class_count))
    step = max(1, MOST_BYTES // (2 * max(1, len(table.label_N))))
    for start in range(0, table.width, step):
        columns = slice(start, min(start + step, table.width))
        features_Nd = _columns(table, columns)
        for label, (first, end) in enumerate(zip([0, *end_C[:-1]], end_C, strict=True)):
            if first < end:
                of_class_nd = features_Nd[order_N[first:end]].astype(np.float64)
                median_CD[label, columns] = np.median(of_class_nd, axis=0)
    return median_CD


def _columns(table: FeatureTable, columns: slice) -> Logits:
    """Copy some columns of all features (N, d), block by block: a view would keep all columns in memory."""
    features_Nd: Logits = np.empty((len(table.label_N), columns.stop - columns.start), np.float16)
    done = 0
    for rows in table.blocks():
        if not done:
            features_Nd = features_Nd.astype(rows.features_nD.dtype, copy=False)
        features_Nd[done : done + len(rows.label_n)] = rows.features_nD[:, columns]
        done += len(rows.label_n)
    return features_Nd
