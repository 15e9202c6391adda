"""Which network is the teacher, with which weights, and what is said of its images and outputs. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.format.header import Preprocessing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher as somebody names it, before it is built."""

    network: "str | nn.Module"
    """A spec, as trainer/models/build.py lists them, or a module, which is copied."""
    checkpoint: Path | None = None
    """File of the weights; None: those that belong to the network."""
    checkpoint_key: str | None = None
    """Where in the checkpoint they are, as `state.model` or `student`; None: decided by the names of the network."""
    image_px: int | None = None
    """Side of the images it is shown; None: that of the weights."""
    preprocessing: Preprocessing | None = None
    """How it expects its images; None: as belongs to the weights, which a module of another origin does not say."""
    random_weights: bool = False
    """Accept a network that is untrained."""
