"""LSKD: KD and DKD on logits of both networks that are standardised before they are softened.

Sun et al. 2024 (CVPR), "Logit Standardization in Knowledge Distillation", algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.dkd import decoupled
from trainer.losses.kd import divergence
from trainer.losses.loss import LOSSES, Loss, varies

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-7
"""Added to the standard deviation, as in the authors' code."""


def standardised(logits_nC: Tensor) -> Tensor:
    """Return (z - mean) / (std + 1e-7) of each row, std over C - 1; 0 for a row that is constant up to rounding.

    Such a row gets no gradient: for a last layer that starts at zero, or a bias alone, it would be 1e7 times too large.
    """
    std_n1 = logits_nC.std(dim=1, keepdim=True)
    centred_nC = logits_nC - logits_nC.mean(dim=1, keepdim=True)
    return centred_nC / (std_n1 + EPSILON) * varies(centred_nC.norm(dim=1), logits_nC)[:, None]


LOSSES.add(
    "lskd",
    Loss(
        term=divergence,
        standardise=standardised,
        formula="ce_weight CE + a T^2 KL of (z - mean z) / std z, for student and target",
        source="LSKD, Sun et al. 2024 (CVPR), on KD",
        published={"kd_weight": 9.0, "ce_weight": 0.1, "temperature": 2.0, "kd_warmup_epochs": 0.0},
    ),
)
LOSSES.add(
    "lskd-dkd",
    Loss(
        term=decoupled,
        standardise=standardised,
        needs_label_logit=True,
        formula="CE + a T^2 (alpha TCKD + beta NCKD) of (z - mean z) / std z, for student and target",
        source="LSKD, Sun et al. 2024 (CVPR), on DKD",
        options={"alpha": 1.0, "beta": 8.0},
        published={"kd_weight": 9.0, "ce_weight": 1.0, "temperature": 2.0, "kd_warmup_epochs": 20.0},
    ),
)
