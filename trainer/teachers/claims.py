"""What the makers of a teacher's weights say of its accuracy, by which a wrong preprocessing or class order shows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from trainer.models.info import ModelInfo
from trainer.models.weights import find_student_info
from trainer.teachers.alike_names import fold
from trainer.teachers.known_names import IMAGENET_OUTPUTS, known_names
from trainer.teachers.teacher_spec import TeacherSpec


class Claim(NamedTuple):
    """A top-1, from 0 to 1, and on what it was reached."""

    top1: float
    on: str


def claim_of(spec: TeacherSpec, info: ModelInfo, class_names: Sequence[str]) -> Claim | None:
    """Return what is claimed of the weights on these classes; None where nothing is, or of other classes."""
    if not isinstance(spec.network, str) or spec.outputs is not None or info.weights != "loaded":
        return None
    file = spec.checkpoint or (Path(spec.network) if spec.network.endswith(".safetensors") else None)
    if file is not None:
        return _of_student(file, class_names)
    family, _, name = info.spec.partition("/")
    network, _, weights_name = name.partition(":")
    return _of_torchvision(network, weights_name, class_names) if family == "torchvision" and weights_name else None


def _of_student(file: Path, class_names: Sequence[str]) -> Claim | None:
    """That of the epoch whose weights train-student saved."""
    described = find_student_info(file)
    if described is None or set(described.class_names or ()) != set(class_names):
        return None
    with safe_open(file, framework="pt") as opened:
        said = (opened.metadata() or {}).get("val_top1", "")
    try:
        top1 = float(said)
    except ValueError:
        return None
    return Claim(top1, "the validation set of its training") if math.isfinite(top1) else None


def _of_torchvision(name: str, weights_name: str, class_names: Sequence[str]) -> Claim | None:
    from torchvision import models

    is_imagenet = any(
        {fold(name) for name in class_names} <= {fold(name) for name in known.names}
        for known in known_names(IMAGENET_OUTPUTS)
    )
    metrics = models.get_model_weights(name)[weights_name].meta.get("_metrics", {}).get("ImageNet-1K", {})
    if not is_imagenet or "acc@1" not in metrics:
        return None
    return Claim(metrics["acc@1"] / 100, "ImageNet-1K")
