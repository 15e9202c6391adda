"""Manifests, paths and options as the functions of the Python interface and the commands take them. Torch-free."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.base.cores import core_count
from manifests.copies.check import PIXEL_TOLERANCE, DataCheck
from manifests.copies.matching import parse_stages
from manifests.errors import IncompleteError, UsageError
from manifests.format.header import Preprocessing
from manifests.hidden.secret import read_secret
from manifests.manifest import Manifest
from prune_toolkit.images.data_spec import DataSpec
from trainer.models.images_said import ImagesSaid
from trainer.teachers.output_names import named_outputs, read_outputs
from trainer.teachers.teacher_place import card_of_run, teacher_that_scored
from trainer.teachers.teacher_spec import TeacherSpec, check_teacher

if TYPE_CHECKING:
    from torch import nn

Place = str | Path
"""A path; a URL is also accepted for manifests that are only read."""


def opened(manifest: Manifest | Place) -> Manifest:
    """Return the manifest; open it if a path was given."""
    return manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)


def optional(path: Place | None) -> Path | None:
    """Return the path, or None if there is none."""
    return None if path is None else Path(path)


def said_outputs(
    outputs: Place | Sequence[str] | None, output: str | int | None, *, probabilities: bool
) -> dict[str, Any]:
    """Return what is said of a teacher's outputs, by the names of the fields of a `TeacherSpec`."""
    said = None
    if isinstance(outputs, Place):
        said = read_outputs(Path(outputs))
    elif outputs is not None:
        said = named_outputs(outputs, "outputs")
    return {"outputs": said, "output_key": None if output is None else str(output), "probabilities": probabilities}


def data_spec(
    data: Place | DataSpec | None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    *,
    held_out: bool = False,
) -> DataSpec | None:
    """Return the description of the given images, None if there are none; the options given beside it come first."""
    if data is None:
        return None
    if isinstance(data, DataSpec):
        return replace(
            data,
            split=split or data.split,
            classes=optional(classes) or data.classes,
            label=label or data.label,
            held_out=held_out,
        )
    return DataSpec(data=str(data), split=split, classes=optional(classes), label=label, held_out=held_out)


def teacher_spec(
    teacher: "str | nn.Module | None",
    preprocessing: Preprocessing | None,
    checkpoint: Place | None,
    checkpoint_key: str | None,
    image_size: int | None,
    images: ImagesSaid,
    returns: dict[str, Any],
    *,
    random_weights: bool,
    scored: Manifest | None = None,
) -> TeacherSpec:
    """Return what was said of the teacher; UsageError if none is named, or if its images are described twice.

    scored: a manifest whose teacher is meant: it says the rest.
    """
    card = None if scored is None else scored.header.teacher
    if teacher is not None:
        named = TeacherSpec(network=teacher, checkpoint=optional(checkpoint), checkpoint_key=checkpoint_key)
    elif scored is not None and card is not None:
        named = teacher_that_scored(scored, optional(checkpoint), checkpoint_key, 'teacher="SPEC"')
    else:
        raise UsageError(
            "teacher is missing", hint='teacher="torchvision/resnet50:IMAGENET1K_V2", or a torch module of your own'
        )
    parts = [flag.removeprefix("--").replace("-", "_") for flag in images.flags]
    if preprocessing is not None and (parts or image_size is not None):
        parts += ["image_size"] if image_size is not None else []
        raise UsageError(
            f"preprocessing says all of the teacher's images, and {', '.join(parts)} a part of it",
            hint="give one or the other",
        )
    if preprocessing is None and card is not None:
        preprocessing = card.preprocessing
    spec = replace(
        named,
        image_px=image_size,
        preprocessing=preprocessing,
        images=images,
        **returns,
        scored=None if scored is None else card_of_run(scored),
        random_weights=random_weights,
    )
    check_teacher(spec)
    return spec


def data_check(
    level: str,
    match: str | Sequence[str],
    class_map: Place | None,
    pixel_tolerance: float | None,
    secret: Place | None,
    workers: int | None,
) -> DataCheck:
    """Return the settings for the comparison of a copy of the images with a manifest."""
    return DataCheck(
        level=level,
        stages=parse_stages([match] if isinstance(match, str) else match),
        class_map=optional(class_map),
        pixel_tolerance=PIXEL_TOLERANCE if pixel_tolerance is None else pixel_tolerance,
        secret=secret_in(secret),
        workers=threads(workers),
    )


def secret_in(file: Place | None) -> bytes | None:
    """Read the secret from a file, None if there is none; `check_secret` compares it."""
    return None if file is None else read_secret(Path(file))


def threads(workers: int | None) -> int:
    """Return the number of threads that read images: as requested, else one per core."""
    return core_count() if workers is None else workers


def whole(manifest: Manifest | None) -> Manifest:
    """Return the manifest; IncompleteError if other processes have not finished their parts of it."""
    if manifest is None:
        raise IncompleteError(
            "the parts of this process are done, those of other processes are not",
            hint="call the function again when they are: it resumes where it stopped",
        )
    return manifest
