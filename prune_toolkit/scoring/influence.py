"""Influence of a sample on the loss of a held-out split: last layer only, with a Kronecker-factored Hessian."""

import numpy as np

from prune_toolkit.scoring.feature_scores import FeatureTable, feature_score
from prune_toolkit.scoring.logit_scores import Floats

DAMPING = 1e-3
"""Multiple of each factor's mean eigenvalue that is added to all of its eigenvalues."""


@feature_score(
    "influence",
    harder="high",
    formula="-mean_v (h_v' A^-1 h_i)(e_v' G^-1 e_i), h with a 1 appended, e = p - y, A = E[hh'], G = E[ee'], "
    "each + .001 trace / dimension; v over the held-out split, i itself left out; above 0: harmful to its loss",
    source="ours: Koh and Liang 2017 on the last layer, Hessian as in K-FAC (Martens and Grosse 2015); "
    "Lan et al. 2024 (label revision and data selection) publish no formula",
    needs=("logits", "features", "labels"),
    cost="one teacher pass, O(D^3 + C^3 + N (D + C)^2), and a pass over --held-out images where given",
)
def influence(table: FeatureTable) -> Floats:
    """Increase of the held-out loss, to first order, when the sample's weight in training increases.

    For a sample that is held out, its own loss and that of copies do not count: the worse the teacher knows a sample,
    the more it helps itself, and mislabelled ones would rank as the most helpful of all.
    """
    second_EE, second_CC, held_CE, held = moments(table)
    inverse_EE, inverse_CC = inverse(second_EE), inverse(second_CC)
    # (h_v' A^-1 h_i)(e_v' G^-1 e_i), summed over v, is bilinear in e_i and h_i: one C x E matrix holds it.
    sum_CE = inverse_CC @ held_CE @ inverse_EE
    sum_N = table.collect(lambda rows: _bilinear(rows.e_nC, sum_CE, rows.h1_nE))
    copies_N = table.copies()
    if copies_N.any():
        sum_N -= copies_N * table.collect(
            lambda rows: _bilinear(rows.h1_nE, inverse_EE, rows.h1_nE) * _bilinear(rows.e_nC, inverse_CC, rows.e_nC)
        )
    return np.asarray(-sum_N / np.maximum(1, held - copies_N))


def moments(table: FeatureTable) -> tuple[Floats, Floats, Floats, int]:
    """Return E[hh'] (E, E), E[ee'] (C, C) over all samples; sum e_v h_v' (C, E) over held-out ones, their number."""
    width, classes = table.width + 1, table.class_count
    second_EE, second_CC = np.zeros((width, width)), np.zeros((classes, classes))
    held_CE, held = np.zeros((classes, width)), 0
    for rows in table.blocks():
        second_EE += rows.h1_nE.T @ rows.h1_nE
        second_CC += rows.e_nC.T @ rows.e_nC
    for rows in table.held_out():
        held_CE += rows.e_nC.T @ rows.h1_nE
        held += len(rows.label_n)
    count = max(1, len(table.label_N))
    return second_EE / count, second_CC / count, held_CE, held


def inverse(second_dd: Floats, damping: float = DAMPING) -> Floats:
    """Invert a second moment (d, d) after raising its eigenvalues by `damping` times their mean."""
    # If the teacher makes no error, G is 0 and so is every e: any invertible matrix will do.
    mean = np.trace(second_dd) / len(second_dd) or 1.0
    return np.asarray(np.linalg.inv(second_dd + damping * mean * np.eye(len(second_dd))))


def _bilinear(left_na: Floats, matrix_ab: Floats, right_nb: Floats) -> Floats:
    """left_i' matrix right_i, (n,)."""
    return np.asarray(np.einsum("na,na->n", left_na, right_nb @ matrix_ab.T))
