"""Targets as the features that enter the teacher's last layer, and that layer, once per manifest: z = s (W h + b).

Smaller than the logits where the layer has fewer inputs D than outputs C: a ResNet-34 has 512 for 1,000 classes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.layout import PART_ROWS
from manifests.format.decoded import DecodedLabels
from manifests.format.soft_labels import FullLogits, scaled_rows

LAST_LAYER = "targets/last-layer"
"""The table of the layer: a row per class, in their order, in parts like any other."""
FEATURE_COLUMNS: dict[str, tuple[str, Any]] = {
    "feature": ("feature_nD", np.float16),
    "factor": ("factor_n", np.float32),
}
"""Columns of a part with features as targets, as fields of FeatureLabels: vectors, or numbers if it ends in _n."""
_FACTOR_WORDS = 2


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The layer of C classes; raises ValueError for arrays that do not match or are not finite."""

    weight_CD: NDArray[np.float32]
    bias_C: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weight_CD.ndim != 2 or self.bias_C.shape != (len(self.weight_CD),):
            raise ValueError(f"weights {self.weight_CD.shape} and biases {self.bias_C.shape} of a layer do not match")
        if not (np.isfinite(self.weight_CD).all() and np.isfinite(self.bias_C).all()):
            raise ValueError("a weight or bias of the last layer is not finite")

    @property
    def class_count(self) -> int:
        """C."""
        return len(self.weight_CD)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return int(self.weight_CD.shape[1])

    def parts(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns of each part of the table, with the classes as the rows' numbers."""
        for start in range(0, self.class_count, PART_ROWS):
            rows = slice(start, start + PART_ROWS)
            yield {"weight": self.weight_CD[rows], "bias": self.bias_C[rows]}

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> "LastLayer":
        """Join weights and biases of parts; raises ValueError like the class."""
        weights, biases = zip(*parts, strict=True)
        return cls(np.concatenate(weights), np.concatenate(biases))


@dataclass(frozen=True, eq=False)
class FeatureLabels(DecodedLabels):
    """n vectors of C logits as features; raises ValueError for arrays that do not match or are not finite."""

    class_count: int
    feature_nD: NDArray[np.float16]
    factor_n: NDArray[np.float32]
    """s: the scale that a label transform gave the logits, else 1."""
    layer: LastLayer | None = None
    """None where no logits are needed, as when rows are copied."""

    def __post_init__(self) -> None:
        if self.factor_n.shape != (len(self.feature_nD),):
            raise ValueError(f"a factor for each of {len(self.feature_nD)} rows expected")
        if not (np.isfinite(self.feature_nD).all() and np.isfinite(self.factor_n).all()):
            raise ValueError("a feature or factor is not finite")
        if self.layer is not None and self.layer.weight_CD.shape != (self.class_count, self.width):
            raise ValueError(
                f"the last layer has weights {self.layer.weight_CD.shape}, for {self.class_count} classes and "
                f"{self.width} features"
            )

    @property
    def width(self) -> int:
        """D, the number of features."""
        return int(self.feature_nD.shape[1])

    def __len__(self) -> int:
        return len(self.feature_nD)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "FeatureLabels":
        return replace(self, feature_nD=self.feature_nD[rows], factor_n=self.factor_n[rows])

    def logits(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return all C logits (n, C), at every temperature; raises ValueError without the layer."""
        if self.layer is None:
            raise ValueError("features are logits only by the last layer")
        logits_nC = self.feature_nD.astype(np.float32) @ self.layer.weight_CD.T
        logits_nC += self.layer.bias_C
        logits_nC *= self.factor_n[:, None]
        return logits_nC

    def scaled(self, scale_n: NDArray[np.floating[Any]]) -> "FullLogits | FeatureLabels":
        """Return scale * z for scale (n,): another factor."""
        return replace(self, factor_n=scaled_rows(self.factor_n[:, None], scale_n, np.dtype(np.float32))[:, 0])

    def columns(self, name: str) -> dict[str, NDArray[Any]]:
        """Return FEATURE_COLUMNS; the `name` of a column of logits is not used."""
        return {column: getattr(self, field) for column, (field, _) in FEATURE_COLUMNS.items()}

    def words(self) -> NDArray[np.int16]:
        """Return (n, words) int16 as a beton stores them, bit by bit: factor, features."""
        factor_n2 = np.ascontiguousarray(self.factor_n[:, None]).view(np.int16)
        return np.concatenate([factor_n2, np.ascontiguousarray(self.feature_nD).view(np.int16)], axis=1)

    @classmethod
    def of_words(cls, words_nW: NDArray[np.int16], class_count: int, layer: LastLayer | None) -> "FeatureLabels":
        """Return what `words` gave; raises ValueError like the class."""
        words_nW = np.ascontiguousarray(words_nW)
        factor_n = np.ascontiguousarray(words_nW[:, :_FACTOR_WORDS]).view(np.float32)[:, 0]
        return cls(class_count, words_nW[:, _FACTOR_WORDS:].view(np.float16), factor_n, layer)


def feature_words(width: int) -> int:
    """Return the number of int16 words per vector."""
    return _FACTOR_WORDS + width


def mean_features(views: list[FeatureLabels]) -> FeatureLabels:
    """Return the features of the mean of some views' logits: z is affine in h, so it is that of their weighted mean.

    Raises ValueError if the factors add up to 0.
    """
    factor_Vn = np.stack([view.factor_n for view in views]).astype(np.float64)
    feature_VnD = np.stack([view.feature_nD for view in views]).astype(np.float64)
    sum_n = factor_Vn.sum(axis=0)
    if not (sum_n > 0).all():
        raise ValueError("the mean of labels with factors that add up to 0")
    feature_nD = ((factor_Vn[:, :, None] * feature_VnD).sum(axis=0) / sum_n[:, None]).astype(np.float16)
    return replace(views[0], feature_nD=feature_nD, factor_n=(sum_n / len(views)).astype(np.float32))
