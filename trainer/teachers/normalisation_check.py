"""Is a teacher shown images as it was trained on? Its first batch normalisation remembers what it saw in training.

Under the right mean and std, the channels that enter that layer are distributed as its running mean and variance say.
Measured on networks trained on scikit-learn's digits and CIFAR-100: see docs/commands/models.md.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manifests.format.header import Preprocessing
from trainer.models.grey import in_grey
from trainer.models.info import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from trainer.models.normalise import normalise

USUAL = {
    "images in [0, 1]": ((0.0,) * 3, (1.0,) * 3, "--mean 0 --std 1"),
    "images in [-1, 1]": ((0.5,) * 3, (0.5,) * 3, "--mean 0.5 --std 0.5"),
    "images in 0..255": ((0.0,) * 3, (1 / 255,) * 3, "--mean 0 --std 1/255"),
    "ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
    "CIFAR-100's mean and std": (CIFAR_MEAN, CIFAR_STD, "--mean 0.5071,0.4867,0.4408 --std 0.2675,0.2565,0.2761"),
}
"""Mean, std, and the flags that say so."""
MIN_IMAGES = 32
FAR, NEAR, TIMES = 0.1, 0.1, 5.0
"""Divergence in nats of what is shown, at least; of another normalisation, at most; and their least ratio."""


class Better(NamedTuple):
    """A normalisation that fits a network better."""

    name: str
    flags: str


class _SeenError(Exception):
    """Ends a forward pass at the layer that was looked for."""


def better_normalisation(network: nn.Module, images_n3SS: Tensor, shown: Preprocessing) -> Better | None:
    """Return a usual normalisation that fits the network far better than that of `shown`, else None.

    images: uint8, as they are shown. None, too, for a network without batch normalisation, and for fewer than
    MIN_IMAGES images.
    """
    if len(images_n3SS) < MIN_IMAGES:
        return None
    now = _divergence(network, images_n3SS, shown)
    if now is None or now < FAR:
        return None
    found: dict[str, float] = {}
    for name, (mean, std, _) in USUAL.items():
        other = shown.model_copy(update={"mean": list(mean), "std": list(std)})
        other = in_grey(other) if len(shown.mean) == 1 else other
        divergence = _divergence(network, images_n3SS, other)
        if divergence is not None:
            found[name] = divergence
    best = min(found, key=lambda name: found[name], default=None)
    if best is None or found[best] > NEAR or now < TIMES * found[best]:
        return None
    return Better(best, USUAL[best][2])


@torch.inference_mode()
def _divergence(network: nn.Module, images_n3SS: Tensor, shown: Preprocessing) -> float | None:
    """Return the Kullback-Leibler divergence of what enters the first batch normalisation from what it remembers.

    In nats, of normal distributions, the median over the channels; None if there is no such layer.
    """
    entered: list[tuple[Tensor, _BatchNorm]] = []

    def stop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        entered.append((inputs[0].float(), layer))
        raise _SeenError

    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_var is not None]
    hooks = [layer.register_forward_pre_hook(stop) for layer in layers]
    try:
        if hooks:
            network(normalise(images_n3SS, shown))
    except _SeenError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if not entered:
        return None
    values, layer = entered[0]
    assert layer.running_mean is not None
    assert layer.running_var is not None
    var_C, mean_C = torch.var_mean(values.transpose(0, 1).flatten(1), dim=1, correction=0)
    known_C = layer.running_var.float() + layer.eps
    ratio_C = (var_C + layer.eps) / known_C
    shift_C = (mean_C - layer.running_mean.float()).square() / known_C
    return float(((ratio_C - 1 - ratio_C.log() + shift_C) / 2).median())
