"""Scores of penultimate features: GraNd of the last layer, and the distance of Moderate.

A feature score is a function of a `FeatureTable`, which it may read as often as it needs; computed in float64 from
features and logits as stored, and returned as float32. The score `influence` is in influence.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manifests.format.soft_labels import Logits
from prune_toolkit.scoring.feature_table import FeatureTable
from prune_toolkit.scoring.logit_scores import Floats
from prune_toolkit.scoring.score import Score

FEATURES = "features"
"""Name of the set of these scores."""
MOST_BYTES = 512 << 20
"""Limit of features in memory at once, in float16."""
FeatureFunction = Callable[[FeatureTable], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureScore(Score):
    """A score of all samples together."""

    function: FeatureFunction
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
    needs=("logits", "features"),
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
