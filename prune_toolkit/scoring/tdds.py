"""TDDS: how unevenly a sample's prediction changes from epoch to epoch, late windows first."""

from collections.abc import Iterable, Iterator

import numpy as np

from manifests.format.dynamics import ABS_KL
from prune_toolkit.scoring.dynamics_scores import KL, THREE_EPOCHS, Epochs, dynamics_score
from prune_toolkit.scoring.epoch_windows import LEAST, mean_and_squares, windows
from prune_toolkit.scoring.logit_scores import Floats

DECAY = 0.9
"""Weight of the last window; each one before has a tenth of the weight of the next."""


@dynamics_score(
    "tdds",
    harder="high",
    formula="sum over windows w of J epochs of .9 x .1^(windows after w) sqrt(sum (d_t - mean d)^2), d_t = sum_c |p_c "
    "log(p_c / p'_c)|, p' of the epoch before; J = 10 (--window), or all epochs",
    source="Zhang et al. 2024 (TDDS, arXiv 2311.13613; code zhangxin-xd/Dataset-Pruning-TDDS)",
    needs=(KL, THREE_EPOCHS),
    cost="a training run, with the predictions of two epochs on disk",
)
def tdds(epochs: Epochs) -> Floats:
    """Return how unevenly the prediction moves."""
    return unevenness((epochs.read(epoch)[ABS_KL] for epoch in range(1, epochs.count)), epochs)


@dynamics_score(
    "tdds_loss",
    harder="high",
    formula="sum over windows w of J epochs of .9 x .1^(windows after w) sqrt(sum (d_t - mean d)^2), d_t = |log p_y - "
    "log p'_y|, p' of the epoch before; J = 10 (--window), or all epochs",
    source="Zhang et al. 2024 (TDDS, arXiv 2311.13613), with the change of the loss in place of all probabilities",
    needs=(THREE_EPOCHS,),
    cost="a training run",
)
def tdds_loss(epochs: Epochs) -> Floats:
    """TDDS of the change of the loss, which every record holds."""

    def losses() -> Iterator[Floats]:
        for columns in epochs:
            yield np.log(np.maximum(columns["p_y"].astype(np.float64), LEAST))

    return unevenness((np.abs(after_N - before_N) for before_N, after_N in windows(losses(), 2)), epochs)


def unevenness(change_EN: Iterable[Floats], epochs: Epochs) -> Floats:
    """Return the weighted sum over windows of the norm of a change's deviation from its mean in the window, (N,).

    change_EN: the change (N,) of each epoch but the first; a window of J epochs has J - 1 of them.
    """
    total_N: Floats = np.zeros(1)
    for window_JN in windows(change_EN, min(epochs.window, epochs.count) - 1):
        total_N = (1.0 - DECAY) * total_N + DECAY * np.sqrt(mean_and_squares(window_JN)[1])
    return np.asarray(total_N)
