"""DKD: the divergence in two parts, the true class against the rest and the rest among themselves.

Zhao et al. 2022 (CVPR), "Decoupled Knowledge Distillation", equations 6 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.losses.kd import divergence
from trainer.losses.loss import LOSSES, Loss

if TYPE_CHECKING:
    from torch import Tensor


def decoupled(
    student_nC: Tensor, target_nC: Tensor, label_n: Tensor, weight_n: Tensor, options: Mapping[str, float]
) -> Tensor:
    """Return alpha TCKD_i + beta NCKD_i; arguments as in `KdTerm`. alpha = 1, beta = 1 - p_y(target) is plain KL."""
    student_true, student_rest = _parted(student_nC, label_n)
    target_true, target_rest = _parted(target_nC, label_n)
    tckd_n = divergence(_against_the_rest(student_true, student_rest), _against_the_rest(target_true, target_rest))
    return options["alpha"] * tckd_n + options["beta"] * divergence(student_rest, target_rest)


def _parted(logits_nC: Tensor, label_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logit of the true class, (n, 1), and those of all others, (n, C - 1)."""
    import torch

    # Gathered, not masked: a mask would make the device wait, and a large negative logit is not an exact zero.
    others = torch.arange(logits_nC.shape[1] - 1, device=label_n.device)
    return logits_nC.gather(1, label_n[:, None]), logits_nC.gather(1, others + (others >= label_n[:, None]))


def _against_the_rest(true_n1: Tensor, rest_nC: Tensor) -> Tensor:
    """Return the logits of two cases, true class and any other, (n, 2)."""
    import torch

    return torch.cat([true_n1, rest_nC.logsumexp(dim=1, keepdim=True)], dim=1)


LOSSES.add(
    "dkd",
    Loss(
        term=decoupled,
        needs_label_logit=True,
        formula="CE + a T^2 (alpha TCKD + beta NCKD): KL of (true class, rest), and KL among the other classes",
        source="DKD, Zhao et al. 2022 (CVPR); values of resnet32x4 -> resnet8x4 on CIFAR-100",
        options={"alpha": 1.0, "beta": 8.0},
        published={"kd_weight": 1.0, "ce_weight": 1.0, "temperature": 4.0, "kd_warmup_epochs": 20.0},
    ),
)
