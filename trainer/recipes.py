"""What a run computes: the typed configuration, checked once, and the published recipes to start from."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from manifests.errors import UsageError
from manifests.registry import Registry
from trainer.dynamic import check_dynamic, dynamic_values, epoch_samples
from trainer.losses import LOSSES
from trainer.losses.settings import check_loss, published_values
from trainer.models.info import SMALL_PX
from trainer.order import BatchPlan, batch_plan
from trainer.schedules import SCHEDULES
from trainer.training_views import Stored, choose_policy, view_recipe

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("fp32", "bf16", "fp16")


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
    """Passes over the samples of the beton; under `steps` the number of them begun."""
    steps: int | None = None
    """Optimiser steps whatever the number of samples; None is a budget of whole epochs."""
    match_s: float | None = None
    """Training time of the run that `steps` were measured to match."""
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
    """kd, dkd, lskd, lskd-dkd, dist or ce."""
    kd_weight: float = 0.9
    """alpha of the loss; times kd_weight_i of the sample."""
    ce_weight: float | None = None
    """Weight of the cross-entropy term; None is what the KD term leaves, 1 - kd_weight * kd_weight_i."""
    temperature: float = 4.0
    """T of the loss."""
    kd_warmup_epochs: float = 0.0
    """Epochs over which the KD term rises linearly to its weight."""
    loss_options: Mapping[str, float] = field(default_factory=dict)
    """The loss's own parameters, all of them."""
    revise_eta: float | None = None
    """Labels are revised with this eta in (0, 1); None leaves them."""
    revise_scope: str = "all"
    """Which labels are revised: wrong (the teacher's top-1 is another class) or all."""
    label_smoothing: float = 0.0
    """Smoothing of the cross-entropy term."""
    policy: str | None
    """What a view is taught with: replay, mean, single or online; None under a loss that looks at no targets."""
    teacher: str | None = None
    """Spec of the live teacher of policy online."""
    teacher_weights: str | None = None
    """sha256 of its weights."""
    augment: str
    """pad_crop_flip, resized_crop_flip, or none (the evaluation view); under replay the recipe that was scored."""
    flip: bool = True
    """Whether views are mirrored at random."""
    pad_px: int | None = None
    """Largest shift of pad_crop_flip views; None is an eighth of the side."""
    scale_min: float = 0.08
    """Smallest share of the image's area that a resized_crop_flip view shows."""
    dynamic: str | None = None
    """infobatch or rs2: what is shown is chosen anew each epoch; None is everything."""
    keep: float | None = None
    """Share of the samples that an epoch of rs2 shows."""
    prune_ratio: float | None = None
    """Probability with which infobatch drops a sample whose last loss is below the mean."""
    anneal: float | None = None
    """Share of the epochs, the last ones, in which infobatch shows everything."""
    record_dynamics: bool = False
    """Whether probability, margin, correctness and EL2N of every sample are written each epoch."""
    record_grand: int = 0
    """Epochs, the first ones, at whose end the norm of each sample's gradient is recorded too."""
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
    """Seed of the streams init, order, views, dropout and prune."""

    def __post_init__(self) -> None:
        """Refuse values no run can have, naming the flag."""
        _one_of("--loss", self.loss, LOSSES)
        _one_of("--schedule", self.schedule, SCHEDULES)
        _one_of("--optimizer", self.optimizer, OPTIMIZERS)
        _one_of("--precision", self.precision, PRECISIONS)
        for flag in ("epochs", "batch_size", "image_px", "eval_every"):
            _check(getattr(self, flag) >= 1, flag, getattr(self, flag), "at least 1")
        for flag in ("lr", "temperature", "gamma"):
            value = getattr(self, flag)
            _check(math.isfinite(value) and value > 0, flag, value, "above 0")
        for flag in ("weight_decay", "warmup_epochs", "seed"):
            value = getattr(self, flag)
            _check(math.isfinite(value) and value >= 0, flag, value, "0 or more")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        # Before its trial a run that matches a time has no length.
        is_open = self.match_s is not None and self.steps is None
        shorter = is_open or self.warmup_epochs < self.epochs
        _check(shorter, "warmup_epochs", self.warmup_epochs, f"below --epochs {self.epochs}")
        ordered = tuple(sorted(self.milestones))
        _check(ordered == self.milestones, "milestones", self.milestones, "in increasing order")
        _check(0 < self.scale_min <= 1, "scale_min", self.scale_min, "in (0, 1]")
        _check(self.pad_px is None or self.pad_px >= 0, "pad", self.pad_px, "0 or more")
        # What a loss needs may be a share of the run: a run of no length is named first.
        check_loss(self)
        check_dynamic(vars(self))
        _check(self.record_grand >= 0, "record_grand", self.record_grand, "0 or more")
        if self.nesterov and self.momentum == 0:
            raise UsageError("--nesterov needs a momentum above 0", hint="give --momentum 0.9 or --no-nesterov")
        if self.schedule == "step" and not self.milestones:
            raise UsageError("--schedule step needs milestones", hint="for example --milestones 30,60,90")

    def plan(self, count: int, world_size: int) -> BatchPlan:
        """How an epoch over `count` samples is cut into batches; UsageError when ranks cannot share them."""
        return batch_plan(epoch_samples(count, self.keep), self.batch_size, world_size)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run; infobatch takes fewer."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

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


def resolve(flags: Mapping[str, Any], *, recipe: str, stored: Stored, world_size: int = 1) -> TrainConfig:
    """Lay the flags that were given (not None) over a recipe; the result is complete and checked.

    recipe may be `auto`. Milestones and warm-up keep their fraction of the run when only its length is given, in epochs
    or steps.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in ("policy", "augment"):
        if given.get(name) == "auto":
            del given[name]
    unknown = set(given) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise TypeError(f"no such configuration value: {', '.join(sorted(unknown))}")
    side_px = given.setdefault("image_px", stored.image_px)
    name = ("cifar" if side_px <= SMALL_PX else "imagenet") if recipe == "auto" else recipe
    values = RECIPES[name] | {"recipe": name} | given | dynamic_values(given)
    length = values["epochs"]
    if "steps" in given:
        length = _length(given, values["batch_size"], epoch_samples(stored.count, values.get("keep")), world_size)
        values["epochs"] = math.ceil(length)
    scale = length / RECIPES[name]["epochs"]
    if "milestones" not in given:
        values["milestones"] = tuple(milestone * scale for milestone in values.get("milestones", ()))
    if "warmup_epochs" not in given:
        values["warmup_epochs"] = values.get("warmup_epochs", 0.0) * scale
    elif "steps" in given:
        match_s, of = given.get("match_s"), f"of --steps {given['steps']}"
        of = of if match_s is None else f"that fit into the {match_s:.4g} s of --match-time"
        what = f"below the {length:.4g} epochs {of}"
        _check(given["warmup_epochs"] < length, "warmup_epochs", given["warmup_epochs"], what)
    values["record_dynamics"] = bool(values.get("record_dynamics") or values.get("record_grand"))
    policy = _policy(given, values.get("loss", "kd"), stored)
    values |= published_values(given, epochs=length)
    views = view_recipe(
        stored,
        policy=policy,
        image_px=side_px,
        augment=given.get("augment"),
        pad_px=given.get("pad_px"),
        scale_min=given.get("scale_min"),
        flip=given.get("flip", RECIPES[name].get("flip") if stored.scored is None else None),
    )
    shown = {"augment": views.name, "pad_px": views.pad_px, "scale_min": views.scale_min, "flip": views.flip}
    return TrainConfig(**values | shown | {"policy": policy})


def _length(given: Mapping[str, Any], batch_size: int, count: int, world_size: int) -> float:
    """The epochs, not always whole, of a budget of steps."""
    if "epochs" in given:
        raise UsageError("--steps and --epochs contradict each other", hint="give one of them")
    _check(given["steps"] >= 1, "steps", given["steps"], "at least 1")
    _check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    return float(given["steps"] / batch_plan(count, batch_size, world_size).steps_per_epoch)


def _policy(given: Mapping[str, Any], loss: str, stored: Stored) -> str | None:
    """The policy, which a live teacher sets; None under a loss that looks at no targets."""
    _one_of("--loss", loss, LOSSES)
    asked, teacher = given.get("policy"), given.get("teacher")
    if not LOSSES[loss].needs_targets:
        for flag, value in (("--teacher", teacher), ("--policy", asked)):
            if value is not None:
                raise UsageError(
                    f"{flag} {value} and --loss {loss} contradict each other",
                    hint=f"--loss {loss} learns from the labels alone; take --loss kd",
                )
        return None
    if teacher is not None and asked not in (None, "online"):
        raise UsageError(
            f"--teacher and --policy {asked} contradict each other: a live teacher labels what is shown",
            hint="leave one of them out",
        )
    if asked == "online" and teacher is None:
        raise UsageError("--policy online needs a live teacher", hint="name it: --teacher SPEC --checkpoint FILE")
    return "online" if teacher is not None else choose_policy(stored, asked, augment=given.get("augment"))


def _one_of(flag: str, value: str, known: Any) -> None:
    if value not in known:
        raise UsageError(f"{flag} {value} is not known", hint=f"known: {', '.join(known)}")


def _check(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        shown = ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value
        flag = "--image-size" if name == "image_px" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} must be {what}, not {shown}")
