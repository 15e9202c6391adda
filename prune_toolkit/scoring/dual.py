"""DUAL: difficulty times uncertainty of the label's probability, over windows of epochs."""

import numpy as np

from prune_toolkit.scoring.dynamics_scores import TWO_EPOCHS, Epochs, dynamics_score
from prune_toolkit.scoring.epoch_windows import mean_and_squares, windows
from prune_toolkit.scoring.logit_scores import Floats


@dynamics_score(
    "dual",
    harder="high",
    formula="mean over windows of J epochs of std(p_y) (1 - mean p_y), std with J - 1; J = 10 (--window), or all "
    "epochs",
    source="Cho et al. 2025 (DUAL, arXiv 2502.06905), who take the first 30 of 200 epochs",
    needs=(TWO_EPOCHS,),
    cost="a short training run",
)
def dual(epochs: Epochs) -> Floats:
    """Return how unsure and how wrong the student is of a sample while it learns."""
    length, count = min(epochs.window, epochs.count), 0
    total_N: Floats = np.zeros(1)
    for window_JN in windows((columns["p_y"] for columns in epochs), length):
        mean_N, square_N = mean_and_squares(window_JN)
        total_N = total_N + np.sqrt(square_N / (length - 1)) * (1.0 - mean_N)
        count += 1
    return np.asarray(total_N / count)
