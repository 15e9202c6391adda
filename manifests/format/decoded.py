"""What all vectors of logits have in common that are stored as something else and decoded when they are needed."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.format.soft_labels import row_std


class DecodedLabels(ABC):
    """n vectors of all C logits, finite ones, that `logits` decodes."""

    top_k = None
    """All are known."""

    @abstractmethod
    def __len__(self) -> int:
        """Return n."""

    @abstractmethod
    def logits(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return all C logits (n, C), at every temperature."""

    def logits_with(self, label_n: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return all C logits (n, C)."""
        return self.logits()

    @property
    def top1_n(self) -> NDArray[np.int64]:
        """(n,) class of the largest logit, the first of equals."""
        return np.asarray(self.logits().argmax(axis=1))

    @property
    def std_n(self) -> NDArray[np.float64]:
        """(n,) see `row_std`."""
        return row_std(self.logits())

    @property
    def finite_n(self) -> NDArray[np.bool_]:
        """(n,) True: other values are refused."""
        return np.ones(len(self), np.bool_)
