"""Scores of training dynamics: computed from a run's records of every sample, epoch by epoch.

A score of dynamics is a function of `Epochs`, which reads one epoch at a time; computed in float64, returned as
float32. Scores of several runs are averaged. Those of windows of epochs are in dual.py and tdds.py.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.format.dynamics import ABS_KL, GRAND
from prune_toolkit.scoring.logit_scores import Floats
from prune_toolkit.scoring.score import Score

DYNAMICS = "dynamics"
"""Name of the set of these scores."""
WINDOW = 10
"""Epochs of a window, as DUAL and TDDS take; all recorded ones if they are fewer."""


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """The recorded epochs of one run."""

    count: int
    read: Callable[[int], dict[str, NDArray[Any]]]
    """Read the columns (N,) of an epoch, counted from 0: p_y, margin, correct, el2n; at first also grand, and, where it
    was recorded, abs_kl from the second on."""
    early: int
    """The epoch at which early scores are taken, counted from 0."""
    grand_count: int = 0
    has_kl: bool = False
    """Whether abs_kl was recorded."""
    window: int = WINDOW
    """Epochs of a window, for scores of windows."""

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return (self.read(epoch) for epoch in range(self.count))


FULL_GRADIENTS, KL = f"dynamics: {GRAND}", f"dynamics: {ABS_KL}"
TWO_EPOCHS, THREE_EPOCHS = "dynamics: 2 epochs", "dynamics: 3 epochs"
NEEDS: Mapping[str, tuple[Callable[[Epochs], bool], str]] = {
    FULL_GRADIENTS: (lambda epochs: epochs.grand_count > 0, "train-student --record-grand"),
    KL: (lambda epochs: epochs.has_kl, "train-student --record-kl"),
    TWO_EPOCHS: (lambda epochs: epochs.count >= 2, "train longer"),
    THREE_EPOCHS: (lambda epochs: epochs.count >= 3, "train longer"),
}
"""What a run may lack, in `Score.needs`: how that is known, and how to have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicsScore(Score):
    """A score of the epochs of one run."""

    function: Callable[[Epochs], Floats]
    family = DYNAMICS

    def __call__(self, epochs: Epochs) -> NDArray[np.float32]:
        """Compute the score, (N,) float32, of the samples of a run."""
        return np.asarray(self.function(epochs)).astype(np.float32)

    @property
    def needs_labels(self) -> bool:
        """True: what a run records of a sample is how its answer compares with the label."""
        return True

    def lacks(self, epochs: Epochs) -> list[str]:
        """Return those of `needs` that the run did not record."""
        return [need for need in self.needs if need in NEEDS and not NEEDS[need][0](epochs)]


dynamics_score = partial(DynamicsScore.adding, needs=("dynamics",))
"""Register a function of `Epochs` that returns one float64 per sample."""


@dynamics_score(
    "forgetting",
    harder="high",
    formula="epochs in which a sample is wrong after one in which it was right; never right: the number of epochs",
    source="Toneva et al. 2019 (example forgetting), counted once an epoch",
    cost="one training run",
)
def forgetting(epochs: Epochs) -> Floats:
    """Count transitions from right to wrong; a sample that was never right ranks above all others."""
    first = epochs.read(0)["correct"].astype(np.bool_)
    count_N, before_N, ever_N = np.zeros(len(first)), first, first.copy()
    for epoch in range(1, epochs.count):
        now_N = epochs.read(epoch)["correct"].astype(np.bool_)
        count_N += before_N & ~now_N
        ever_N |= now_N
        before_N = now_N
    # A transition takes two epochs, so no count reaches their number.
    return np.where(ever_N, count_N, float(epochs.count))


@dynamics_score(
    "aum",
    harder="low",
    formula="mean over epochs of z_y - max_{c != y} z_c; lowest: likely mislabelled",
    source="Pleiss et al. 2020 (area under the margin)",
    cost="one training run",
)
def aum(epochs: Epochs) -> Floats:
    """Mean margin, in logits."""
    total_N = sum(columns["margin"].astype(np.float64) for columns in epochs)
    return np.asarray(total_N / epochs.count)


@dynamics_score(
    "el2n_early",
    harder="high",
    formula="||p - y||_2 at an early epoch (a tenth of them, --early-epoch), mean over runs",
    source="Paul et al. 2021 (EL2N), who average at least ten runs",
    cost="the first epochs of a training run; ten in the paper",
)
def el2n_early(epochs: Epochs) -> Floats:
    """Distance of the prediction from the one-hot label early in training."""
    return epochs.read(epochs.early)["el2n"].astype(np.float64)


@dynamics_score(
    "grand_full",
    harder="high",
    formula="||gradient of the cross-entropy by all parameters||_2, mean over epochs that recorded it, and runs",
    source="Paul et al. 2021 (GraNd)",
    needs=(FULL_GRADIENTS,),
    cost="the first epochs of a training run, with a gradient of each sample: about a step of batch 1 each",
)
def grand_full(epochs: Epochs) -> Floats:
    """Mean norm of the full gradient."""
    total_N = sum(epochs.read(epoch)[GRAND].astype(np.float64) for epoch in range(epochs.grand_count))
    return np.asarray(total_N / epochs.grand_count)
