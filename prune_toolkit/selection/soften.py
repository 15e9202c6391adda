"""The label transform `soften`: a teacher's confidence is capped, sample by sample, without training it again.

Ours, after the observation that less confident teachers teach pruned data better (OpenReview FUahLuyWLU).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.format.soft_labels import FullLogits, Logits, row_blocks
from manifests.format.top_k import SoftLabels
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.scoring.logit_scores import Floats, Integers, check_finite
from prune_toolkit.selection.labels import LabelTransform, label_transform

SOFTEN, PARAMETER = "soften", "max_confidence"
DEFAULT_CONFIDENCE = "0.9"
HALVINGS = 60
ROUNDING = 2.0**-10
"""First step by which a scale is lowered if rounding to float16 left a probability above the cap; then doubled."""


@label_transform(
    SOFTEN,
    formula="target = z / tau_i, with the smallest tau_i >= 1 for which the largest of softmax(z / tau_i) is at most P",
    source="ours, after OpenReview FUahLuyWLU: less confident teachers for pruned data",
    needs_fit=False,
)
class Soften(LabelTransform):
    """Logits divided by a temperature of their sample's own where the teacher is more confident than the cap."""

    def __init__(self, class_count: int) -> None:
        super().__init__(class_count)
        self._class_count, self._cap = class_count, float(DEFAULT_CONFIDENCE)

    def set(self, parameters: Mapping[str, Any]) -> None:
        """Take `max_confidence`; raises InputError unless it is between 1 / C and 1."""
        cap = parameters.get(PARAMETER, self._cap)
        if not isinstance(cap, int | float) or not 1 / self._class_count < cap < 1:
            raise InputError(
                f"labels.parameters.{PARAMETER} is {cap!r:.40}: it must be above 1/{self._class_count} and below 1",
                hint="select again with --labels soften",
            )
        self._cap = float(cap)

    def apply(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> SoftLabels:
        """Return softened logits; raises UsageError for the K largest alone, InputError for logits not finite."""
        if logits.top_k is not None:
            raise top_k_error(logits.top_k)
        check_finite(logits.logits(), sample_id_n)
        return FullLogits(softened(logits.logits(), self._cap))

    def of_mean(self, logits: SoftLabels, label_n: Integers, sample_id_n: Integers) -> SoftLabels:
        """Soften the mean: that of softened views may be more confident than each of them."""
        return self.apply(logits, label_n, sample_id_n)


def softened(logits_nC: Logits, cap: float) -> NDArray[np.float16]:
    """Return z / tau_i (n, C) in float16, tau_i = 1 for rows whose largest probability is at most `cap`.

    The order of the logits stays; after rounding, equal ones may be more than before. 1 / C < cap < 1.
    """
    target_nC = np.array(logits_nC, np.float16)
    for block in row_blocks(*target_nC.shape):
        rows_m = np.flatnonzero(_confidence(target_nC[block].astype(np.float64)) > cap)
        if len(rows_m):
            target_nC[block][rows_m] = _capped(target_nC[block][rows_m].astype(np.float64), cap)
    return target_nC


def _capped(logits_mC: Floats, cap: float) -> NDArray[np.float16]:
    low_m, high_m = np.zeros(len(logits_mC)), np.ones(len(logits_mC))
    for _ in range(HALVINGS):
        middle_m = (low_m + high_m) / 2
        is_below_m = _confidence(middle_m[:, None] * logits_mC) <= cap
        low_m, high_m = np.where(is_below_m, middle_m, low_m), np.where(is_below_m, high_m, middle_m)
    step = ROUNDING
    while True:
        target_mC = (low_m[:, None] * logits_mC).astype(np.float16)
        is_above_m = _confidence(target_mC.astype(np.float64)) > cap
        if not is_above_m.any():
            return np.asarray(target_mC)
        # The last step is 1: all logits are 0 then, and each probability is 1 / C.
        low_m = np.where(is_above_m, low_m * (1 - step), low_m)
        step = min(1.0, 2 * step)


def _confidence(logits_mC: Floats) -> Floats:
    """Return the largest probability (m,)."""
    return np.asarray(1 / np.exp(logits_mC - logits_mC.max(axis=1, keepdims=True)).sum(axis=1))


def parsed_cap(text: str, class_count: int | None = None) -> float:
    """Return the value of --max-confidence; raises UsageError unless it is above 1 / C and below 1."""
    value, least = parse_fraction(text), 0 if class_count is None else 1 / class_count
    if value is None or not least < value < 1:
        of = "0" if class_count is None else f"1/{class_count}, that of {class_count} equal classes,"
        raise UsageError(f"--max-confidence is {text!r}: it must be above {of} and below 1", hint="for example 0.9")
    return float(value)


def top_k_error(stored: int) -> UsageError:
    """Return the refusal of labels of which only the largest logits are stored."""
    return UsageError(
        f"--labels soften needs all logits of a label: only the {stored} largest are stored",
        hint="score without --top-k, or take --labels raw",
    )
