"""Image classifiers of transformers, from the hub or a folder, with the preprocessing of their image processor."""

import importlib
import warnings
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from manifests.base.progress import note
from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.models.info import Blueprint, Loaded
from trainer.models.zoos import reason

RESAMPLING: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters."""
CONVNEXT_SQUASH_PX = 384
"""From this size on, processors with a crop_pct squash the image instead of cutting a margin off."""
REFUSED = ("do_pad", "do_flip_channel_order", "include_top", "rescale_offset", "do_reduce_labels")
"""Steps of image processors that the preprocessing of a header cannot describe."""


class LogitsOf(nn.Module):
    """A network of transformers that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, C) of normalised images (n, 3, S, S)."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def transformers_blueprint(name: str, *, pretrained: bool) -> Blueprint:
    """Return the blueprint of ORG/NAME on the hub, or of a folder with a config.json. Raises UsageError."""
    is_folder = Path(name).is_dir()
    spec = f"transformers/{Path(name).resolve().name}" if is_folder else f"hf/{name}"
    if not pretrained:
        raise UsageError(f"{spec}: a network of transformers is a teacher only", hint="take one of timm as the student")
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise UsageError(
            f"{name} needs transformers, which is not installed", hint="pip install 'prune-toolkit[hf]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    def called(what: str, make: Any, **options: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return make(name, trust_remote_code=False, **options)
        except Exception as error:
            raise InputError(
                f"the {what} of {spec} could not be loaded: {reason(error)}",
                hint="it must be an image classifier of transformers itself, with its weights in safetensors; offline, "
                "copy its folder here, and name that",
            ) from error

    def make(classes: int) -> nn.Module:
        config = called("configuration", transformers.AutoConfig.from_pretrained, num_labels=classes)
        return LogitsOf(transformers.AutoModelForImageClassification.from_config(config))

    def load() -> Loaded:
        network, found = called(
            "network",
            transformers.AutoModelForImageClassification.from_pretrained,
            use_safetensors=True,
            output_loading_info=True,
        )
        if new := sorted([*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])]):
            raise InputError(
                f"{spec} is not a whole classifier: it lacks {', '.join(new[:3])}",
                hint="take a network that was fine-tuned to classes",
            )
        names = network.config.id2label
        labels = tuple(str(names[output]) for output in sorted(names))
        is_told = any(label != f"LABEL_{output}" for output, label in enumerate(labels))
        return Loaded(LogitsOf(network.float()), spec, labels if is_told else None)

    def native(_: nn.Module) -> Preprocessing | None:
        if is_folder and not (Path(name) / "preprocessor_config.json").is_file():
            return None
        processor = called("image processor", transformers.AutoImageProcessor.from_pretrained)
        shown, is_squashed = preprocessing_of(processor.to_dict(), spec)
        if is_squashed:
            note(f"{spec} squashes images to a square; here the centre of each is shown")
        return shown

    return Blueprint(spec=spec, make=make, load=load, native=native)


def preprocessing_of(config: dict[str, Any], spec: str) -> tuple[Preprocessing, bool]:
    """Return what an image processor does with square images, and whether it squashes others; else InputError."""
    steps = [step for step in REFUSED if config.get(step)]
    if not config.get("do_resize", True):
        steps.append("do_resize=False")
    if config.get("do_rescale", True) is False or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        steps.append("rescale_factor")
    interpolation = RESAMPLING.get(config.get("resample", 2))
    if interpolation is None:
        steps.append(f"resample={config['resample']}")
    size, crop = config.get("size") or {}, (config.get("crop_size") or {}) if config.get("do_center_crop") else {}
    sides = {side for block in (size, crop) for side in [(block.get("height"), block.get("width"))]}
    if any(height != width for height, width in sides):
        steps.append("a size that is not square")
    shortest, squashed_to = size.get("shortest_edge"), size.get("height")
    if shortest is None and squashed_to is None:
        steps.append(f"size={size}")
    if steps:
        raise InputError(
            f"{spec} prepares its images by {', '.join(steps)}, which is not done here",
            hint="name it with a module:callable that does it, or bring its logits: prune import --logits",
        )
    resize_px = int(shortest or squashed_to or 0)
    image_px = int(crop.get("height") or resize_px)
    crop_pct = config.get("crop_pct")
    if crop_pct and shortest and not crop:
        squashed_to = resize_px if resize_px >= CONVNEXT_SQUASH_PX else None
        resize_px = resize_px if squashed_to else int(resize_px / crop_pct)
    normalises = config.get("do_normalize", True)
    return (
        Preprocessing(
            image_px=image_px,
            resize_px=resize_px,
            interpolation=interpolation or "bilinear",
            mean=list(config["image_mean"]) if normalises else [0.0] * 3,
            std=list(config["image_std"]) if normalises else [1.0] * 3,
        ),
        squashed_to is not None,
    )
