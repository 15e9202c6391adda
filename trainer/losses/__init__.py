"""Losses of a student: the registry, and one file per loss.

    a_i  = alpha * kd_weight_i
    loss = mean over the batch of weight_i * ((1 - a_i) * CE_i + a_i * D_i)         D_i: the loss's own KD term
           or, with ce_weight,  weight_i * (ce_weight * CE_i + a_i * D_i)

torch is imported inside the functions, so that the registry can be listed without it.
"""

from trainer.losses import ce, dist, dkd, kd, lskd  # noqa: F401  each adds its entries
from trainer.losses.kd import distillation_loss
from trainer.losses.loss import LOSSES, PUBLISHED_EPOCHS, Loss, sample_losses, sample_terms

__all__ = ["LOSSES", "PUBLISHED_EPOCHS", "Loss", "distillation_loss", "sample_losses", "sample_terms"]
