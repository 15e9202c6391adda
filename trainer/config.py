"""The configuration of train-student, typed, with its ranges checked at construction."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.base.layout import MAX_IMAGE_PX
from manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything except the data that a student's weights depend on; every field is a flag of train-student."""

    recipe: str
    """The recipe the other values started from."""
    student: str
    """Model spec: a CIFAR-family name, torchvision/NAME, timm/NAME, module:callable, a .safetensors file."""
    weights: str | None = None
    """File with the weights to start from."""
    image_px: int
    """Side of the square the student sees, in training and evaluation."""
    epochs: int
    """Passes over the samples of the beton; with `steps`, the number of passes that are started."""
    steps: int | None = None
    """Number of optimiser steps, whatever the number of samples; None means whole epochs."""
    match_s: float | None = None
    """Training time in seconds that `steps` was measured to match."""
    batch_size: int
    """Samples per optimiser step, over all ranks."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    lr: float
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    dot: float | None = None
    """delta of DOT: momentum - delta for the cross-entropy's gradient, momentum + delta for the KD term's."""
    weight_decay: float
    """L2 penalty (sgd) or decoupled decay (adamw), on all parameters."""
    schedule: str
    """cosine, step or constant."""
    milestones: tuple[float, ...] = ()
    """Epochs at which `step` multiplies the rate by gamma."""
    gamma: float = 0.1
    """Factor by which the schedule `step` multiplies the rate."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    loss: str = "kd"
    """kd, dkd, lskd, lskd-dkd, dist or ce."""
    kd_weight: float = 0.9
    """alpha of the loss; multiplied by the sample's kd_weight_i."""
    ce_weight: float | None = None
    """Weight of the cross-entropy term; None means 1 - kd_weight * kd_weight_i."""
    temperature: float = 4.0
    """T of the loss."""
    annealed: Mapping[str, Any] | None = None
    """temperature or kd_weight -> {to, shape}, if they change over the run: their value there is that of epoch 1."""
    kd_warmup_epochs: float = 0.0
    """Epochs over which the KD term rises linearly to its weight."""
    loss_options: Mapping[str, float] = field(default_factory=dict)
    """All parameters that only this loss has."""
    revise_eta: float | None = None
    """eta in (0, 1) with which labels are revised; None leaves them as they are."""
    revise_scope: str = "all"
    """Labels that are revised: wrong (the teacher's top-1 is another class) or all."""
    unsure_below: float | None = None
    """Labels whose largest probability at T = 1 is below this are replaced by softened hard ones; None keeps all."""
    unsure_smoothing: float | None = None
    """Smoothing of these hard labels."""
    label_smoothing: float = 0.0
    """Smoothing of the cross-entropy term."""
    policy: str | None
    """Source of a view's target: replay, mean, single or online; None if the loss uses no targets."""
    teacher: str | None = None
    """Spec of the live teacher for the policy online."""
    teacher_weights: str | None = None
    """sha256 of its weights."""
    teacher_images: Mapping[str, Any] | None = None
    """What is said of its images, by flags or by the module itself: mean, std, interpolation, resize_px."""
    teacher_outputs: Mapping[str, Any] | None = None
    """How its outputs are read, in the fields of a header's teacher, if somebody said so."""
    augment: str
    """pad_crop_flip, resized_crop_flip, or none (the evaluation view); with replay, the recipe that was scored."""
    flip: bool = True
    """Mirror views at random."""
    pad_px: int | None = None
    """Largest shift of pad_crop_flip views; None means an eighth of the side."""
    scale_min: float = 0.08
    """Smallest share of the image's area that a resized_crop_flip view shows."""
    label_schedule: tuple[tuple[str, int], ...] | None = None
    """(soft or hard, epochs) of each phase of the run; None means soft labels throughout, as the loss says."""
    hard_smoothing: float | None = None
    """Label smoothing in a hard phase."""
    hard_cutmix: float | None = None
    """alpha of cutmix in a hard phase; 0 does not mix."""
    mixup: float | None = None
    """alpha of mixup: lambda ~ Beta(alpha, alpha); None does not blend images."""
    cutmix: float | None = None
    """alpha of cutmix, likewise; with both, a coin decides for each batch."""
    mix_prob: float | None = None
    """Probability with which a batch is mixed; None without mixing."""
    dynamic: str | None = None
    """infobatch, rs2 or seta, which choose the samples of each epoch; None shows all samples."""
    keep: float | None = None
    """Share of the samples that an epoch shows under rs2, or draws under seta."""
    prune_ratio: float | None = None
    """Probability with which infobatch drops a sample whose last loss is below the mean."""
    anneal: float | None = None
    """Share of the epochs, at the end, in which infobatch shows all samples, and seta all that are drawn."""
    groups: int | None = None
    """Number of groups of similar loss under seta."""
    window: float | None = None
    """Share of the groups that an epoch of seta shows."""
    record_dynamics: bool = False
    """Record probability, margin, correctness and EL2N of every sample in each epoch."""
    record_grand: int = 0
    """Number of epochs, from the first, after which the norm of each sample's gradient is recorded too."""
    record_kl: bool = False
    """Record how far the prediction of every sample moved since the epoch before."""
    keep_epochs: tuple[int, ...] = ()
    """Epochs, counted from 1, after which the student is kept in a file of its own."""
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
    """Seed of the streams init, order, views, dropout, prune and mix."""

    def __post_init__(self) -> None:
        """Raise UsageError, naming the flag, for a value out of range; `resolve` checks the names of methods."""
        check_name("--optimizer", self.optimizer, ("sgd", "adamw"))
        check_name("--precision", self.precision, ("fp32", "bf16", "fp16"))
        check_name("--revise-scope", self.revise_scope, ("wrong", "all"))
        for names, is_valid, what in _RANGES:
            for name in names:
                check_value(is_valid(getattr(self, name)), name, getattr(self, name), what)
        # A run that matches a time has no length before its trial.
        is_open = self.match_s is not None and self.steps is None
        shorter = is_open or self.warmup_epochs < self.epochs
        check_value(shorter, "warmup_epochs", self.warmup_epochs, f"below --epochs {self.epochs}")
        ordered = tuple(sorted(self.milestones))
        check_value(ordered == self.milestones, "milestones", self.milestones, "in increasing order")
        check_value(_are_epochs(self.keep_epochs), "keep_epochs", self.keep_epochs, "different epochs from 1, in order")
        last = max(self.keep_epochs, default=0)
        check_value(is_open or last <= self.epochs, "keep_epochs", last, f"at most the {self.epochs} epochs of the run")
        # A loss's values may be a share of the run, so a wrong length is reported first.
        self._check_loss()
        self._check_dot()
        if self.nesterov and self.momentum == 0:
            raise UsageError("--nesterov needs a momentum above 0", hint="give --momentum 0.9 or --no-nesterov")
        if self.schedule == "step" and not self.milestones:
            raise UsageError("--schedule step needs milestones", hint="for example --milestones 30,60,90")

    def _check_loss(self) -> None:
        value, is_convex = self.kd_weight, self.ce_weight is None
        check_value(
            value >= 0 and (value <= 1 if is_convex else math.isfinite(value)),
            "kd_weight",
            f"{value:g}",
            "in [0, 1]" if is_convex else "0 or more",
            hint="the cross-entropy gets the rest of 1; give --ce-weight to set both freely" if is_convex else None,
        )
        for name in ("ce_weight", "kd_warmup_epochs"):
            if (weight := getattr(self, name)) is not None:
                check_value(_is_weight(weight), name, f"{weight:g}", "0 or more")
        for option, value in self.loss_options.items():
            if not _is_weight(value):
                raise UsageError(f"--loss-options {option} must be 0 or more, not {value:g}")
        if (eta := self.revise_eta) is not None:
            check_value(0 < eta < 1, "revise_eta", f"{eta:g}", "in (0, 1), or 0 to turn it off")

    def _check_dot(self) -> None:
        if (delta := self.dot) is None:
            return
        if self.optimizer != "sgd":
            raise UsageError(
                f"--dot and --optimizer {self.optimizer} contradict each other: DOT has two momentum buffers of SGD",
                hint="take --optimizer sgd, or leave --dot out",
            )
        low, high = self.momentum - delta, self.momentum + delta
        what = f"above 0, and within [0, 1) if taken from or added to the momentum {self.momentum:g}"
        check_value(delta > 0 and low >= 0 and high < 1, "dot", f"{delta:g}", what, hint="published: 0.075 for 0.9")
        for flag, weight in (("kd", self.kd_weight), ("ce", self.ce_weight)):
            if weight == 0 or self.policy is None:
                reason = f"--loss {self.loss} has none" if self.policy is None else f"--{flag}-weight is 0"
                raise UsageError(
                    f"--dot parts the gradients of a cross-entropy and a KD term, and {reason}", hint="leave --dot out"
                )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimiser steps of the whole run; infobatch takes fewer."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps


def digest(values: Mapping[str, Any]) -> str:
    """Return the hexadecimal sha256 of the canonical JSON of a resolved configuration."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_name(flag: str, value: str, known: Any) -> None:
    """Raise UsageError, naming the flag, if the name is not known."""
    if value not in known:
        raise UsageError(f"{flag} {value} is not known", hint=f"known: {', '.join(known)}")


def check_value(holds: bool, name: str, value: object, what: str, hint: str | None = None) -> None:
    """Raise UsageError, naming the flag and `what` its value must be, unless the condition holds."""
    if not holds:
        shown = ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value
        flag = _OTHER_FLAGS.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{flag} must be {what}, not {shown}", hint=hint)


_OTHER_FLAGS = {"image_px": "--image-size", "pad_px": "--pad", "revise_eta": "--revise"}
"""Flags that are not called like their field."""


def _are_epochs(values: tuple[int, ...]) -> bool:
    return all(before < epoch for before, epoch in zip((0, *values), values, strict=False))


def _is_weight(value: float) -> bool:
    return math.isfinite(value) and value >= 0


_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("epochs", "batch_size", "eval_every"), lambda value: value >= 1, "at least 1"),
    (("image_px",), lambda value: 1 <= value <= MAX_IMAGE_PX, f"from 1 to {MAX_IMAGE_PX}"),
    (("lr", "temperature", "gamma"), lambda value: math.isfinite(value) and value > 0, "above 0"),
    (("weight_decay", "warmup_epochs", "seed", "record_grand"), _is_weight, "0 or more"),
    (("pad_px",), lambda value: value is None or value >= 0, "0 or more"),
    (("momentum", "label_smoothing"), lambda value: 0 <= value < 1, "in [0, 1)"),
    (("scale_min",), lambda value: 0 < value <= 1, "in (0, 1]"),
)
