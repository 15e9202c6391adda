"""A student as it is exported: its network, the images it takes, and what belongs to it."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from manifests.format.header import Preprocessing
from prune_toolkit.work.part_work import tool
from trainer.models.info import ModelInfo
from trainer.models.normalise import normalise
from trainer.models.trained_student import TrainedStudent

INPUT, OUTPUT = "images", "logits"
EXAMPLES = 2
"""Images that an exporter is shown: one image would be taken for a batch that is always one."""


class Normalised(nn.Module):
    """A network that takes uint8 images and normalises them itself, in the order of torchvision."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, C) of uint8 (n, 3, S, S)."""
        logits: torch.Tensor = self.network((images.to(torch.float32) / 255 - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Exportable:
    """A copy of a student's network on the CPU, in float32 and evaluation mode."""

    network: nn.Module
    """Takes normalised images."""
    info: ModelInfo
    with_normalisation: bool = False
    """The exported network takes uint8 images and normalises them itself."""

    @classmethod
    def of(cls, student: TrainedStudent, *, with_normalisation: bool = False) -> "Exportable":
        """Copy the network of a student."""
        network = copy.deepcopy(student.network).cpu().float().eval().requires_grad_(False)
        return cls(network, student.info, with_normalisation)

    @property
    def image_px(self) -> int:
        """Side of the images."""
        return self.info.preprocessing.image_px

    @cached_property
    def module(self) -> nn.Module:
        """The network that is exported, which takes what `inputs` returns."""
        return Normalised(self.network, self.info.preprocessing).eval() if self.with_normalisation else self.network

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images (n, 3, S, S) as the exported network takes them, row-major."""
        return images if self.with_normalisation else normalise(images, self.info.preprocessing).contiguous()

    def example(self) -> torch.Tensor:
        """Return a small batch of what the exported network takes."""
        return self.inputs(torch.zeros(EXAMPLES, 3, self.image_px, self.image_px, dtype=torch.uint8))

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the network here says of uint8 images, (n, C)."""
        logits: torch.Tensor = self.network(normalise(images, self.info.preprocessing))
        return logits

    def facts(self) -> dict[str, Any]:
        """Return what a user of the exported network needs to know."""
        maker = tool()
        return {
            "made_by": f"{maker.name} {maker.version}",
            "model_spec": self.info.spec,
            "input": {
                "name": INPUT,
                "shape": ["batch", 3, self.image_px, self.image_px],
                "dtype": "uint8" if self.with_normalisation else "float32",
                "values": "0 to 255, RGB" if self.with_normalisation else "(x / 255 - mean) / std of RGB",
            },
            "output": {"name": OUTPUT, "shape": ["batch", "classes"], "dtype": "float32"},
            "preprocessing": self.info.preprocessing.model_dump(mode="json"),
            "class_names": None if self.info.class_names is None else list(self.info.class_names),
        }
