"""Networks of torchvision and timm, with the preprocessing that belongs to their weights."""

import importlib
import math
import sys
from typing import Any, Literal, cast

from torch import nn

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.models.info import Blueprint, Loaded
from trainer.models.spec_names import TIMM_HUB, did_you_mean

WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
"""Built without auxiliary heads, which return tuples in training mode and only help ImageNet runs from scratch."""


def torchvision_blueprint(text: str, image_px: int | None) -> Blueprint:
    """Return the blueprint of `NAME` or `NAME:WEIGHTS`; raises UsageError for an unknown name or unknown weights.

    `NAME:WEIGHTS` brings weights, their preprocessing and their class names; nothing is downloaded before `load`.
    """
    from torchvision import models

    name, _, weights_name = text.partition(":")
    known = models.list_models(module=models)
    if name not in known:
        hint = did_you_mean(name, known, prefix="torchvision/") or "only classification networks are known"
        raise UsageError(f"torchvision has no network {name!r}", hint=hint)
    if not weights_name:
        return Blueprint(
            spec=f"torchvision/{name}",
            make=lambda classes: _torchvision(name, classes, image_px, transform_input=False),
        )

    members = models.get_model_weights(name).__members__
    if weights_name not in members:
        hint = "known: " + ", ".join(members)
        raise UsageError(f"torchvision/{name} has no weights {weights_name!r}", hint=hint)
    weights = members[weights_name]
    if not weights.meta.get("categories"):
        raise UsageError(
            f"torchvision/{name}:{weights_name} has no classifier: its weights compute features only",
            hint="known: " + ", ".join(member for member in members if member != weights_name),
        )
    native = _torchvision_preprocessing(weights.transforms())
    spec = f"torchvision/{name}:{weights.name}"
    class_names = tuple(weights.meta["categories"])

    def load() -> Loaded:
        options = {"aux_logits": False} if name in WITH_AUXILIARY_HEADS else {}
        try:
            network = models.get_model(name, weights=weights, progress=sys.stderr.isatty(), **options)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the weights of {spec} could not be loaded: {reason(error)}",
                hint=f"offline: download {weights.url} elsewhere, and put it into the folder hub/checkpoints of "
                "TORCH_HOME (~/.cache/torch), or name it with --checkpoint FILE",
            ) from error
        return Loaded(network, spec, class_names)

    return Blueprint(
        spec=spec,
        make=lambda classes: _torchvision(name, classes, native.image_px, transform_input=True),
        load=load,
        native=lambda _: native,
        class_names=class_names,
    )


def _torchvision(name: str, classes: int, image_px: int | None, *, transform_input: bool) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"num_classes": classes}
    if name in WITH_AUXILIARY_HEADS:
        options |= {"aux_logits": False, "init_weights": True, "transform_input": transform_input}
    if name.startswith("vit_") and image_px is not None:
        options["image_size"] = image_px
    try:
        return cast(nn.Module, models.get_model(name, weights=None, **options))
    except Exception as error:
        raise InputError(f"torchvision/{name} cannot be built: {reason(error)}") from error


def _torchvision_preprocessing(transforms: Any) -> Preprocessing:
    return Preprocessing(
        image_px=transforms.crop_size[0],
        resize_px=transforms.resize_size[0],
        interpolation=_interpolation(transforms.interpolation.value),
        mean=list(transforms.mean),
        std=list(transforms.std),
    )


def timm_blueprint(name: str, image_px: int | None, *, pretrained: bool) -> Blueprint:
    """Return the blueprint of a timm name, with or without tag, or of `hf-hub:OWNER/NAME`.

    It has a `load` exactly if `pretrained` is given. Raises UsageError for an unknown name.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        raise UsageError(
            f"timm/{name} needs timm, which is not installed", hint="pip install 'prune-toolkit[timm]'"
        ) from None

    if not name.startswith(TIMM_HUB):
        _check_timm_name(timm, name)

    def create(**options: Any) -> nn.Module:
        network: Any = timm.create_model(name, **options)
        if image_px is not None and hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(image_px, image_px))
        return cast(nn.Module, network)

    def make(classes: int) -> nn.Module:
        try:
            return create(pretrained=False, num_classes=classes)
        except Exception as error:
            raise InputError(f"timm/{name} cannot be built: {reason(error)}") from error

    def load() -> Loaded:
        try:
            network: Any = create(pretrained=True)
        except Exception as error:
            raise InputError(
                f"the weights of timm/{name} could not be loaded: {reason(error)}",
                hint="offline, or if no weights are published: give a file with --checkpoint FILE",
            ) from error
        if not network.num_classes:
            raise InputError(
                f"timm/{name} has no classifier: its weights compute features only",
                hint="choose weights that were fine-tuned to classes, such as a name with in1k in its tag",
            )
        config: dict[str, Any] = network.pretrained_cfg
        architecture, tag, names = (config.get(key) for key in ("architecture", "tag", "label_names"))
        spec = f"timm/{architecture}.{tag}" if tag and ":" not in name else f"timm/{name}"
        return Loaded(network, spec, tuple(names) if names else None)

    return Blueprint(
        spec=f"timm/{name}",
        make=make,
        load=load if pretrained else None,
        native=lambda network: _timm_preprocessing(timm, name, network),
    )


def _check_timm_name(timm: Any, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), prefix="timm/")
        raise UsageError(f"timm has no network {architecture!r}", hint=hint or "see timm.list_models()")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = ", ".join(filter(None, tags)) or "none"
        raise UsageError(f"timm/{architecture} has no weights {tag!r}", hint=f"known: {known}")


def _timm_preprocessing(timm: Any, name: str, network: nn.Module) -> Preprocessing:
    """Return timm's evaluation preprocessing; its crop modes squash and border count as a plain centre crop."""
    config = timm.data.resolve_data_config({}, model=network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"timm/{name} takes {channels}x{height}x{width} images, not square colour ones")
    return Preprocessing(
        image_px=height,
        resize_px=math.floor(height / config["crop_pct"]),
        interpolation=_interpolation(config["interpolation"]),
        mean=list(config["mean"]),
        std=list(config["std"]),
    )


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    if name not in ("bilinear", "bicubic"):
        raise InputError(f"the network needs images resized with {name!r}; only bilinear and bicubic are supported")
    return cast(Literal["bilinear", "bicubic"], name)


def reason(error: BaseException) -> str:
    """Return the first line of an error, after the name of its class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
