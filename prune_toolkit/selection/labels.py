"""Label transforms: from a teacher's stored logits to the targets a student learns from.

A transform is made for a number of classes, sees all scored samples part by part in canonical order (`fit`,
then `finish`), and turns the logits of the kept ones into targets (`apply`). Arithmetic is float64, targets are
float16 like the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.registry import Registry
from prune_toolkit.scoring.scores import check_finite, row_blocks

Integers = NDArray[np.integer[Any]]
Logits = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Targets = NDArray[np.float16]


class LabelTransform(Protocol):
    """A transform at work; arguments: logits (n, C), labels (n,), sample_ids (n,) for error messages."""

    class_std_C: Floats | None
    """Mean std(logits) of each class, 0 for one without samples; None before `finish` or when unused."""

    def fit(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> None:
        """Take in one part of one view; call for every part of every view that is to count."""

    def finish(self) -> None:
        """End of fitting."""

    def apply(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> Targets:
        """Target logits (n, C) float16; InputError naming the sample that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMethod:
    """A label transform and what must be known to use it."""

    name: str
    formula: str
    source: str
    needs_fit: bool
    """Whether `fit` must see the logits of all scored samples, dropped ones included."""
    make: Callable[[int], LabelTransform]
    """A fresh transform for a number of classes."""


LABELS: Registry[LabelMethod] = Registry("label transform")


def label_transform(
    name: str, *, formula: str, source: str, needs_fit: bool
) -> Callable[[Callable[[int], LabelTransform]], Callable[[int], LabelTransform]]:
    """Register a class (or function) that makes a transform for a number of classes."""

    def register(make: Callable[[int], LabelTransform]) -> Callable[[int], LabelTransform]:
        LABELS.add(name, LabelMethod(name=name, formula=formula, source=source, needs_fit=needs_fit, make=make))
        return make

    return register


@label_transform("raw", formula="target = z", source="Hinton et al. 2015", needs_fit=False)
class Raw:
    """The logits as stored."""

    def __init__(self, class_count: int) -> None:
        self.class_std_C: Floats | None = None

    def fit(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> None:
        """Nothing to learn."""

    def finish(self) -> None:
        """Nothing to learn."""

    def apply(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> Targets:
        """The same logits, (n, C) float16; InputError naming the sample whose logits are not finite."""
        check_finite(logits_nC, sample_id_n)
        return np.ascontiguousarray(logits_nC, np.float16)


@label_transform(
    "reshape",
    formula="target = z / std(z) * k_y, k_c = mean over all samples of class c of std(z), std unbiased over C",
    source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe; code chenyd7/MDSLR)",
    needs_fit=True,
)
class Reshape:
    """Logits of every sample of class c rescaled to the mean standard deviation of that class."""

    def __init__(self, class_count: int) -> None:
        self.class_std_C: Floats | None = None
        self._sum_C = np.zeros(class_count, np.float64)
        self._count_C = np.zeros(class_count, np.int64)

    def fit(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> None:
        """Add one part of one view to the class means; InputError naming a sample that is not finite."""
        check_finite(logits_nC, sample_id_n)
        classes = len(self._sum_C)
        self._sum_C += np.bincount(label_n, weights=row_std(logits_nC), minlength=classes)
        self._count_C += np.bincount(label_n, minlength=classes)

    def finish(self) -> None:
        """Fix the class means."""
        self.class_std_C = self._sum_C / np.maximum(self._count_C, 1)

    def apply(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> Targets:
        """Reshaped logits (n, C) float16; errors as `reshape`, RuntimeError where `fit` saw no such class."""
        if self.class_std_C is None or not self._count_C[label_n].all():
            raise RuntimeError("reshape: fit() every class and finish() before apply()")
        return reshape(logits_nC, label_n, sample_id_n, self.class_std_C)


def reshape(logits_nC: Logits, label_n: Integers, sample_id_n: Integers, class_std_C: Floats) -> Targets:
    """Rescale each row of logits to the standard deviation of its class, (n, C) float16.

    InputError naming the sample whose logits are not finite, are all equal (std 0), or leave float16's range.
    The largest logit stays the largest; logits that differ by less than float16 resolves may become equal.
    """
    check_finite(logits_nC, sample_id_n)
    std_n = row_std(logits_nC)
    _refuse(std_n == 0, label_n, sample_id_n, "all its logits are equal: there is no std to divide by")
    scale_n = class_std_C[label_n] / std_n
    target_nC = np.empty(logits_nC.shape, np.float16)
    with np.errstate(over="ignore"):
        for block in row_blocks(*logits_nC.shape):
            target_nC[block] = logits_nC[block].astype(np.float64) * scale_n[block, None]
    overflow_n = np.asarray(np.isinf(target_nC).any(axis=1))
    _refuse(overflow_n, label_n, sample_id_n, "its reshaped logits leave the range of float16, +-65504")
    return target_nC


def row_std(logits_nC: Logits) -> Floats:
    """Unbiased standard deviation (division by C - 1) of each row, (n,) float64, exactly 0 for a constant row."""
    std_n = np.empty(len(logits_nC), np.float64)
    for block in row_blocks(*logits_nC.shape):
        std_n[block] = np.array(logits_nC[block], np.float64, order="C").std(axis=1, ddof=1)
    return std_n


def _refuse(bad_n: NDArray[np.bool_], label_n: Integers, sample_id_n: Integers, why: str) -> None:
    if bad_n.any():
        row = int(np.argmax(bad_n))
        raise InputError(
            f"cannot reshape the logits of sample {int(sample_id_n[row])} (class {int(label_n[row])}): {why}"
            f" ({int(bad_n.sum())} such samples here)",
            hint="use the logits as they are: --labels raw; or find out why the teacher is so odd on this sample",
        )
