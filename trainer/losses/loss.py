"""The registry of losses, and the loss of each sample of a batch under a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manifests.base.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.config import TrainConfig


KdTerm = Callable[["Tensor", "Tensor", "Tensor", "Tensor", Mapping[str, float]], "Tensor"]
"""(student_nC, target_nC, label_n, weight_n, options) -> (n,): D_i at temperature 1.

Logits are at least float32 and divided by T. weight_n is weight_i a_i, the weight of a sample in terms that compare
samples; options holds all options of the loss.
"""

PUBLISHED_EPOCHS = 240
"""Length of the CIFAR-100 runs from which `published` values in epochs come; they scale like milestones."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and the facts about it."""

    formula: str
    source: str
    term: KdTerm | None = None
    """D_i / T^2; None for a loss that learns from the labels alone."""
    standardise: Callable[[Tensor], Tensor] | None = None
    """Applied to the logits of both networks before they are softened; it needs all of them, not the K largest."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Names and published values of the parameters that only this loss has."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of kd_weight, ce_weight, temperature and kd_warmup_epochs (for 240 epochs); flags override them."""
    needs_label_logit: bool = False
    """True if the loss uses the target's logit of the label by itself: top-k labels store it separately."""

    @property
    def needs_targets(self) -> bool:
        """Return whether the loss needs teacher logits, stored in the beton or from a live teacher."""
        return self.term is not None


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
    """Return the loss of each sample, without its weight; (n,), at least float32.

    student_logits and target are (n, C) at T = 1, label (n,) int64 or probabilities (n, C) of mixed images, weight and
    kd_weight (n,). epoch counts from 0; in the first kd_warmup_epochs the weight of the KD term is
    (epoch + 1) / kd_warmup_epochs of its full value.
    """
    task_n, kd_n = sample_terms(
        config, student_logits, target, label=label, weight=weight, kd_weight=kd_weight, epoch=epoch
    )
    return task_n if kd_n is None else task_n + kd_n


def sample_terms(
    config: TrainConfig,
    student_logits: Tensor,
    target: Tensor | None,
    *,
    label: Tensor,
    weight: Tensor,
    kd_weight: Tensor,
    epoch: float,
) -> tuple[Tensor, Tensor | None]:
    """Return the two terms of `sample_losses`, each (n,): cross-entropy and distillation, None if there is none."""
    entry = LOSSES[config.loss]
    warm = min(1.0, (epoch + 1) / config.kd_warmup_epochs) if config.kd_warmup_epochs else 1.0
    return terms_of(
        entry,
        (student_logits, target, label, weight, kd_weight),
        alpha=config.kd_weight * warm,
        temperature=config.temperature,
        label_smoothing=config.label_smoothing,
        ce_weight=config.ce_weight,
        options={**entry.options, **config.loss_options},
    )


def losses_of(entry: Loss, batch: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor], **values: Any) -> Tensor:
    """Return the sum of the two terms of each sample, (n,); arguments as in `terms_of`."""
    task_n, kd_n = terms_of(entry, batch, **values)
    return task_n if kd_n is None else task_n + kd_n


def terms_of(
    entry: Loss,
    batch: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor],
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float,
    ce_weight: float | None,
    options: Mapping[str, float],
) -> tuple[Tensor, Tensor | None]:
    """Return (1 - a_i) CE_i and a_i D_i of each sample, each (n,), with a_i = alpha kd_weight_i.

    batch: logits of the student, target logits, label, weight, kd_weight; shapes as in `sample_losses`. If given,
    ce_weight replaces (1 - a_i); a loss without a KD term has CE_i and None. Computed in at least float32, also under
    autocast. Raises ValueError if target logits are needed and missing.
    """
    from torch.nn import functional as F

    logits, target, label, weight, kd_weight = batch
    student = at_least_float32(logits)
    ce_n = F.cross_entropy(student, label, reduction="none", label_smoothing=label_smoothing)
    if entry.term is None:
        return ce_n, None
    if target is None:
        raise ValueError("this loss needs target logits")
    target = at_least_float32(target)
    if entry.standardise is not None:
        student, target = entry.standardise(student), entry.standardise(target)
    a_n = alpha * kd_weight
    kd_n = temperature**2 * entry.term(student / temperature, target / temperature, label, weight * a_n, options)
    return (1 - a_n if ce_weight is None else ce_weight) * ce_n, a_n * kd_n


def varies(norm_r: Tensor, values_rk: Tensor) -> Tensor:
    """Return whether rows (r, k) differ from their mean by more than rounding; norm_r is the norm of the deviations."""
    import torch

    rounding_r = values_rk.detach().abs().amax(dim=1) * torch.finfo(values_rk.dtype).eps * values_rk.shape[1] ** 0.5
    is_more_r: Tensor = norm_r > 4 * rounding_r
    return is_more_r


def at_least_float32(logits: Tensor) -> Tensor:
    """Return the logits, cast to float32 if they are in half precision."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))
