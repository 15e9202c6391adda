"""Images of one channel: which networks take them, how they are made, and the normalisation that belongs to them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from manifests.format.header import Preprocessing
from trainer.models.info import in_colour

LUMA_16 = (19595, 38470, 7471)
"""Shares of red, green and blue in 2**16, as PIL's convert("L") takes them (ITU-R BT.601)."""


def channels_taken(model: nn.Module, preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with one mean and std for a network that takes grey images, else with three."""
    side_px = preprocessing.image_px
    with evaluating(model):
        is_grey = not _takes(model, 3, side_px) and _takes(model, 1, side_px)
    return in_grey(preprocessing) if is_grey else in_colour(preprocessing)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set all modules of a network to evaluation mode, and each back afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def luma(images_n3SS: torch.Tensor) -> torch.Tensor:
    """Return the uint8 luma (n, 1, S, S) of uint8 colour images, bit for bit as PIL's convert("L")."""
    red, green, blue = images_n3SS.to(torch.int32).unbind(dim=1)
    weighted = LUMA_16[0] * red + LUMA_16[1] * green + LUMA_16[2] * blue
    return ((weighted + (1 << 15)) >> 16).to(torch.uint8).unsqueeze(1)


def in_grey(preprocessing: Preprocessing) -> Preprocessing:
    """Return it with one mean and one std, the averages over the channels, as timm does."""
    return preprocessing.model_copy(
        update={name: [_average(getattr(preprocessing, name))] for name in ("mean", "std")},
    )


def _average(values: list[float]) -> float:
    # An average of equal numbers may be off by the last bit.
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _takes(network: nn.Module, channels: int, side_px: int) -> bool:
    example = next(network.parameters(), torch.zeros(()))
    image = torch.zeros(1, channels, side_px, side_px, device=example.device, dtype=example.dtype)
    try:
        with torch.no_grad():
            network(image)
    except Exception:
        return False
    return True
