"""The registry of losses, and the loss of each sample of a batch as a configuration asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manifests.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.recipes import TrainConfig


LossFunction = Callable[..., "Tensor"]
"""(student_logits_nC, target_logits_nC or None, label_n, weight_n, kd_weight_n, *, alpha, temperature, label_smoothing,
ce_weight, options) -> (n,): the loss of each sample before its weight.

options: Mapping[str, float], every option the loss has. A loss that compares samples with each other takes weight_n to
let those of weight 0 have no say; others do not look at it.
"""

PUBLISHED_EPOCHS = 240
"""Length of the CIFAR-100 runs that `published` values in epochs are of; they scale with the run as milestones do."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and the facts about it."""

    function: LossFunction
    needs_targets: bool
    """Whether there have to be teacher logits: stored in the beton, or of a live teacher."""
    formula: str
    source: str
    options: Mapping[str, float] = field(default_factory=dict)
    """Names and published values of its own parameters."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """kd_weight, ce_weight, temperature and kd_warmup_epochs (of 240) that it is trained with unless a flag says
    otherwise."""
    needs_label_logit: bool = False
    """Whether the target's logit of the label is looked at by itself: top-k labels store it apart."""
    standardises: bool = False
    """Whether mean and deviation of all target logits are looked at: labels of the K largest do not serve then."""


LOSSES: Registry[Loss] = Registry("loss")


def sample_losses(
    config: TrainConfig,
    student_logits: Tensor,
    target: Tensor | None,
    *,
    label: Tensor,
    weight: Tensor,
    kd_weight: Tensor,
    epoch: float,
) -> Tensor:
    """The loss of each sample, before its weight; (n,), float32 at least.

    student_logits and target are (n, C) at T = 1, label (n,) int64, weight and kd_weight (n,). epoch counts from 0; in
    the first kd_warmup_epochs the weight of the KD term is (epoch + 1) / kd_warmup_epochs of the whole.
    """
    entry = LOSSES[config.loss]
    warm = min(1.0, (epoch + 1) / config.kd_warmup_epochs) if config.kd_warmup_epochs else 1.0
    return entry.function(
        student_logits,
        target,
        label,
        weight,
        kd_weight,
        alpha=config.kd_weight * warm,
        temperature=config.temperature,
        label_smoothing=config.label_smoothing,
        ce_weight=config.ce_weight,
        options={**entry.options, **config.loss_options},
    )


def mixed(ce_n: Tensor, kd_n: Tensor, a_n: Tensor, ce_weight: float | None) -> Tensor:
    """(1 - a_i) CE_i + a_i D_i, or with a ce_weight of its own ce_weight CE_i + a_i D_i; (n,)."""
    return (1 - a_n if ce_weight is None else ce_weight) * ce_n + a_n * kd_n


def cross_entropy(student_logits: Tensor, label: Tensor, label_smoothing: float) -> Tensor:
    """CE of each sample, (n,), in float32 at least, also under autocast."""
    from torch.nn import functional as F

    student = at_least_float32(student_logits)
    return F.cross_entropy(student, label, reduction="none", label_smoothing=label_smoothing)


def varies(norm_r: Tensor, values_rk: Tensor) -> Tensor:
    """Whether rows (r, k) differ from their mean by more than rounding; norm_r is the norm of what they differ by."""
    import torch

    rounding_r = values_rk.detach().abs().amax(dim=1) * torch.finfo(values_rk.dtype).eps * values_rk.shape[1] ** 0.5
    is_more_r: Tensor = norm_r > 4 * rounding_r
    return is_more_r


def at_least_float32(logits: Tensor) -> Tensor:
    """The logits, made float32 where they are in half precision."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def both(student_logits: Tensor, target_logits: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Student and target logits in float32 at least; ValueError without target logits."""
    if target_logits is None:
        raise ValueError(f"the loss {name} needs target logits")
    return at_least_float32(student_logits), at_least_float32(target_logits)
