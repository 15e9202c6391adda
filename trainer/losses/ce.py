"""Cross-entropy with the labels alone: how a teacher is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.losses.registry import LOSSES, Loss, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


def labels_alone(
    student_logits: Tensor,
    target_logits: Tensor | None,
    label: Tensor,
    weight: Tensor,
    kd_weight: Tensor,
    *,
    label_smoothing: float = 0.0,
    **_: Any,
) -> Tensor:
    """CE_i of each sample, (n,); of the arguments of `LossFunction` only logits, labels and smoothing are looked at."""
    return cross_entropy(student_logits, label, label_smoothing)


LOSSES.add(
    "ce",
    Loss(
        function=labels_alone,
        needs_targets=False,
        formula="CE_i",
        source="labels alone; also how a teacher is trained",
    ),
)
