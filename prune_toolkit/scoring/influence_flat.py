"""Influence of a sample at a flat minimum: the last layer is fine-tuned on a held-out split, then g' F^-1 g.

The layer starts as the teacher's, recovered from its features and logits by least squares, and is fine-tuned by
friendly sharpness-aware minimisation. F is the diagonal Fisher matrix of the training samples. Source: IF-Beta
("Distill on a Diet", ECCV 2026, arXiv 2606.25488): 1,000 iterations, rate .01, batches of 128; F-SAM, Li et al., CVPR
2024, with rho .05, sigma 1, lambda .9. Last layer only, and damping, are ours.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prune_toolkit.scoring.feature_scores import FeatureRows, FeatureTable, errors, feature_score
from prune_toolkit.scoring.influence import DAMPING, inverse
from prune_toolkit.scoring.logit_scores import Floats

ITERATIONS, RATE, BATCH_ROWS = 1000, 0.01, 128
RHO, SIGMA, LAMBDA = 0.05, 1.0, 0.9
_SALT = 0xF1A7
"""Seed of the order of batches; the same for every run."""


@feature_score(
    "influence_flat",
    harder="high",
    formula="sum_cd e_c^2 h_d^2 / (F_cd + .001 mean F), F = mean_i e_i^2 h_i^2', h with a 1 appended, e = p - y of the "
    "last layer fine-tuned by F-SAM on the held-out split",
    source="IF-Beta, ECCV 2026 (arXiv 2606.25488); here of the last layer",
    needs=("logits", "features", "labels"),
    cost="one teacher pass, O(D^3 + N D (D + C)), and 2,000 small gradients",
)
def influence_flat(table: FeatureTable) -> Floats:
    """Self-influence of each sample at a flat minimum of the held-out loss; 0 for all if there is no error at all."""
    weight_CE = fine_tuned(last_layer(table), table.held_out())
    fisher_CE, count = np.zeros_like(weight_CE), max(1, len(table.label_N))
    for rows in table.blocks():
        e_nC = errors(rows.h1_nE @ weight_CE.T, rows.label_n)
        fisher_CE += np.square(e_nC).T @ np.square(rows.h1_nE) / count
    damped_CE = fisher_CE + (DAMPING * fisher_CE.mean() or 1.0)

    def self_influence(rows: FeatureRows) -> Floats:
        e_nC = errors(rows.h1_nE @ weight_CE.T, rows.label_n)
        return np.asarray(np.einsum("nc,nc->n", np.square(e_nC), np.square(rows.h1_nE) @ (1.0 / damped_CE).T))

    return table.collect(self_influence)


def last_layer(table: FeatureTable) -> Floats:
    """Return weights and biases (C, E) of least squared error from features to logits: the teacher's last layer.

    Damped a little, for features that are always 0.
    """
    width = table.width + 1
    second_EE, cross_EC = np.zeros((width, width)), np.zeros((width, table.class_count))
    for rows in table.blocks():
        second_EE += rows.h1_nE.T @ rows.h1_nE
        cross_EC += rows.h1_nE.T @ np.asarray(rows.logits_nC, np.float64)
    return np.asarray((inverse(second_EE, damping=1e-9) @ cross_EC).T)


def fine_tuned(weight_CE: Floats, held_out: Iterator[FeatureRows]) -> Floats:
    """Minimise the mean cross-entropy of the held-out samples by F-SAM, from `weight_CE`."""
    blocks = list(held_out)
    if not blocks:
        return weight_CE
    features_MD = np.concatenate([rows.features_nD for rows in blocks])
    label_M = np.concatenate([rows.label_n for rows in blocks])
    generator, weight_CE = np.random.default_rng(_SALT), weight_CE.copy()
    mean_CE: Floats | None = None
    for row_n in _batches(len(label_M), generator):
        h1_nE = np.concatenate([features_MD[row_n].astype(np.float64), np.ones((len(row_n), 1))], axis=1)
        gradient_CE = _gradient(weight_CE, h1_nE, label_M[row_n])
        # Friendly: away from the mean of the gradients so far, only the noise of this batch is climbed.
        climb_CE = gradient_CE if mean_CE is None else gradient_CE - SIGMA * mean_CE
        mean_CE = gradient_CE if mean_CE is None else LAMBDA * mean_CE + (1.0 - LAMBDA) * gradient_CE
        highest_CE = weight_CE + climb_CE * (RHO / (np.linalg.norm(climb_CE) + 1e-12))
        weight_CE -= RATE * _gradient(highest_CE, h1_nE, label_M[row_n])
    return weight_CE


def _batches(count: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield ITERATIONS batches, epoch after epoch in a new order; the last of an epoch may be smaller."""
    left = ITERATIONS
    while left:
        order_M = generator.permutation(count)
        for start in range(0, count, BATCH_ROWS)[:left]:
            yield order_M[start : start + BATCH_ROWS]
            left -= 1


def _gradient(weight_CE: Floats, h1_nE: Floats, label_n: NDArray[np.int64]) -> Floats:
    return np.asarray(errors(h1_nE @ weight_CE.T, label_n).T @ h1_nE / len(label_n))
