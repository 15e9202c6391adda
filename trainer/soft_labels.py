"""Stored labels on the device: top-k words become logits there, whatever brought them."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from manifests.top_k import TEMPERATURES, tail_weights, words_count

_TAIL_WORDS = 2 * len(TEMPERATURES)


def dense_logits(target: Tensor, top_k: int | None, class_count: int, temperature: float) -> Tensor:
    """All C logits (n, C) of stored labels, for a softmax at `temperature`.

    target is (n, C) logits, given back as they are, or with top_k the (n, 2K + 13) words of manifests/top_k.py, in
    float16 as loaders bring them: then float32, as TopK.logits. ValueError for words of another length.
    """
    if top_k is None:
        return target
    if target.shape[1] != words_count(top_k):
        raise ValueError(f"{words_count(top_k)} words a row expected for {top_k} classes, not {target.shape[1]}")
    words = target.view(torch.int16)
    class_nK, logit_nK = words[:, :top_k], words[:, top_k : 2 * top_k]
    # clone, not contiguous: that leaves a single row at the stride of all words.
    tail_n8 = words[:, 2 * top_k : 2 * top_k + _TAIL_WORDS].clone(memory_format=torch.contiguous_format)
    tail_n4 = tail_n8.view(torch.float32).double()
    tail_classes = class_count - top_k
    at_zero, *weights = _tail_weights(temperature)
    # Numbers, not a tensor: a copy to the device would wait for it at every step.
    tail_n = torch.full_like(tail_n4[:, 0], (at_zero - 1) * math.log(tail_classes))
    for column, weight in enumerate(weights):
        tail_n += weight * tail_n4[:, column]
    fill_n = (temperature * tail_n).float()
    kept_nK = logit_nK.view(torch.float16).float()
    logits_nC: Tensor = fill_n[:, None].repeat(1, class_count).scatter(1, class_nK.long() & 0xFFFF, kept_nK)
    return logits_nC


@cache
def _tail_weights(temperature: float) -> list[float]:
    weights: list[float] = tail_weights(temperature).tolist()
    return weights
