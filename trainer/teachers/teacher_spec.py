"""Which network is the teacher, with which weights, and what is said of its images and outputs. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing, TeacherCard
from trainer.models.images_said import NOTHING_SAID, ImagesSaid
from trainer.models.spec_names import check_spec
from trainer.teachers.output_names import SaidOutputs

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


def live_spec(
    teacher: str | None,
    checkpoint: Path | None,
    checkpoint_key: str | None,
    images: ImagesSaid,
    *,
    outputs: SaidOutputs | None = None,
    output_key: str | None = None,
    probabilities: bool = False,
) -> TeacherSpec | None:
    """Return what is said of a live teacher, None without one; UsageError for what needs one."""
    if teacher is not None:
        return TeacherSpec(
            network=teacher,
            checkpoint=checkpoint,
            checkpoint_key=checkpoint_key,
            images=images,
            outputs=outputs,
            output_key=output_key,
            probabilities=probabilities,
        )
    if checkpoint is not None:
        raise UsageError("--checkpoint needs the teacher that its weights are for", hint="name it too: --teacher SPEC")
    if checkpoint_key is not None:
        raise UsageError("--checkpoint-key needs --teacher SPEC and --checkpoint FILE")
    if images.flags:
        raise UsageError(
            f"{', '.join(images.flags)}: this describes the images of a live teacher, and no --teacher is named",
            hint="name it: --teacher SPEC; a student takes the normalisation that its manifest says",
        )
    said = {"--outputs": outputs is not None, "--probabilities": probabilities, "--output": output_key is not None}
    if flag := next((flag for flag, is_said in said.items() if is_said), None):
        raise UsageError(f"{flag} says what a live teacher returns, and none is named", hint="name it: --teacher SPEC")
    return None


def check_teacher(teacher: TeacherSpec) -> None:
    """Raise what check_spec raises, InputError for a checkpoint that does not exist, UsageError for a key without one.

    A module was built already.
    """
    if not isinstance(teacher.network, str):
        return
    check_spec(teacher.network)
    if teacher.checkpoint is not None and not teacher.checkpoint.exists():
        raise InputError(f"no weights at {teacher.checkpoint}: no such file")
    if teacher.checkpoint is None and teacher.checkpoint_key is not None:
        raise UsageError(
            f"--checkpoint-key {teacher.checkpoint_key} needs the file it is in", hint="name it: --checkpoint FILE"
        )
