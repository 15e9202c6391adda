"""Stored labels on the device: top-k words are decoded to logits there, with any loader."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from manifests.format.top_k import TEMPERATURES, tail_weights, words_count

_TAIL_WORDS = 2 * len(TEMPERATURES)
_LEAST_SHARE = 1e-6
"""Share of the tail left to the other classes if the label takes nearly all of it: the resolution of float32."""


def dense_logits(
    target: Tensor, top_k: int | None, class_count: int, temperature: float, label: Tensor | None = None
) -> Tensor:
    """Return all C logits (n, C) of stored labels, for a softmax at `temperature`.

    target is (n, C) logits, returned unchanged, or with top_k the (n, 2K + 13) words of manifests/format/top_k.py, in
    float16 as loaders deliver them: then the result is float32, like TopK.logits. With label (n,), the label's logit
    is the stored one even if it is not among the K largest, and the other classes share the rest of the tail. Raises
    ValueError for words of another length.
    """
    if top_k is None:
        return target
    if target.shape[1] != words_count(top_k):
        raise ValueError(f"{words_count(top_k)} words per row expected for {top_k} classes, not {target.shape[1]}")
    words = target.view(torch.int16)
    class_nK, logit_nK = words[:, :top_k], words[:, top_k : 2 * top_k]
    # clone, not contiguous(), which leaves a single row at the stride of all words.
    tail_n8 = words[:, 2 * top_k : 2 * top_k + _TAIL_WORDS].clone(memory_format=torch.contiguous_format)
    tail_n4 = tail_n8.view(torch.float32).double()
    tail_classes = class_count - top_k
    at_zero, *weights = _tail_weights(temperature)
    # Numbers, not a tensor: copying it to the device would synchronise at every step.
    tail_n = torch.full_like(tail_n4[:, 0], (at_zero - 1) * math.log(tail_classes))
    for column, weight in enumerate(weights):
        tail_n += weight * tail_n4[:, column]
    kept_nK, class_nK = logit_nK.view(torch.float16).float(), class_nK.long() & 0xFFFF
    if label is not None:
        label_logit_n = words[:, 2 * top_k + _TAIL_WORDS].clone().view(torch.float16).float()
        is_kept_n = (class_nK == label[:, None]).any(dim=1)
        rest_n = _without(label_logit_n.double() / temperature, tail_n, tail_classes)
        tail_n = torch.where(is_kept_n, tail_n, rest_n)
    logits_nC = (temperature * tail_n).float()[:, None].repeat(1, class_count).scatter(1, class_nK, kept_nK)
    if label is not None:
        logits_nC = logits_nC.scatter(1, label[:, None], label_logit_n[:, None])
    return logits_nC


def _without(label_n: Tensor, tail_n: Tensor, tail_classes: int) -> Tensor:
    """Return the equal logit of each tail class once the label's is subtracted from their sum."""
    if tail_classes == 1:
        return tail_n
    share_n = (label_n - tail_n - math.log(tail_classes)).exp().clamp(max=1 - _LEAST_SHARE)
    return tail_n + math.log(tail_classes) + torch.log1p(-share_n) - math.log(tail_classes - 1)


@lru_cache(maxsize=64)
def _tail_weights(temperature: float) -> list[float]:
    weights: list[float] = tail_weights(temperature).tolist()
    return weights
