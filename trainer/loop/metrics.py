"""Counts that add up over batches and ranks, and the metrics computed from them."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of a classifier on one set of samples."""

    top1: float
    """Fraction of samples whose largest logit is the label's."""
    top5: float
    """Fraction whose label is among the five largest logits, or among all if there are fewer classes."""
    loss: float
    """Mean cross-entropy at T = 1, without label smoothing."""
    count: int

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers by name."""
        return asdict(self)


def batch_sums(logits_NC: Tensor, label_N: Tensor) -> Tensor:
    """Return the sums of loss, top-1 hits, top-5 hits and samples of a batch; (4,) float64 on the logits' device."""
    logits_NC = logits_NC.float()
    loss_N = F.cross_entropy(logits_NC, label_N, reduction="none")
    top1_N = logits_NC.argmax(dim=1) == label_N
    top5_Nk = logits_NC.topk(min(5, logits_NC.shape[1]), dim=1).indices
    top5_N = (top5_Nk == label_N[:, None]).any(dim=1)
    count = torch.tensor(len(label_N), dtype=torch.float64, device=logits_NC.device)
    return torch.stack([loss_N.double().sum(), top1_N.double().sum(), top5_N.double().sum(), count])


def metrics_of(sums: Tensor) -> Metrics:
    """Return the metrics from the (4,) sums over all batches and ranks."""
    loss, top1, top5, count = sums.tolist()
    return Metrics(top1=top1 / count, top5=top5 / count, loss=loss / count, count=int(count))
