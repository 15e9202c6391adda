"""Train a student from a selection."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from manifests.errors import UsageError
from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_spec, optional, said_outputs
from prune_toolkit.api.torch_state import torch_as_it_was
from prune_toolkit.images.data_spec import DataSpec
from trainer.cli.shared_options import local_path
from trainer.config import TrainConfig
from trainer.data.task import open_task, open_validation, tell_validation
from trainer.loop.budget import MatchTime, asked_seconds, training_seconds
from trainer.loop.distributed import Ranks
from trainer.loop.finished_run import Run, load_student
from trainer.loop.recipes import resolve
from trainer.loop.training import Machine, train
from trainer.models.images_said import ImagesSaid
from trainer.models.named_by_data import is_own
from trainer.teachers.teacher_spec import live_spec

__all__ = ["Run", "TrainOptions", "load_student", "train_student"]


class TrainOptions(TypedDict, total=False):
    """Other options of train-student, by their names there; defaults come from recipe, loss or selection."""

    image_size: int
    policy: str
    augment: str
    flip: bool
    pad: int
    scale_min: float
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    dot: float
    weight_decay: float
    schedule: str
    milestones: Sequence[float]
    gamma: float
    warmup_epochs: float
    unsure_below: float
    unsure_smoothing: float
    label_schedule: str
    hard_smoothing: float
    hard_cutmix: float
    mixup: float
    cutmix: float
    mix_prob: float
    dynamic: str
    keep: float
    prune_ratio: float
    anneal: float
    groups: int
    window: float
    record_dynamics: bool
    record_grand: int
    record_kl: bool
    loss: str
    kd_weight: float | str
    ce_weight: float
    temperature: float | str
    kd_warmup_epochs: float
    loss_options: Mapping[str, float]
    revise: float
    revise_scope: str
    label_smoothing: float
    precision: str
    channels_last: bool
    tf32: bool
    compile: bool
    seed: int
    eval_every: int
    keep_epochs: Sequence[int]


_FIELDS = {"image_size": "image_px", "pad": "pad_px", "revise": "revise_eta"}
"""Options with another name in the configuration."""


def train_student(
    manifest: Manifest | Place = "selection",
    *,
    student: str | None = None,
    val: Place | DataSpec | None = None,
    val_split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    class_map: Place | None = None,
    weights: Place | None = None,
    teacher: str | None = None,
    checkpoint: Place | None = None,
    checkpoint_key: str | None = None,
    mean: float | str | Sequence[float | str] | None = None,
    std: float | str | Sequence[float | str] | None = None,
    interpolation: str | None = None,
    resize_size: int | None = None,
    outputs: Place | Sequence[str] | None = None,
    probabilities: bool = False,
    output: str | int | None = None,
    recipe: str = "auto",
    epochs: int | None = None,
    steps: int | None = None,
    match_time: Run | Place | None = None,
    device: str = "auto",
    loader: str = "auto",
    workers: int | None = None,
    out: Place = "run",
    fresh: bool = False,
    **options: Unpack[TrainOptions],
) -> Run:
    """Train a student from a selection with the teacher's labels stored in it; like `train-student`.

    student: a spec, such as "torchvision/resnet18"; the default depends on the recipe. val: validation images. mean,
    std, interpolation, resize_size: what is said of a live teacher's images. options:
    every other option of `train-student --help`, by its name: loss="ce", temperature=4, lr=0.05, policy="replay", ...
    """
    if unknown := sorted(set(options) - set(TrainOptions.__annotations__)):
        near = difflib.get_close_matches(unknown[0], TrainOptions.__annotations__, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"train_student() got an unexpected keyword argument {unknown[0]!r}{meant}")
    said = ImagesSaid.of(mean=mean, std=std, interpolation=interpolation, resize_size=resize_size)
    returns = said_outputs(outputs, output, probabilities=probabilities)
    teacher_spec = live_spec(teacher, optional(checkpoint), checkpoint_key, said, **returns)
    path = local_path(out)
    length, match_run = _length(epochs, steps, match_time, None if fresh else path)
    task = open_task(manifest if isinstance(manifest, Manifest) else local_path(manifest))
    flags: dict[str, Any] = {_FIELDS.get(name, name): value for name, value in options.items()}
    if "milestones" in flags:
        flags["milestones"] = tuple(float(epoch) for epoch in flags["milestones"])
    if "keep_epochs" in flags:
        flags["keep_epochs"] = tuple(flags["keep_epochs"])
    flags |= {"student": student, "teacher": teacher, "teacher_images": said.asdict() or None}
    flags |= {"weights": None if weights is None else str(weights)}
    given = task.loss_values(flags)
    ranks = Ranks.from_environment()

    def configure(**length: float | None) -> TrainConfig:
        return resolve(given | length, recipe=recipe, stored=task.stored, world_size=ranks.world_size)

    spec = data_spec(val, val_split, classes, label)
    config = configure(**length)
    validation = None if spec is None else open_validation(spec.data, spec, task.class_names, optional(class_map))
    if validation is not None and ranks.is_main:
        tell_validation(task, validation)
    seconds = length.get("match_s")
    with torch_as_it_was():
        report = train(
            task,
            config,
            validation=validation,
            out=path,
            machine=Machine(device=device, loader=loader, workers=workers),
            fresh=fresh,
            teacher_spec=teacher_spec,
            match=None
            if seconds is None or match_run is None
            else MatchTime(
                run=match_run, seconds=seconds, configure=lambda steps: configure(match_s=seconds, steps=steps)
            ),
        )
    named = None if is_own(config.student) or config.student.endswith(".safetensors") else config.student
    return Run(path=path, report=report, named=named)


def _length(
    epochs: int | None, steps: int | None, match_time: Run | Place | None, out: Any
) -> tuple[dict[str, Any], str | None]:
    """Return the one length that was given, and the run whose time is matched; UsageError for two lengths."""
    lengths = {"epochs": epochs, "steps": steps, "match_time": match_time}
    asked = {name: value for name, value in lengths.items() if value is not None}
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} contradict each other", hint="give one of them")
    if match_time is None:
        return asked, None
    other = match_time.path if isinstance(match_time, Run) else local_path(match_time)
    return {"match_s": training_seconds(other) if out is None else asked_seconds(other, out)}, str(other)
