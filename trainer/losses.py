"""Losses of a student, weighted per sample.

    a_i  = alpha * kd_weight_i
    loss = mean over the batch of weight_i * ((1 - a_i) * CE_i + a_i * T^2 * KL_i)

torch is imported inside the functions, so that the registry can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


LossFunction = Callable[..., "Tensor"]
"""(student_logits_NC, target_logits_NC or None, label_N, weight_N, kd_weight_N, *, alpha, temperature,
label_smoothing) -> scalar."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and the facts about it."""

    function: LossFunction
    needs_targets: bool
    """Whether there have to be teacher logits: stored in the beton, or of a live teacher."""
    formula: str
    source: str


LOSSES: Registry[Loss] = Registry("loss")


def distillation_loss(
    student_logits: Tensor,
    target_logits: Tensor | None,
    label: Tensor,
    weight: Tensor,
    kd_weight: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted mean of (1-a_i) CE_i + a_i T^2 KL(softmax(target/T) || softmax(student/T)).

    student_logits and target_logits are (N, C) at T = 1, label (N,) int64, weight and kd_weight (N,).
    Returns a scalar, computed in float32 at least, also under autocast. Hinton et al. 2015.
    """
    from torch.nn import functional as F

    if target_logits is None:
        raise ValueError("distillation_loss needs target logits")
    student, target = _at_least_float32(student_logits), _at_least_float32(target_logits)
    ce_n = F.cross_entropy(student, label, reduction="none", label_smoothing=label_smoothing)
    kl_n = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(target / temperature, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    a_n = alpha * kd_weight
    return (weight * ((1 - a_n) * ce_n + a_n * temperature**2 * kl_n)).mean()


def cross_entropy_loss(
    student_logits: Tensor,
    target_logits: Tensor | None,
    label: Tensor,
    weight: Tensor,
    kd_weight: Tensor,
    *,
    alpha: float = 0.0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted mean of CE_i; shapes as in `distillation_loss`, targets and kd_weight are not looked at."""
    from torch.nn import functional as F

    student = _at_least_float32(student_logits)
    ce_n = F.cross_entropy(student, label, reduction="none", label_smoothing=label_smoothing)
    return (weight * ce_n).mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES.add(
    "kd",
    Loss(
        function=distillation_loss,
        needs_targets=True,
        formula="(1-a) CE + a T^2 KL(softmax(target/T) || softmax(student/T)), a = kd_weight * kd_weight_i",
        source="Hinton et al. 2015",
    ),
)
LOSSES.add(
    "ce",
    Loss(
        function=cross_entropy_loss,
        needs_targets=False,
        formula="CE_i",
        source="labels alone; also how a teacher is trained",
    ),
)
