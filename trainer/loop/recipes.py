"""From flags to the configuration of a run, and the published recipes that it starts from."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from manifests.base.progress import format_bytes
from manifests.base.registry import Registry
from manifests.errors import UsageError
from trainer.config import TrainConfig, check_name, check_value
from trainer.data.order import batch_plan, epoch_samples
from trainer.data.policies import choose_policy, training_recipe
from trainer.data.stored import StoredLabels
from trainer.loop.dynamic import dynamic_values
from trainer.loop.label_phases import check_phases, phase_values
from trainer.loop.mixing import MIXES, check_mixing, mix_values
from trainer.loop.schedules import SCHEDULES
from trainer.losses import LOSSES
from trainer.losses.annealing import annealed_values, check_annealing
from trainer.losses.settings import published_values, unsure_values
from trainer.models.info import SMALL_PX

MAX_BATCH_BYTES = 4 << 30
"""Of the images of a training step in float32, on one device, if their size is not typed."""
RECIPES: Registry[dict[str, Any]] = Registry("recipe")
for _name, _values in {
    "demo": {
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
    "cifar": {
        "student": "resnet8x4",
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (150.0, 180.0, 210.0),
    },
    "imagenet": {
        "student": "torchvision/resnet18",
        "epochs": 100,
        "batch_size": 256,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (30.0, 60.0, 90.0),
    },
}.items():
    RECIPES.add(_name, _values, module=__name__)


def resolve(flags: Mapping[str, Any], *, recipe: str, stored: StoredLabels, world_size: int = 1) -> TrainConfig:
    """Lay the flags that were given (not None) over a recipe; the result is complete and checked.

    recipe may be `auto`. Milestones and warm-up keep their fraction of the run if only its length is given, in epochs
    or steps.
    """
    auto = (("policy", "auto"), ("augment", "auto"))
    given = {name: value for name, value in flags.items() if value is not None and (name, value) not in auto}
    if unknown := set(given) - {field.name for field in fields(TrainConfig)}:
        raise TypeError(f"no such configuration value: {', '.join(sorted(unknown))}")
    is_typed, side_px = "image_px" in given, given.setdefault("image_px", stored.image_px)
    name = ("cifar" if side_px <= SMALL_PX else "imagenet") if recipe == "auto" else recipe
    values = RECIPES[name] | {"recipe": name} | given | dynamic_values(given)
    if not is_typed:
        _check_batch_bytes(values["batch_size"] // world_size, side_px)
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
        check_value(given["warmup_epochs"] < length, "warmup_epochs", given["warmup_epochs"], what)
    check_name("--schedule", values["schedule"], SCHEDULES)
    values["dot"] = values.get("dot") or None
    values["record_dynamics"] = any(values.get(f"record_{what}") for what in ("dynamics", "grand", "kl"))
    policy = _policy(given, values.get("loss", "kd"), stored)
    values |= published_values(given, epochs=length)
    values |= annealed_values(values)
    values |= unsure_values(values)
    values |= phase_values(given, values["epochs"])
    values |= dict.fromkeys((*MIXES, "mix_prob")) | mix_values(given)
    views = training_recipe(
        stored,
        policy=policy,
        image_px=side_px,
        augment=given.get("augment"),
        pad_px=given.get("pad_px"),
        scale_min=given.get("scale_min"),
        flip=given.get("flip", RECIPES[name].get("flip") if stored.scored is None else None),
    )
    shown = {"augment": views.name, "pad_px": views.pad_px, "scale_min": views.scale_min, "flip": views.flip}
    config = TrainConfig(**values | shown | {"policy": policy})
    check_mixing(config)
    check_phases(config)
    check_annealing(config)
    return config


def _check_batch_bytes(batch_size: int, side_px: int) -> None:
    """Raise UsageError for images so large that a batch does not fit, if a manifest says so and nobody typed it."""
    size_bytes = batch_size * 12 * side_px**2
    if size_bytes > MAX_BATCH_BYTES:
        raise UsageError(
            f"{batch_size} images of {side_px} px, the size that the manifest says, take {format_bytes(size_bytes)}",
            hint=f"take a smaller --batch-size, or confirm the size with --image-size {side_px}",
        )


def _length(given: Mapping[str, Any], batch_size: int, count: int, world_size: int) -> float:
    """Return the epochs, not always whole, of a budget of steps."""
    if "epochs" in given:
        raise UsageError("--steps and --epochs contradict each other", hint="give one of them")
    check_value(given["steps"] >= 1, "steps", given["steps"], "at least 1")
    check_value(batch_size >= 1, "batch_size", batch_size, "at least 1")
    return float(given["steps"] / batch_plan(count, batch_size, world_size).steps_per_epoch)


def _policy(given: Mapping[str, Any], loss: str, stored: StoredLabels) -> str | None:
    """Return the policy, online with a live teacher; None if the loss uses no targets."""
    check_name("--loss", loss, LOSSES)
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
            f"--teacher and --policy {asked} contradict each other: a live teacher labels the views itself",
            hint="leave one of them out",
        )
    if asked == "online" and teacher is None:
        raise UsageError("--policy online needs a live teacher", hint="name it: --teacher SPEC --checkpoint FILE")
    return "online" if teacher is not None else choose_policy(stored, asked, augment=given.get("augment"))
