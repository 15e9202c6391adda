"""The figures of a classifier on labelled samples, from logits and labels alone; fed batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.format.soft_labels import Logits
from prune_toolkit.scoring.logit_scores import Calibration, Integers, compute_scores

TOP_K = 5
"""top-5 is computed for more classes than that."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to some samples, (n,) each."""

    predicted_n: NDArray[np.int64]
    confidence_n: NDArray[np.float32]
    """Probability of the predicted class."""
    margin_n: NDArray[np.float32]
    """Logit of the label minus the largest other logit: negative where the answer is wrong."""


class Confused(NamedTuple):
    """Samples of one class that were taken for another one."""

    label: int
    predicted: int
    samples: int


class Figures:
    """Figures of a classifier with C >= 2 classes; memory grows with the classes, not with the samples.

    Among equal logits the lowest class comes first, for top-1 and for top-5.
    """

    def __init__(self, class_count: int) -> None:
        self.class_count = class_count
        self._calibration = Calibration()
        self._loss_sum = 0.0
        self._top5_hits = 0
        self._pairs: Counter[tuple[int, int]] = Counter()

    def add(self, logits_nC: Logits, label_n: Integers) -> Answers:
        """Add samples, logits (n, C) and labels (n,), and return the answers to them."""
        scores = compute_scores(logits_nC, label_n, ("loss", "confidence", "margin", "correct"))
        predicted_n = np.argmax(logits_nC, axis=1)
        self._calibration.add(scores["confidence"], scores["correct"])
        self._loss_sum += float(scores["loss"].sum(dtype=np.float64))
        self._top5_hits += int((ranks(logits_nC, label_n) < TOP_K).sum())
        self._pairs.update(zip(label_n.tolist(), predicted_n.tolist(), strict=True))
        return Answers(predicted_n=predicted_n, confidence_n=scores["confidence"], margin_n=scores["margin"])

    @property
    def count(self) -> int:
        """Number of samples added."""
        return self._calibration.count

    @property
    def top1(self) -> float:
        """Fraction of samples whose largest logit is the label's; nan for none."""
        return self._calibration.top1

    @property
    def top5(self) -> float | None:
        """Fraction of samples whose label is among the five largest logits; None for five classes or fewer."""
        if self.class_count <= TOP_K:
            return None
        return self._top5_hits / self.count if self.count else np.nan

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the labels at T = 1, in nats; nan for none."""
        return self._loss_sum / self.count if self.count else np.nan

    @property
    def ece(self) -> float:
        """Expected calibration error; see `Calibration`."""
        return self._calibration.ece

    def counts(self) -> NDArray[np.int64]:
        """Return the samples of each class, (C,)."""
        count_C = np.zeros(self.class_count, np.int64)
        for (label, _), count in self._pairs.items():
            count_C[label] += count
        return count_C

    def hits(self) -> NDArray[np.int64]:
        """Return the samples of each class that were recognised, (C,)."""
        return np.array([self._pairs[label, label] for label in range(self.class_count)], np.int64)

    def confusions(self) -> list[Confused]:
        """Return the pairs of different classes that occurred: the most frequent first, else by class."""
        found = [Confused(label, predicted, n) for (label, predicted), n in self._pairs.items() if label != predicted]
        return sorted(found, key=lambda pair: (-pair.samples, pair.label, pair.predicted))


def ranks(logits_nC: Logits, label_n: Integers) -> NDArray[np.int64]:
    """Return how many classes come before the label's, (n,): by larger logits, then by lower numbers."""
    of_label_n1 = np.take_along_axis(logits_nC, np.asarray(label_n, np.int64)[:, None], axis=1)
    is_lower_nC = np.arange(logits_nC.shape[1]) < np.asarray(label_n)[:, None]
    before_nC = (logits_nC > of_label_n1) | ((logits_nC == of_label_n1) & is_lower_nC)
    return np.asarray(before_nC.sum(axis=1), np.int64)


def figures_of(logits_NC: Logits, label_N: Integers) -> Figures:
    """Return the figures of all samples at once: logits (N, C), labels (N,)."""
    figures = Figures(logits_NC.shape[1])
    figures.add(logits_NC, label_N)
    return figures


def confusion_matrix(class_count: int, hits_C: Sequence[int], confusions: Sequence[Confused]) -> NDArray[np.int64]:
    """Return the samples by class (rows) and answer (columns), (C, C)."""
    count_CC = np.diag(np.asarray(hits_C, np.int64)).reshape(class_count, class_count)
    for label, predicted, count in confusions:
        count_CC[label, predicted] = count
    return count_CC
