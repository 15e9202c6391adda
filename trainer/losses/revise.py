"""Label revision: mix the teacher's label with the true class until that class leads (Lan et al., arXiv 2404.03693).

    p~ = b p + (1 - b) y,   b = eta / (p_max - p_tar + 1),   p = softmax(z / T), y one-hot

For eta below 1 the true class is the largest of p~. If another class was the largest of p, the true one leads by
1 - eta, whatever p was.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.loss import at_least_float32


def revise(target_nC: Tensor, label_n: Tensor, *, eta: float, temperature: float, scope: str) -> Tensor:
    """Return logits z~ (n, C) with softmax(z~ / T) = p~, usable by every loss; at least float32.

    target_nC is (n, C) logits at T = 1, label_n (n,) int64, 0 < eta < 1. scope: all, or wrong, which leaves the rows
    whose largest logit (the first of equals) is the label's. Computed in logarithms, so that no p~ of 0 becomes -inf.
    """
    target_nC = at_least_float32(target_nC)
    log_p_nC = F.log_softmax(target_nC / temperature, dim=1)
    label_n1 = label_n[:, None]
    log_true_n1 = log_p_nC.gather(1, label_n1)
    b_n1 = eta / (log_p_nC.amax(dim=1, keepdim=True).exp() - log_true_n1.exp() + 1)
    revised_nC = (log_p_nC + b_n1.log()).scatter(
        1, label_n1, torch.logaddexp(log_true_n1 + b_n1.log(), torch.log1p(-b_n1))
    )
    revised_nC = temperature * revised_nC
    if scope == "all":
        return revised_nC
    return torch.where(target_nC.argmax(dim=1, keepdim=True) == label_n1, target_nC, revised_nC)
