"""Which network is the teacher, with which weights, and what is said of its images and outputs. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.format.header import Preprocessing, TeacherCard
from trainer.models.output_names import SaidOutputs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher as somebody names it, before it is built."""

    network: "str | nn.Module"
    """A spec, as trainer/models/build.py lists them, or a module, which is copied."""
    checkpoint: Path | None = None
    """File of the weights; None: those that belong to the network."""
    image_px: int | None = None
    """Side of the images it is shown; None: that of the weights."""
    preprocessing: Preprocessing | None = None
    """How it expects its images; None: as belongs to the weights, which a module of another origin does not say."""
    outputs: SaidOutputs | None = None
    """Which of its outputs are the classes; None: by the names that belong to the weights, else in their order."""
    output_key: str | None = None
    """Key or position of the logits in what it returns; None: where that is certain."""
    probabilities: bool = False
    """It returns probabilities, of a softmax or of sigmoids, in place of logits."""
    scored: TeacherCard | None = None
    """The teacher of a manifest, whose outputs are read as they were then, where nothing else is said of them."""
    random_weights: bool = False
    """Accept a network that is untrained."""

    @property
    def says_outputs(self) -> bool:
        """Whether something is said of what it returns."""
        return self.outputs is not None or self.output_key is not None or self.probabilities
