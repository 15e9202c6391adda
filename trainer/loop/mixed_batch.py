"""A mixed batch: its images, and labels, targets and weights mixed by the same share."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.loop.mixing import Mix
from trainer.losses.loss import at_least_float32


def mixed(
    batch: Batch, mix: Mix, target_of: Callable[[Batch], Tensor | None], *, config: TrainConfig, class_count: int
) -> tuple[Batch, Tensor, Tensor | None]:
    """Return the mixed batch, its labels as probabilities (n, C) float32, and its target logits (n, C) or None.

    The batch's label is the class with the larger share; its weights are averages. Stored targets are mixed; a live
    teacher (policy online) labels the mixed images, so `target_of` is called with them.
    """
    device = batch.label.device
    partner_n = torch.from_numpy(mix.partner_n).to(device)
    other_label_n = batch.label[partner_n]
    shown = replace(
        batch,
        images=mixed_images(batch.images, partner_n, mix),
        label=batch.label if mix.share >= 0.5 else other_label_n,
        weight=average(batch.weight, partner_n, mix.share),
        kd_weight=average(batch.kd_weight, partner_n, mix.share),
    )
    label_nC = mix.share * F.one_hot(batch.label, class_count) + (1 - mix.share) * F.one_hot(other_label_n, class_count)
    if config.policy == "online":
        return shown, label_nC.float(), target_of(shown)
    target_nC = target_of(batch)
    if target_nC is not None:
        target_nC = mixed_target(target_nC, batch.kd_weight, partner_n, mix.share, config.temperature)
    return shown, label_nC.float(), target_nC


def mixed_images(images: Tensor, partner_n: Tensor, mix: Mix) -> Tensor:
    """Return uint8 images (n, 3, S, S) in channels_last memory: blended and rounded, or with the partner's box."""
    if mix.box is None:
        blend = torch.lerp(images[partner_n].float(), images.float(), mix.share)
        return blend.round_().to(torch.uint8).contiguous(memory_format=torch.channels_last)
    top, bottom, left, right = mix.box
    pasted = images.clone(memory_format=torch.channels_last)
    pasted[:, :, top:bottom, left:right] = images[partner_n, :, top:bottom, left:right]
    return pasted


def average(values_n: Tensor, partner_n: Tensor, share: float) -> Tensor:
    """Return share v_a + (1 - share) v_b, (n,)."""
    return share * values_n + (1 - share) * values_n[partner_n]


def mixed_target(target_nC: Tensor, kd_weight_n: Tensor, partner_n: Tensor, share: float, temperature: float) -> Tensor:
    """Return logits z~ (n, C) with softmax(z~ / T) = s softmax(z_a / T) + (1 - s) softmax(z_b / T).

    s is `share`, or with unequal kd_weight k it is share k_a / (share k_a + (1 - share) k_b): the target of a sample
    that learns from its label alone (k = 0) has no part in it. Computed in logarithms, in at least float32.
    """
    log_p_nC = F.log_softmax(at_least_float32(target_nC) / temperature, dim=1)
    own_n, other_n = share * kd_weight_n, (1 - share) * kd_weight_n[partner_n]
    all_n = own_n + other_n
    share_n = torch.where(all_n > 0, own_n / all_n, share)
    log_own_n1, log_other_n1 = share_n.log()[:, None], (1 - share_n).log()[:, None]
    return temperature * torch.logaddexp(log_p_nC + log_own_n1, log_p_nC[partner_n] + log_other_n1)
