"""KD: the temperature-softened Kullback-Leibler divergence of Hinton et al. 2015."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.loss import LOSSES, Loss, losses_of

if TYPE_CHECKING:
    from torch import Tensor


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
    ce_weight: float | None = None,
) -> Tensor:
    """Return the weighted mean of (1-a_i) CE_i + a_i T^2 KL(softmax(target/T) || softmax(student/T)).

    If given, ce_weight replaces (1-a_i). student_logits and target_logits are (N, C) at T = 1, label (N,) int64 or
    (N, C) float32 probabilities, such as those of mixed images, weight and kd_weight (N,). Returns a scalar, computed
    in float32 at least, also under autocast. Hinton et al. 2015.
    """
    loss_n = losses_of(
        LOSSES["kd"],
        (student_logits, target_logits, label, weight, kd_weight),
        alpha=alpha,
        temperature=temperature,
        label_smoothing=label_smoothing,
        ce_weight=ce_weight,
        options={},
    )
    return (weight * loss_n).mean()


def divergence(student_nC: Tensor, target_nC: Tensor, *_: object) -> Tensor:
    """Return KL(softmax(target) || softmax(student)) of each row, (n,), in nats; a KdTerm that needs no more."""
    from torch.nn import functional as F

    log_student, log_target = F.log_softmax(student_nC, dim=1), F.log_softmax(target_nC, dim=1)
    return F.kl_div(log_student, log_target, reduction="none", log_target=True).sum(dim=1)


LOSSES.add(
    "kd",
    Loss(
        term=divergence,
        formula="(1-a) CE + a T^2 KL(softmax(target/T) || softmax(student/T)), a = kd_weight * kd_weight_i",
        source="Hinton et al. 2015",
        published={"kd_weight": 0.9, "ce_weight": None, "temperature": 4.0, "kd_warmup_epochs": 0.0},
    ),
)
