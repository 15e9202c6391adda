"""Labels of views of which the teacher is not sure are replaced by softened hard labels.

    p~ = (1 - eps) y + eps / C   where max softmax(z) at T = 1 is below a threshold, else softmax(z / T)

After FerKD (Shen 2023, ICCV), which calibrates less confident crops so.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.loss import at_least_float32


def is_unsure(logits_nC: Tensor, below: float) -> Tensor:
    """Return whether the teacher's largest probability at T = 1 is below a threshold, (n,); logits are (n, C)."""
    return F.softmax(at_least_float32(logits_nC), dim=1).amax(dim=1) < below


def softened(target_nC: Tensor, label_n: Tensor, unsure_n: Tensor, *, smoothing: float, temperature: float) -> Tensor:
    """Return target logits (n, C) with softmax(z~ / T) = p~ where unsure_n, others unchanged; at least float32.

    label_n is (n,) int64, 0 < smoothing < 1.
    """
    target_nC = at_least_float32(target_nC)
    class_count = target_nC.shape[1]
    p_nC = torch.full_like(target_nC, smoothing / class_count)
    p_nC = p_nC.scatter(1, label_n[:, None], 1 - smoothing + smoothing / class_count)
    return torch.where(unsure_n[:, None], temperature * p_nC.log(), target_nC)
