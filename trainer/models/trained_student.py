"""A student that was trained, with what belongs to it: the images it expects and the names of its classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from manifests.format.header import Preprocessing
from trainer.models.info import ModelInfo
from trainer.models.normalise import normalise


class TrainedStudent(nn.Module):
    """A network that takes uint8 images (n, 3, S, S), which it normalises, or float ones, which are normalised.

    `transform` makes a normalised (3, S, S) tensor of a PIL image, as the student saw images when it was evaluated.
    """

    def __init__(self, network: nn.Module, info: ModelInfo, transform: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.info, self.transform = network, info, transform

    @property
    def preprocessing(self) -> Preprocessing:
        """The evaluation view and the normalisation it expects."""
        return self.info.preprocessing

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its outputs, in their order; none where its file does not say."""
        return self.info.class_names or ()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, C)."""
        if images.dtype == torch.uint8:
            images = normalise(images, self.preprocessing)
        logits: torch.Tensor = self.network(images)
        return logits

    def __repr__(self) -> str:
        px = self.preprocessing.image_px
        return f"<TrainedStudent {self.info.spec}: {px}x{px} px images, {len(self.class_names)} classes>"
