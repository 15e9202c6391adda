"""Which network is the teacher, with which weights, and what is said of its images and outputs. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from trainer.models.images_said import NOTHING_SAID, ImagesSaid

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
    images: ImagesSaid = NOTHING_SAID
    """What else is said of its images; it wins over `preprocessing` and over what belongs to the weights."""
    random_weights: bool = False
    """Accept a network that is untrained."""


def live_spec(
    teacher: str | None, checkpoint: Path | None, checkpoint_key: str | None, images: ImagesSaid
) -> TeacherSpec | None:
    """Return what is said of a live teacher, None without one; UsageError for what needs one."""
    if teacher is not None:
        return TeacherSpec(network=teacher, checkpoint=checkpoint, checkpoint_key=checkpoint_key, images=images)
    if checkpoint is not None:
        raise UsageError("--checkpoint needs the teacher that its weights are for", hint="name it too: --teacher SPEC")
    if checkpoint_key is not None:
        raise UsageError("--checkpoint-key needs --teacher SPEC and --checkpoint FILE")
    if images.flags:
        raise UsageError(
            f"{', '.join(images.flags)}: this describes the images of a live teacher, and no --teacher is named",
            hint="name it: --teacher SPEC; a student takes the normalisation that its manifest says",
        )
    return None
