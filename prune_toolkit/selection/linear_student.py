"""A linear student of the teacher's frozen features: what it learns from a subset stands for what a network would.

It is ridge regression from standardised features to one-hot labels, in closed form, judged by its cross-entropy on
images that the teacher never saw, at the scale of its outputs that fits these best. Source: BWS, ICML 2024, for ridge
regression in place of training; IF-Beta (arXiv 2606.25488) for the held-out cross-entropy, there of a head trained for
one short epoch. The damping is strong for the same reason: a student that makes full use of the features of a good
teacher is as good as the teacher whatever it is given, and one that is trained from scratch is not
(docs/benchmarks.md compares dampings with networks that were trained).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DAMPING = 5.0
"""Multiple of the mean eigenvalue of the second moment of the features that is added to all of its eigenvalues."""
_LOWEST, _HIGHEST, _STEPS = -2.0, 6.0, 24
"""Search of the scale of the outputs: its logarithm between these, by this many golden sections."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Learning:
    """What linear students learn from and are judged on, standardised once."""

    x_NE: Floats
    """Features of the pool with a 1 appended."""
    label_N: NDArray[np.int64]
    held_x_ME: Floats
    held_label_M: NDArray[np.int64]
    class_count: int

    @classmethod
    def of(
        cls,
        features_ND: NDArray[np.floating[Any]],
        label_N: NDArray[np.integer[Any]],
        held_features_MD: NDArray[np.floating[Any]],
        held_label_M: NDArray[np.integer[Any]],
        class_count: int,
    ) -> "Learning":
        """Standardise both by mean and standard deviation of the pool."""
        mean_D, std_D = features_ND.mean(axis=0, dtype=np.float64), features_ND.std(axis=0, dtype=np.float64)
        std_D = np.where(std_D > 0, std_D, 1.0)
        return cls(
            x_NE=_with_one((features_ND - mean_D) / std_D),
            label_N=np.asarray(label_N, np.int64),
            held_x_ME=_with_one((held_features_MD - mean_D) / std_D),
            held_label_M=np.asarray(held_label_M, np.int64),
            class_count=class_count,
        )

    def loss_M(self, row_n: NDArray[np.int64]) -> Floats:
        """Return the cross-entropy of each held-out image, (M,) in nats, of the student of some rows of the pool."""
        target_nC = np.eye(self.class_count)[self.label_N[row_n]]
        output_MC = self.held_x_ME @ ridge(self.x_NE[row_n], target_nC)
        return scaled_cross_entropy(output_MC, self.held_label_M)


def ridge(x_nE: Floats, target_nC: Floats) -> Floats:
    """Return the weights (E, C) that minimise the squared error, damped by DAMPING times the mean eigenvalue."""
    square_EE = x_nE.T @ x_nE
    square_EE[np.diag_indices(len(square_EE))] += DAMPING * np.trace(square_EE) / len(square_EE)
    return np.asarray(np.linalg.solve(square_EE, x_nE.T @ target_nC))


def scaled_cross_entropy(output_MC: Floats, label_M: NDArray[np.int64]) -> Floats:
    """Return the cross-entropy (M,) of softmax(scale * output), in nats, at the scale of the least mean.

    The mean is convex in the scale, so golden sections find it. Regression gives outputs near probabilities, not
    logits.
    """
    low, high, golden = _LOWEST, _HIGHEST, (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left_M, at_right_M = (_cross_entropy(np.exp(place) * output_MC, label_M) for place in (left, right))
    for _ in range(_STEPS):
        if at_left_M.mean() < at_right_M.mean():
            high, right, at_right_M = right, left, at_left_M
            left = high - golden * (high - low)
            at_left_M = _cross_entropy(np.exp(left) * output_MC, label_M)
        else:
            low, left, at_left_M = left, right, at_right_M
            right = low + golden * (high - low)
            at_right_M = _cross_entropy(np.exp(right) * output_MC, label_M)
    return at_left_M if at_left_M.mean() < at_right_M.mean() else at_right_M


def _cross_entropy(logits_MC: Floats, label_M: NDArray[np.int64]) -> Floats:
    shifted_MC = logits_MC - logits_MC.max(axis=1, keepdims=True)
    log_sum_M = np.log(np.exp(shifted_MC).sum(axis=1))
    return np.asarray(log_sum_M - shifted_MC[np.arange(len(label_M)), label_M])


def _with_one(x_nD: NDArray[np.floating[Any]]) -> Floats:
    return np.concatenate([np.asarray(x_nD, np.float64), np.ones((len(x_nD), 1))], axis=1)
