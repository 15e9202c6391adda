"""The K largest of C logits, with the statistics needed to recover probabilities over all C classes.

Probabilities of the kept classes need the sum over all classes at the temperature of the softmax. One remainder, spread
at T = 1, mis-scales them at any other (C = 1000, K = 10, T = 2: a .26 becomes .22), so the tail's log-sum-exp is kept
at several temperatures. Class ids are uint16: float16 would round those above 2048.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manifests.errors import InputError, UsageError
from manifests.format.codes import Codes
from manifests.format.last_layer import FeatureLabels
from manifests.format.soft_labels import FullLogits, row_blocks

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
MAX_CLASSES = 1 << 16
KNOWN_BETAS = (0.0, *(1 / temperature for temperature in TEMPERATURES))
"""Values of 1 / T at which the tail is known; at 0 it is the log of the number of classes not kept."""
_PIECES = ((0, 4, 3, 2), (4, 3, 2, 1), (3, 2, 1), (2, 1))
_PIECE_ENDS = (0.5, 1.0, 2.0)
_LOGIT_BITS, _CLASS_BITS = np.uint32(0xFFFF), np.uint32(16)
_FIXED_WORDS = 13
COLUMNS: dict[str, tuple[str, Any]] = {
    "class": ("class_nK", np.uint16),
    "logit": ("logit_nK", np.float16),
    "tail": ("tail_n4", np.float32),
    "label_logit": ("label_logit_n", np.float16),
    "mean": ("mean_n", np.float32),
    "std": ("std_n", np.float32),
}
"""Columns of a part with the K largest logits, as fields of TopK in its order: vectors, or numbers if it ends in _n."""


@dataclass(frozen=True, eq=False)
class TopK:
    """n vectors of C logits of which the K largest are kept; raises ValueError for arrays that do not match."""

    class_count: int
    class_nK: NDArray[np.uint16]
    """In descending order of logit, ties by lowest class."""
    logit_nK: NDArray[np.float16]
    tail_n4: NDArray[np.float32]
    """log sum of exp(z / T) over the classes not kept, T in TEMPERATURES."""
    label_logit_n: NDArray[np.float16]
    """The logit of the sample's own class, kept or not."""
    mean_n: NDArray[np.float32]
    """Mean of all C logits."""
    std_n: NDArray[np.float32]
    """Unbiased standard deviation of all C logits."""

    def __post_init__(self) -> None:
        count, k = self.class_nK.shape
        per_row = (self.label_logit_n, self.mean_n, self.std_n)
        right = self.logit_nK.shape == (count, k) and self.tail_n4.shape == (count, len(TEMPERATURES))
        if not right or any(values.shape != (count,) for values in per_row):
            raise ValueError(f"arrays of {count} rows of {k} classes expected")
        if not 1 <= k < self.class_count <= MAX_CLASSES:
            raise ValueError(f"{k} of {self.class_count} classes cannot be kept")
        if (self.class_nK >= self.class_count).any():
            raise ValueError(f"class {self.class_nK.max()} is outside the {self.class_count} classes")

    @property
    def top_k(self) -> int:
        """K, the number of logits kept per vector."""
        return int(self.class_nK.shape[1])

    def __len__(self) -> int:
        return len(self.class_nK)

    def __getitem__(self, rows: slice | NDArray[Any]) -> TopK:
        """Return some rows: a slice, or an index or boolean array."""
        return TopK(self.class_count, *(getattr(self, field)[rows] for field, _ in COLUMNS.values()))

    def words(self) -> NDArray[np.int16]:
        """Return all fields as (n, 2K + 13) int16, bit by bit: class, logit, tail, label_logit, mean, std."""
        columns = [values if values.ndim == 2 else values[:, None] for values in self.columns("").values()]
        return np.concatenate([np.ascontiguousarray(values).view(np.int16) for values in columns], axis=1)

    def logits(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return all C logits (n, C): kept ones unchanged, the others T * (tail(T) - log(C - K)).

        softmax(logits / T) gives the kept classes the probabilities of the full vector, at T in TEMPERATURES to the
        accuracy of float32, at others to that of `tail_at`.
        """
        tail_classes = self.class_count - self.top_k
        fill_n = temperature * (tail_at(self.tail_n4, temperature, tail_classes) - math.log(tail_classes))
        logits_nC = np.repeat(fill_n.astype(np.float32)[:, None], self.class_count, axis=1)
        np.put_along_axis(logits_nC, self.class_nK.astype(np.int64), self.logit_nK.astype(np.float32), axis=1)
        return logits_nC

    def logits_with(self, label_n: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return all C logits (n, C): the K largest and that of the label (n,) are known, the others are equal.

        At T = 1, softmax gives the known ones the probabilities of the full vector.
        """
        logits_nC = self.logits().astype(np.float64)
        unknown = self.class_count - self.top_k - 1
        lost_n = ~(self.class_nK == label_n[:, None]).any(axis=1)
        if unknown and lost_n.any():
            # The tail without the label; through float16 rounding the label may exceed the whole tail.
            gap_n = np.minimum(self.label_logit_n[lost_n].astype(np.float64) - self.tail_n4[lost_n, 1], -1e-6)
            even_n = self.tail_n4[lost_n, 1] + np.log(-np.expm1(gap_n)) - np.log(unknown)
            kept_nC = np.zeros(logits_nC.shape, np.bool_)
            np.put_along_axis(kept_nC, self.class_nK.astype(np.int64), True, axis=1)
            logits_nC[lost_n] = np.where(kept_nC[lost_n], logits_nC[lost_n], even_n[:, None])
        logits_nC[np.arange(len(label_n)), label_n] = self.label_logit_n
        return logits_nC

    @property
    def top1_n(self) -> NDArray[np.uint16]:
        """(n,) class of the largest logit, the first of equals."""
        return self.class_nK[:, 0]

    @property
    def finite_n(self) -> NDArray[np.bool_]:
        """(n,) True if the K largest logits and that of the label are finite."""
        return np.asarray(np.isfinite(self.logit_nK).all(axis=1) & np.isfinite(self.label_logit_n))

    def columns(self, name: str) -> dict[str, NDArray[Any]]:
        """Return COLUMNS; the `name` of a column of all logits is not used."""
        return {column: getattr(self, field) for column, (field, _) in COLUMNS.items()}

    def scaled(self, scale_n: NDArray[np.floating[Any]]) -> TopK:
        """Return the K largest of scale * z, with scale (n,) > 0; inf for a logit that does not fit float16.

        The tail of scale * z at T is that of z at T / scale, which `tail_at` interpolates. Measured for random normal
        and heavy-tailed logits of deviation 1 to 4, C of 100 and 1000, K of 5 to 32, scales .6 to 1.6: at T = 1 and
        T = 4 probabilities of kept classes have a relative error up to 8 %, half of them up to 1 %.
        """
        scale_n = np.asarray(scale_n, np.float64)
        if not (scale_n > 0).all():
            raise ValueError("logits can be scaled by positive numbers only")
        tail_classes = self.class_count - self.top_k
        tails = [tail_at(self.tail_n4, temperature / scale_n, tail_classes) for temperature in TEMPERATURES]
        with np.errstate(over="ignore"):
            logit_nK = (self.logit_nK * scale_n[:, None]).astype(np.float16)
            label_logit_n = (self.label_logit_n * scale_n).astype(np.float16)
        return replace(
            self,
            logit_nK=logit_nK,
            tail_n4=np.stack(tails, axis=1).astype(np.float32),
            label_logit_n=label_logit_n,
            mean_n=(self.mean_n * scale_n).astype(np.float32),
            std_n=(self.std_n * scale_n).astype(np.float32),
        )


SoftLabels = FullLogits | Codes | FeatureLabels | TopK
"""n vectors of C logits, of which all, in float16, as codes or as features, or the K largest are stored."""
Words = NDArray[np.float16] | NDArray[np.int16]
"""(n, words) of 16 bits: logit vectors as a beton stores them."""


def top_k(logits_nC: NDArray[np.floating[Any]], label_n: NDArray[np.integer[Any]], k: int) -> TopK:
    """Keep the k largest of C logits, rounded to float16 first; labels (n,) in [0, C).

    Raises UsageError unless 1 <= k < C, ValueError for other shapes or more than 65,536 classes, InputError for logits
    that are not finite in float16.
    """
    count, classes = logits_nC.shape
    check_k(k, classes)
    if classes > MAX_CLASSES or label_n.shape != (count,):
        raise ValueError(f"{count} labels of up to {MAX_CLASSES} classes expected, not {label_n.shape} of {classes}")
    logits_nC = _as_float16(logits_nC)
    class_nK = np.empty((count, k), np.uint16)
    tail_n4 = np.empty((count, len(TEMPERATURES)), np.float32)
    mean_n, std_n = np.empty(count, np.float32), np.empty(count, np.float32)
    for block in row_blocks(count, classes):
        z_mC = logits_nC[block].astype(np.float64)
        class_mK = _largest(logits_nC[block], k)
        class_nK[block] = class_mK
        mean_n[block], std_n[block] = z_mC.mean(axis=1), z_mC.std(axis=1, ddof=1)
        np.put_along_axis(z_mC, class_mK, -np.inf, axis=1)
        top_m1 = z_mC.max(axis=1, keepdims=True)
        gap_mC = z_mC - top_m1
        for column, temperature in enumerate(TEMPERATURES):
            sums_m = np.exp(gap_mC / temperature).sum(axis=1)
            tail_n4[block, column] = top_m1[:, 0] / temperature + np.log(sums_m)
    logit_nK = np.take_along_axis(logits_nC, class_nK.astype(np.int64), axis=1)
    label_logit_n = logits_nC[np.arange(count), label_n]
    return TopK(classes, class_nK, logit_nK, tail_n4, label_logit_n, mean_n, std_n)


def keep_largest(labels: SoftLabels, label_n: NDArray[np.integer[Any]], k: int | None) -> SoftLabels:
    """Return the k largest of all C logits; the labels unchanged if k is None or they already hold the k largest."""
    return labels if k is None or k == labels.top_k else top_k(labels.logits(), label_n, k)


def check_k(k: int, class_count: int) -> None:
    """Raise UsageError unless k of these classes can be kept: at least one, and at least one must be left out."""
    if not 1 <= k < class_count:
        raise UsageError(
            f"--top-k {k}: of {class_count} classes, 1 to {class_count - 1} logits can be kept",
            hint="leave out --top-k to store all of them",
        )


def words_count(k: int) -> int:
    """Return the number of int16 words per vector."""
    return 2 * k + _FIXED_WORDS


def tail_weights(temperature: ArrayLike) -> NDArray[np.float64]:
    """Return weights (..., 5) of log(C - K) and the four stored tails in the tail at a temperature.

    The tail is a convex function of beta = 1 / T, known at KNOWN_BETAS. For beta up to .5 it is interpolated by the
    cubic through the four smallest of them, up to 1 by the cubic through the four largest, up to 2 by the parabola
    through the three largest, and extrapolated beyond by the line through the two largest.
    """
    beta = 1.0 / np.asarray(temperature, np.float64)
    piece = np.searchsorted(_PIECE_ENDS, beta)
    weights = np.zeros((*beta.shape, len(KNOWN_BETAS)))
    for number, points in enumerate(_PIECES):
        here = piece == number
        for point in points:
            others = [KNOWN_BETAS[other] for other in points if other != point]
            factors = [(beta[here] - other) / (KNOWN_BETAS[point] - other) for other in others]
            weights[here, point] = np.prod(factors, axis=0)
    return weights


def tail_at(tail_n4: NDArray[np.float32], temperature: ArrayLike, tail_classes: int) -> NDArray[np.float64]:
    """Return log sum of exp(z / T) (n,) over the `tail_classes` not kept; one temperature > 0 for all, or (n,).

    Exact at TEMPERATURES, elsewhere interpolated by `tail_weights`.
    """
    weights = tail_weights(temperature)
    return np.asarray(weights[..., 0] * math.log(tail_classes) + (weights[..., 1:] * tail_n4).sum(axis=-1))


def _largest(logits_nC: NDArray[np.float16], k: int) -> NDArray[np.int64]:
    """Return classes (n, k) of the largest logits, ties by lowest class.

    Each logit and class become one unique integer, and the smallest are taken: three times as fast as a stable sort of
    all classes at C = 1000.
    """
    # Adding zero makes -0 and 0 a tie.
    bits_nC = (logits_nC + np.float16(0)).view(np.uint16).astype(np.uint32)
    rising_nC = np.where(bits_nC >> np.uint32(15), _LOGIT_BITS - bits_nC, bits_nC | np.uint32(0x8000))
    order_nC = ((_LOGIT_BITS - rising_nC) << _CLASS_BITS) | np.arange(logits_nC.shape[1], dtype=np.uint32)
    first_nk = np.sort(np.partition(order_nC, k - 1, axis=1)[:, :k], axis=1)
    return (first_nk & _LOGIT_BITS).astype(np.int64)


def _as_float16(values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        row = int(np.argmin(np.isfinite(rounded.reshape(len(rounded), -1)).all(axis=1)))
        raise InputError(f"row {row}: a logit does not fit float16", hint="stored logits range from -65504 to 65504")
    return rounded
