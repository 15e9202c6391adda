"""DIST: the student's probabilities only have to correlate with the teacher's, over classes and over the batch.

Huang et al. 2022 (NeurIPS), "Knowledge Distillation from A Stronger Teacher", equations 8 to 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.losses.loss import LOSSES, Loss, varies

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-8
"""Added to the product of the norms, as in the authors' code: a constant row correlates with nothing."""


def relational(
    student_nC: Tensor, target_nC: Tensor, label_n: Tensor, weight_n: Tensor, options: Mapping[str, float]
) -> Tensor:
    """Return beta (1 - row correlation_i) + gamma (1 - mean column correlation); arguments as in `KdTerm`.

    The column term is one number per batch, in which a sample counts by its weight. It is added to every sample, so
    the weighted mean over the batch is the published loss.
    """
    student_nC, target_nC = student_nC.softmax(dim=1), target_nC.softmax(dim=1)
    row_n = 1 - correlation(student_nC, target_nC)
    column = 1 - correlation(student_nC.T, target_nC.T, weight=weight_n.to(student_nC.dtype)).mean()
    return options["beta"] * row_n + options["gamma"] * column


def correlation(first_rk: Tensor, second_rk: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return Pearson's correlation of each pair of rows, (r,); weight (k,) is the weight of each entry of a row.

    It is 0, with gradient 0, for a row that is constant up to rounding, has one entry, or has no weight: with the
    epsilon alone the gradient would be 1e8, for example for a last layer that starts at zero.
    """
    import torch

    count = torch.ones_like(first_rk[0]) if weight is None else weight
    # Scaled to at most 1, so that a common factor of all weights does not change what the epsilon means.
    count = count / count.max().clamp_min(torch.finfo(count.dtype).tiny)
    total = count.sum().clamp_min(torch.finfo(count.dtype).tiny)

    def centred(values_rk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the deviations from the mean, their norm, and whether the norm exceeds rounding."""
        deviations_rk = (values_rk - (count * values_rk).sum(dim=1, keepdim=True) / total) * count.sqrt()
        norm_r = deviations_rk.norm(dim=1)
        return deviations_rk, norm_r, varies(norm_r, values_rk)

    first_rk, first_r, first_varies_r = centred(first_rk)
    second_rk, second_r, second_varies_r = centred(second_rk)
    together_r = (first_rk * second_rk).sum(dim=1) / (first_r * second_r + EPSILON)
    return together_r * (first_varies_r & second_varies_r)


LOSSES.add(
    "dist",
    Loss(
        term=relational,
        formula="CE + a T^2 (beta (1 - Pearson over the classes) + gamma (1 - Pearson over the batch, per class)) "
        "of softmax(z/T)",
        source="DIST, Huang et al. 2022 (NeurIPS)",
        options={"beta": 2.0, "gamma": 2.0},
        published={"kd_weight": 1.0, "ce_weight": 1.0, "temperature": 4.0, "kd_warmup_epochs": 0.0},
    ),
)
