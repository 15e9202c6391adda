"""Label transforms: turn a teacher's stored logits into the targets a student learns from.

A transform is made for a number of classes, sees all scored samples part by part in canonical order (`fit`,
then `finish`; or `restore`, with the result of an earlier run), and turns the logits of the kept ones into targets
(`apply`). Arithmetic is float64; targets are float16 like the logits, unless they are still to be averaged
(`exact`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.errors import InputError
from manifests.format.soft_labels import Logits, row_std, scaled_rows
from manifests.format.top_k import SoftLabels
from prune_toolkit.scoring.logit_scores import Floats, Integers, check_finite

EXACT = np.dtype(np.float64)


class LabelTransform:
    """A transform in use. This one keeps the logits as stored; others override what they do differently.

    Arguments: logits of n samples, their labels (n,), their sample_ids (n,) for messages.
    """

    def __init__(self, class_count: int) -> None:
        self.class_std_C: Floats | None = None
        """Mean std(logits) per class, 0 for a class without samples; None before `finish` or if unused."""

    def set(self, parameters: Mapping[str, Any]) -> None:
        """Take what the options or the header of a selection say of its labels; InputError if that cannot be."""

    def fit(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> None:
        """Add one part of one view; call for every part of every view that counts."""

    def finish(self) -> None:
        """Finish fitting."""

    def restore(self, class_std_C: Floats) -> None:
        """Set the `class_std_C` of an earlier run instead of fitting."""

    def apply(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> SoftLabels:
        """Return targets, all C logits or the K largest like the input; raises InputError naming a sample without."""
        _check_finite(logits, sample_id_n)
        return logits

    def exact(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> Floats:
        """Return a new array of target logits (n, C) before rounding, for a mean; raises the same errors as `apply`."""
        check_finite(logits_nC, sample_id_n)
        return logits_nC.astype(EXACT)

    def of_mean(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> SoftLabels:
        """Return the targets of the mean over what `exact` gave for several views."""
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMethod:
    """A label transform and the facts needed to use it."""

    name: str
    formula: str
    source: str
    needs_fit: bool
    """True if `fit` must see the logits of all scored samples, including dropped ones."""
    make: Callable[[int], LabelTransform]
    """Makes a new transform for a number of classes."""


LABELS: Registry[LabelMethod] = Registry("label transform")


def label_transform(
    name: str, *, formula: str, source: str, needs_fit: bool
) -> Callable[[Callable[[int], LabelTransform]], Callable[[int], LabelTransform]]:
    """Register a class (or function) that makes a transform for a number of classes."""

    def register(make: Callable[[int], LabelTransform]) -> Callable[[int], LabelTransform]:
        LABELS.add(name, LabelMethod(name=name, formula=formula, source=source, needs_fit=needs_fit, make=make))
        return make

    return register


label_transform("raw", formula="target = z", source="Hinton et al. 2015", needs_fit=False)(LabelTransform)
label_transform(
    "revise",
    formula="target = z; the trainer revises it at its T: p~ = b p + (1 - b) y, b = eta / (p_max - p_y + 1)",
    source="Lan et al., IEEE TCDS 2025 (arXiv 2404.03693)",
    needs_fit=False,
)(LabelTransform)


@label_transform(
    "reshape",
    formula="target = z / std(z) * k_y, k_c = mean over all samples of class c of std(z), std unbiased over C",
    source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe; code chenyd7/MDSLR)",
    needs_fit=True,
)
class Reshape(LabelTransform):
    """Logits of every sample of class c rescaled to the mean standard deviation of that class."""

    def __init__(self, class_count: int) -> None:
        super().__init__(class_count)
        self._sum_C = np.zeros(class_count, np.float64)
        self._count_C = np.zeros(class_count, np.int64)

    def fit(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> None:
        """Add one part of one view to the class means; raises InputError naming a sample that is not finite."""
        _check_finite(logits, sample_id_n)
        classes = len(self._sum_C)
        self._sum_C += np.bincount(label_n, weights=logits.std_n, minlength=classes)
        self._count_C += np.bincount(label_n, minlength=classes)

    def finish(self) -> None:
        """Compute the class means."""
        self.class_std_C = self._sum_C / np.maximum(self._count_C, 1)

    def restore(self, class_std_C: Floats) -> None:
        """Use class means fitted earlier; a mean of 0 stands for a class without samples."""
        self.class_std_C = class_std_C
        self._count_C = (class_std_C > 0).astype(np.int64)

    def apply(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> SoftLabels:
        """Return reshaped logits; raises the same errors as `reshape`, RuntimeError if `fit` saw no such class."""
        return reshape(logits, label_n, sample_id_n, self._fitted(label_n))

    def exact(self, logits_nC: Logits, label_n: Integers, sample_id_n: Integers) -> Floats:
        """Return reshaped logits in float64; raises the same errors as `apply`."""
        check_finite(logits_nC, sample_id_n)
        scale_n = _scale(row_std(logits_nC), label_n, sample_id_n, self._fitted(label_n))
        return scaled_rows(logits_nC, scale_n, EXACT)

    def _fitted(self, label_n: Integers) -> Floats:
        if self.class_std_C is None or not self._count_C[label_n].all():
            raise RuntimeError("reshape: fit() every class and finish() before apply()")
        return self.class_std_C


def reshape(logits: SoftLabels, label_n: Integers, sample_id_n: Integers, class_std_C: Floats) -> SoftLabels:
    """Rescale the logits of each sample to the standard deviation of its class.

    Raises InputError naming a sample whose logits are not finite, are all equal (std 0), or leave the range of float16.
    The largest logit stays the largest; logits that differ by less than float16 resolves may become equal.
    """
    _check_finite(logits, sample_id_n)
    scaled = logits.scaled(_scale(logits.std_n, label_n, sample_id_n, class_std_C))
    too_large = "its reshaped logits leave the range of float16, +-65504"
    _refuse(~scaled.finite_n, label_n, sample_id_n, too_large)
    return scaled


def _scale(std_n: NDArray[np.floating[Any]], label_n: Integers, sample_id_n: Integers, class_std_C: Floats) -> Floats:
    _refuse(std_n == 0, label_n, sample_id_n, "all its logits are equal: there is no std to divide by")
    return np.asarray(class_std_C[label_n] / std_n)


def _check_finite(logits: SoftLabels, sample_id_n: Integers) -> None:
    if not logits.finite_n.all():
        check_finite(logits.logits(), sample_id_n)


def _refuse(bad_n: NDArray[np.bool_], label_n: Integers, sample_id_n: Integers, why: str) -> None:
    if bad_n.any():
        row = int(np.argmax(bad_n))
        raise InputError(
            f"cannot reshape the logits of sample {int(sample_id_n[row])} (class {int(label_n[row])}): {why}"
            f" ({int(bad_n.sum())} such samples in this part)",
            hint="use the logits unchanged: --labels raw; or check the teacher's output for this sample",
        )
