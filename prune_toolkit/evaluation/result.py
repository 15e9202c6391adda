"""What an evaluation found, as Python and `prune eval` give it. Torch-free."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.format.header import Preprocessing
from prune_toolkit.evaluation.figures import Confused, Figures, confusion_matrix


class ClassFigures(NamedTuple):
    """How the samples of one class were answered."""

    name: str
    samples: int
    top1: float | None
    """Fraction that was recognised; None without samples."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of a network on labelled images."""

    model: str
    """Spec of the network."""
    data: str
    """Name of the images, and their split."""
    split: str | None
    of: int
    """Samples of the data, of which `count` were evaluated."""
    unreadable: int
    """Samples that could not be read, among those that were to be evaluated."""
    figures: Figures = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    preprocessing: Preprocessing = field(repr=False)
    """The images that the network expects, as it was shown them."""
    device: str
    dtype: str
    network_images_per_second: float
    """Of the network alone, on images that are in memory."""
    images_per_second: float
    """From files to answers."""

    @property
    def count(self) -> int:
        """Number of samples evaluated."""
        return self.figures.count

    @property
    def top1(self) -> float:
        """Fraction of samples whose largest logit is the label's."""
        return self.figures.top1

    @property
    def top5(self) -> float | None:
        """Fraction of samples whose label is among the five largest logits; None for five classes or fewer."""
        return self.figures.top5

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the labels, in nats."""
        return self.figures.nll

    @property
    def ece(self) -> float:
        """Expected calibration error in 15 bins."""
        return self.figures.ece

    @property
    def classes(self) -> list[ClassFigures]:
        """Every class, in label order."""
        counts, hits = self.figures.counts().tolist(), self.figures.hits().tolist()
        return [
            ClassFigures(name, count, hit / count if count else None)
            for name, count, hit in zip(self.class_names, counts, hits, strict=True)
        ]

    @property
    def worst_classes(self) -> list[ClassFigures]:
        """The classes that have samples, the least recognised first."""
        return sorted((row for row in self.classes if row.top1 is not None), key=lambda row: (row.top1, -row.samples))

    @property
    def confusions(self) -> list[Confused]:
        """Pairs of different classes with the number of samples of the first taken for the second, most first."""
        return self.figures.confusions()

    @property
    def confusion_CC(self) -> NDArray[np.int64]:
        """Samples by class (rows) and answer (columns), (C, C)."""
        return confusion_matrix(len(self.class_names), self.figures.hits().tolist(), self.confusions)

    def as_json(self) -> dict[str, Any]:
        """Return everything; `confusions` holds what of the confusion matrix is off its diagonal and not 0."""
        names = self.class_names
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "samples": self.count,
            "of": self.of,
            "unreadable": self.unreadable,
            "top1": self.top1,
            "top5": self.top5,
            "nll": self.nll,
            "ece": self.ece,
            "preprocessing": self.preprocessing.model_dump(),
            "device": self.device,
            "dtype": self.dtype,
            "network_images_per_second": round(self.network_images_per_second, 1),
            "images_per_second": round(self.images_per_second, 1),
            "classes": [{"class": row.name, "samples": row.samples, "top1": row.top1} for row in self.classes],
            "confusions": [
                {"label": names[label], "predicted": names[predicted], "samples": count}
                for label, predicted, count in self.confusions
            ],
        }

    def __repr__(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {100 * self.top5:.2f} %"
        return (
            f"<Evaluation of {self.model} on {self.count:,} images of {self.data}: "
            f"top-1 {100 * self.top1:.2f} %{top5}, NLL {self.nll:.4f}, ECE {self.ece:.4f}>"
        )
