"""The facts that are recorded about a sample: those of its logits, and the norm of its gradient."""

import math
import warnings

import torch
from torch import Tensor, nn

FACTS = ("p_y", "margin", "correct", "el2n")
"""Columns of `logit_facts`."""
LEAST_PROBABILITY = 1e-8
"""Smaller ones count as this one where their logarithm is kept; the published code of TDDS adds it."""
GRADIENT_BYTES = 1 << 28
"""Memory for the gradients of several samples at once; at least one sample is computed at a time."""


def logit_facts(logits_nC: Tensor, label_n: Tensor) -> Tensor:
    """Return probability of the label, its margin, whether it leads, and EL2N of each sample: (n, 4) float32.

    margin = z_y - max of the others; the lowest class leads among equal logits; EL2N = norm2(softmax(z) - y).
    """
    logits_nC, label_n1 = logits_nC.float(), label_n[:, None]
    p_nC = logits_nC.softmax(dim=1)
    others_nC = p_nC.scatter(1, label_n1, 0.0)
    # 1 - p_y as the sum of the others: the subtraction would lose all digits for learned samples.
    gap_n = others_nC.sum(dim=1)
    margin_n = logits_nC.gather(1, label_n1)[:, 0] - logits_nC.scatter(1, label_n1, -torch.inf).amax(dim=1)
    is_correct_n = logits_nC.argmax(dim=1) == label_n
    el2n_n = (others_nC.square().sum(dim=1) + gap_n.square()).sqrt()
    return torch.stack([p_nC.gather(1, label_n1)[:, 0], margin_n, is_correct_n.float(), el2n_n], dim=1)


def log_probabilities(logits_nC: Tensor) -> Tensor:
    """Return log softmax(z), at least that of LEAST_PROBABILITY: (n, C) float16."""
    return logits_nC.float().log_softmax(dim=1).clamp_min(math.log(LEAST_PROBABILITY)).half()


def gradient_norms(model: nn.Module, inputs: Tensor, label_n: Tensor) -> Tensor:
    """Return the norm of each sample's gradient of the cross-entropy by all trained parameters; (n,) float32.

    GraNd of Paul et al. 2021, in the mode the model is in: batch statistics would make it depend on the batch.
    Raises RuntimeError or ValueError if torch.func cannot differentiate the model sample by sample.
    """
    # Contiguous, not channels_last: pooling of the latter has no vmap rule and would run sample by sample.
    inputs, plain = inputs.contiguous(), torch.contiguous_format
    parameters = {n: v.detach().contiguous(memory_format=plain) for n, v in model.named_parameters() if v.requires_grad}
    fixed = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss_of(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, (parameters, fixed), (image[None],))
        return nn.functional.cross_entropy(logits.float(), label[None])

    def norm_of(image: Tensor, label: Tensor) -> Tensor:
        gradients: dict[str, Tensor] = torch.func.grad(loss_of)(parameters, image, label)
        return torch.stack([gradient.float().square().sum() for gradient in gradients.values()]).sum().sqrt()

    count = sum(value.numel() for value in parameters.values())
    chunk_size = max(1, min(len(inputs), GRADIENT_BYTES // (4 * count)))
    with warnings.catch_warnings():
        # Other operators without such a rule are slow, which cannot be changed here.
        warnings.filterwarnings("ignore", "There is a performance drop")
        norms: Tensor = torch.func.vmap(norm_of, chunk_size=chunk_size)(inputs, label_n)
    return norms
