"""Which images a teacher is shown, from what is said, stated and known of it; what replaces or is assumed is told."""

import os
from dataclasses import replace
from typing import Any

from torch import nn

from manifests.base.progress import note
from manifests.errors import UsageError
from manifests.format.header import Preprocessing
from trainer.models.images_said import ALL_FLAGS, values_text
from trainer.models.info import SMALL_PX, ModelInfo, check_preprocessing, default_preprocessing, in_colour, rescaled
from trainer.models.stated import stated_by
from trainer.teachers.teacher_spec import TeacherSpec


def info_of_module(module: nn.Module, name: str, spec: TeacherSpec) -> ModelInfo:
    """Return what is known of a module of somebody's own; UsageError if nothing says its size, mean and std."""
    if (whole := spec.preprocessing) is not None:
        return ModelInfo(spec=name, class_names=None, preprocessing=whole)
    default = default_preprocessing(spec.image_px or SMALL_PX)
    stated = stated_by(module, name, spec.images, default.image_px)
    unknown = stated.unknown if stated else tuple(ALL_FLAGS)
    if {"image_px", "mean", "std"} & {*unknown} - {*_said(spec)}:
        raise UsageError(
            f"the teacher {name} is a module that does not say how it wants its images",
            hint="say it: preprocessing=pt.Preprocessing(image_px=224, resize_px=256, mean=[...], std=[...]), or "
            "image_size=, mean= and std=, or a module with the attributes mean, std and image_size",
        )
    return ModelInfo(
        spec=name,
        class_names=None,
        preprocessing=stated.preprocessing if stated else default,
        stated=stated.attribute if stated else None,
        unknown=unknown,
    )


def with_said(info: ModelInfo, spec: TeacherSpec) -> ModelInfo:
    """Return what is known of a teacher with what is said of its images over it, and tell it.

    `info` has as many means as the network takes channels. Raises UsageError for more numbers than that.
    """
    known = info.preprocessing
    if spec.preprocessing is not None:
        known = _of_channels(spec.preprocessing, len(known.mean), info.spec)
        info = replace(info, stated=None, unknown=())
    if spec.image_px is not None:
        known = rescaled(known, spec.image_px)
    shown = spec.images.on(known)
    check_preprocessing(shown)
    # Of several processes one tells.
    if int(os.environ.get("RANK", "0")) == 0:
        for line in _told(info, _said(spec), known.model_dump(), shown.model_dump()):
            note(line)
    unknown = tuple(name for name in info.unknown if name not in _said(spec))
    return replace(info, preprocessing=shown, unknown=unknown)


def _said(spec: TeacherSpec) -> list[str]:
    return [*spec.images.names, *([] if spec.image_px is None else ["image_px"])]


def _told(info: ModelInfo, said: list[str], known: dict[str, Any], shown: dict[str, Any]) -> list[str]:
    lines, unknown = [], info.unknown
    if info.stated is not None:
        stated = {name: value for name, value in known.items() if name not in unknown}
        lines.append(f"says how it expects its images ({info.stated}): {values_text(stated)}")
    replaced = [name for name in said if name not in unknown and known[name] != shown[name]]
    if replaced:
        before, now = (values_text({name: values[name] for name in replaced}) for values in (known, shown))
        lines.append(f"is shown images with {now}, as you say, in place of {before}")
    if len(shown["mean"]) == 1:
        lines.append("takes images of one channel: it is shown their luma, as PIL's convert('L') makes it")
    assumed = [name for name in unknown if name not in said]
    # Small images are shown whole, whatever the network was trained with.
    if {"image_px", "mean", "std"} & {*assumed} or ("resize_px" in assumed and shown["image_px"] > SMALL_PX):
        values = values_text({name: shown[name] for name in assumed})
        flags = ", ".join(ALL_FLAGS[name] for name in assumed)
        lines.append(f"does not say how it expects its images; it is assumed: {values}; to change it: {flags}")
    return [f"teacher {info.spec} {line}" for line in lines]


def _of_channels(whole: Preprocessing, channels: int, spec: str) -> Preprocessing:
    if channels == 1 and len(whole.mean) != 1:
        raise UsageError(
            f"teacher {spec} takes grey images, of one channel; preprocessing has {len(whole.mean)} means",
            hint="give one number each: mean=[0.5], std=[0.5]",
        )
    return whole if channels == 1 else in_colour(whole)
