"""What a run computes: the typed configuration, checked once, and the published recipes to start from."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from manifests.errors import UsageError
from manifests.registry import Registry
from trainer.losses import LOSSES
from trainer.models.info import SMALL_PX
from trainer.schedules import SCHEDULES
from trainer.views import VIEW_RECIPES

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("fp32", "bf16", "fp16")
AUGMENTATIONS = ("replay", *VIEW_RECIPES)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a student's weights depend on beside the data; every field is a flag of train-student."""

    recipe: str
    """The recipe the other values started from."""
    student: str
    """Model spec: a CIFAR-family name, torchvision/NAME, timm/NAME, module:callable, a .safetensors file."""
    weights: str | None = None
    """File of weights to start from."""
    image_px: int
    """Side of the square the student sees, in training and evaluation."""
    epochs: int
    """Passes over the samples of the beton: a fixed-epoch budget."""
    batch_size: int
    """Samples an optimiser step, over all ranks."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    lr: float
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float
    """L2 penalty (sgd) or decoupled decay (adamw), on all parameters."""
    schedule: str
    """cosine, step or constant."""
    milestones: tuple[float, ...] = ()
    """Epochs at which `step` multiplies the rate by gamma."""
    gamma: float = 0.1
    """Factor of the schedule `step`."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    loss: str = "kd"
    """kd or ce."""
    kd_weight: float = 0.9
    """alpha of the loss; times kd_weight_i of the sample."""
    temperature: float = 4.0
    """T of the loss."""
    label_smoothing: float = 0.0
    """Smoothing of the cross-entropy term."""
    augment: str
    """replay (the scored views), pad_crop_flip, resized_crop_flip, or none (the evaluation view)."""
    flip: bool = True
    """Whether unscored views are mirrored at random."""
    pad_px: int | None = None
    """Largest shift of unscored pad_crop_flip views; None is an eighth of the side."""
    scale_min: float = 0.08
    """Smallest share of the image's area that an unscored resized_crop_flip view shows."""
    precision: str = "fp32"
    """fp32, or autocast in bf16 or (CUDA only) fp16."""
    channels_last: bool = True
    """NHWC memory format."""
    tf32: bool = True
    """TF32 matrix products and convolutions on CUDA in fp32."""
    compile: bool = False
    """torch.compile the student."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    seed: int = 0
    """Seed of the streams init, order, views and dropout."""

    def __post_init__(self) -> None:
        """Refuse values no run can have, naming the flag."""
        _one_of("--loss", self.loss, LOSSES)
        _one_of("--schedule", self.schedule, SCHEDULES)
        _one_of("--optimizer", self.optimizer, OPTIMIZERS)
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--augment", self.augment, AUGMENTATIONS)
        for flag in ("epochs", "batch_size", "image_px", "eval_every"):
            _check(getattr(self, flag) >= 1, flag, getattr(self, flag), "at least 1")
        for flag in ("lr", "temperature", "gamma"):
            value = getattr(self, flag)
            _check(math.isfinite(value) and value > 0, flag, value, "above 0")
        for flag in ("weight_decay", "warmup_epochs", "seed"):
            value = getattr(self, flag)
            _check(math.isfinite(value) and value >= 0, flag, value, "0 or more")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _check(0 <= self.kd_weight <= 1, "kd_weight", self.kd_weight, "in [0, 1]")
        _check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        _check(
            self.warmup_epochs < self.epochs,
            "warmup_epochs",
            self.warmup_epochs,
            f"below --epochs {self.epochs}",
        )
        ordered = tuple(sorted(self.milestones))
        _check(ordered == self.milestones, "milestones", self.milestones, "in increasing order")
        _check(0 < self.scale_min <= 1, "scale_min", self.scale_min, "in (0, 1]")
        _check(self.pad_px is None or self.pad_px >= 0, "pad", self.pad_px, "0 or more")
        if self.nesterov and self.momentum == 0:
            raise UsageError("--nesterov needs a momentum above 0", hint="give --momentum 0.9 or --no-nesterov")
        if self.schedule == "step" and not self.milestones:
            raise UsageError("--schedule step needs milestones", hint="for example --milestones 30,60,90")

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as run.json holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def digest(values: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of the canonical JSON of a resolved configuration."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


RECIPES: Registry[dict[str, Any]] = Registry("recipe")
RECIPES.add(
    "demo",
    {
        "student": "resnet8",
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.1,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "flip": False,
    },
)
RECIPES.add(
    "cifar",
    {
        "student": "resnet8x4",
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (150.0, 180.0, 210.0),
    },
)
RECIPES.add(
    "imagenet",
    {
        "student": "torchvision/resnet18",
        "epochs": 100,
        "batch_size": 256,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (30.0, 60.0, 90.0),
    },
)


def resolve(flags: Mapping[str, Any], *, recipe: str, image_px: int, stored_views: int) -> TrainConfig:
    """Lay the flags that were given (not None) over a recipe; the result is complete and checked.

    recipe may be `auto`; image_px is what the data calls for, stored_views the beton's V (0: no targets).
    Milestones and warm-up keep their fraction of the run when only the epochs are given.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    unknown = set(given) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise TypeError(f"no such configuration value: {', '.join(sorted(unknown))}")
    side_px = given.setdefault("image_px", image_px)
    small = side_px <= SMALL_PX
    name = ("cifar" if small else "imagenet") if recipe == "auto" else recipe
    values = RECIPES[name] | {"recipe": name} | given
    scale = values["epochs"] / RECIPES[name]["epochs"]
    if "milestones" not in given:
        values["milestones"] = tuple(milestone * scale for milestone in values.get("milestones", ()))
    if "warmup_epochs" not in given:
        values["warmup_epochs"] = values.get("warmup_epochs", 0.0) * scale
    if values.get("augment", "auto") == "auto":
        replay = values.get("loss", "kd") == "kd" and stored_views > 1
        values["augment"] = "replay" if replay else "pad_crop_flip" if small else "resized_crop_flip"
    if values["augment"] == "replay" and stored_views < 2:
        raise UsageError(
            f"--augment replay needs stored labels of several views; this manifest has {stored_views}",
            hint="score it with more views, or take --augment pad_crop_flip",
        )
    return TrainConfig(**values)


def _one_of(flag: str, value: str, known: Any) -> None:
    if value not in known:
        raise UsageError(f"{flag} {value} is not known", hint=f"known: {', '.join(known)}")


def _check(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        shown = ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value
        flag = "--image-size" if name == "image_px" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} must be {what}, not {shown}")
