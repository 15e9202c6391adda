"""From uint8 images to network inputs."""

import torch

from manifests.format.header import Preprocessing
from trainer.models.grey import luma


def normalise(images: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return (x / 255 - mean) / std of uint8 (n, 3, S, S), on its device and in its memory format.

    With one mean and std, x is the luma, and the result (n, 1, S, S). Computed in float32 in the order of torchvision's
    ToTensor and Normalize, bit for bit, then cast to `dtype`.
    """
    if len(preprocessing.mean) == 1:
        images = luma(images)
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return images.to(torch.float32).div_(255).sub_(mean).div_(std).to(dtype)
