"""A frozen teacher, for scoring or live during training: uint8 images in, logits of the data's classes out."""

import copy
import platform
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import InputError, UsageError
from manifests.format.header import Compute, Preprocessing
from trainer.models.build import ModelInfo, build_model, output_count, parameter_count
from trainer.models.exported.network import exported_in, suited
from trainer.models.grey import channels_taken
from trainer.models.info import check_preprocessing
from trainer.models.normalise import normalise
from trainer.models.returned import logits_in
from trainer.models.trained_student import TrainedStudent
from trainer.models.weights import bare, weights_sha256
from trainer.teachers.claims import Claim, claim_of
from trainer.teachers.outputs import OutputReading
from trainer.teachers.reading import name_of, output_key_of, reading_of
from trainer.teachers.teacher_images import info_of_module, with_said
from trainer.teachers.teacher_place import place_of_teacher
from trainer.teachers.teacher_spec import TeacherSpec, check_teacher

PROBED_IMAGES = 8
_ANY_COUNT = 1000
"""Outputs of a network that is made before its weights say how many it has."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FeatureLayer(NamedTuple):
    """The linear layer that computes a network's logits; its input is the penultimate features."""

    name: str
    module: torch.nn.Linear

    @property
    def width(self) -> int:
        """Return the number of features per image."""
        return self.module.in_features


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded teacher with everything its logits depend on."""

    module: torch.nn.Module
    info: ModelInfo
    reading: OutputReading
    device: torch.device
    dtype: str
    parameters: int
    weights_sha256: str
    class_names: tuple[str, ...]
    """Names of the classes of its logits: those of the data, or its own."""
    place: dict[str, Any] = field(default_factory=dict)
    """Its files on this machine, for local.json."""
    claim: Claim | None = None
    """Top-1 that is said of the weights."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the evaluation view and normalisation that the teacher expects."""
        return self.info.preprocessing

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C) float32 of uint8 images (n, 3, S, S), on its device, in the class order of the data.

        A grey network is shown their luma.
        """
        return self.reading(self._outputs(images))

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Return the same logits as a call, as an array on the CPU; InputError for outputs that are of another kind."""
        outputs = self._outputs(images)
        self.reading.check(outputs)
        return self.reading(outputs).cpu().numpy()

    @torch.no_grad()
    def check(self, images: torch.Tensor) -> None:
        """Raise InputError if what it returns for images is of another kind than `reading` says."""
        self.reading.check(self._outputs(images))

    def _outputs(self, images: torch.Tensor) -> torch.Tensor:
        normalised = normalise(images, self.preprocessing, torch.float32)
        with torch.autocast(self.device.type, dtype=DTYPES[self.dtype], enabled=self.dtype != "float32"):
            returned = self.module(normalised)
        return self.reading.found(returned)

    @cached_property
    def feature_layer(self) -> FeatureLayer:
        """Return the last linear layer whose output on noise is the network's; raises UsageError if there is none."""
        noise = _noise(2, self.preprocessing, self.device)
        layers = [
            FeatureLayer(name, module)
            for name, module in self.module.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        made: dict[torch.nn.Module, torch.Tensor] = {}

        def keep(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            made[module] = output

        with ExitStack() as hooks, torch.inference_mode():
            for layer in layers:
                hooks.callback(layer.module.register_forward_hook(keep).remove)
            outputs = self.reading.found(self.module(noise))
        for layer in reversed(layers):
            output = made.get(layer.module)
            # nan equals nan here, so a broken network passes; its features are refused later, by their values.
            if output is None or output.shape != outputs.shape:
                continue
            if self.reading.ends_as(output).allclose(outputs, equal_nan=True):
                return layer
        raise UsageError(
            f"teacher {self.info.spec} has no linear layer that computes its {outputs.shape[-1]} outputs, "
            "so it has no penultimate features",
            hint="do without --features and --codec features, or take a teacher whose last operation is a linear layer",
        )

    @torch.inference_mode()
    def logits_and_features(self, images: torch.Tensor) -> tuple[NDArray[np.float32], torch.Tensor]:
        """Return `logits`, and the features (n, D) from the same pass, on the teacher's device."""
        seen: list[torch.Tensor] = []
        layer = self.feature_layer
        hook = layer.module.register_forward_pre_hook(lambda _module, inputs: seen.extend(inputs[:1]))
        try:
            logits = self.logits(images)
        finally:
            hook.remove()
        return logits, seen[-1].float()

    def _other_versions(self) -> dict[str, str]:
        exported = exported_in(self.module)
        return {} if exported is None else dict(exported.versions)

    def compute(self, batch_size: int) -> Compute:
        """Return what the bytes of the logits depend on besides data and weights."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        return Compute(
            device=f"{self.device.type} {name}",
            dtype=self.dtype,  # type: ignore[arg-type]
            batch_size=batch_size,
            threads=torch.get_num_threads(),
            versions={"torch": torch.__version__, "numpy": np.__version__, **self._other_versions()},
        )


def load_teacher(
    spec: TeacherSpec,
    class_names: list[str] | None,
    *,
    device: str = "auto",
    local_rank: int = 0,
    dtype: str | None = None,
    exact: bool = True,
    channels_last: bool = True,
) -> Teacher:
    """Build a teacher for these classes, or copy a module, and find their logits in what it returns.

    class_names None means its own classes, called output 0, output 1, ... if it does not name them.
    dtype None means float16 autocast on CUDA and float32 elsewhere. exact: no TF32 and deterministic kernels on CUDA,
    for the whole process; a live teacher keeps the settings of the student. Raises UsageError for a network that is
    untrained, and InputError if the checkpoint does not fit, if the outputs are no logits, or if the numbers of outputs
    and classes differ and there are no names to match them by.
    """
    check_teacher(spec)
    network, preprocessing = spec.network, spec.preprocessing
    if preprocessing is not None:
        check_preprocessing(preprocessing)
    where = resolve_device(device, local_rank)
    if dtype == "float16" and where.type != "cuda":
        raise UsageError("--dtype float16 needs a CUDA device", hint="use float32 or bfloat16 on a CPU")
    if isinstance(network, str):
        if class_names is None and spec.checkpoint is None and ":" in network and "/" not in network:
            raise UsageError(
                f"it is not known how many classes the teacher {network} has, because the images have no labels",
                hint="name its classes, in the order of its outputs: --classes FILE",
            )
        module, info = build_model(
            network,
            class_count=_ANY_COUNT if class_names is None else len(class_names),
            checkpoint=spec.checkpoint,
            checkpoint_key=spec.checkpoint_key,
            image_px=spec.image_px or (preprocessing.image_px if preprocessing else None),
            images=None if preprocessing else spec.images,
            output_key=output_key_of(spec),
        )
    else:
        module, info = _copied(network, spec)
    info = with_said(info, spec)
    if info.weights != "loaded":
        what = "its classifier is new" if info.weights == "fresh head" else "its weights are random"
        untrained = f"teacher {info.spec} is untrained: {what}"
        if class_names is None:
            raise UsageError(untrained, hint="give its weights with --checkpoint, or class names with --classes FILE")
        if not spec.random_weights:
            raise UsageError(
                untrained, hint="give its weights with --checkpoint; for a trial, prune has --random-weights"
            )
        note(f"warning: {untrained}")
    module.eval().requires_grad_(False)
    exported = exported_in(module)
    digest = weights_sha256(module) if exported is None else exported.sha256
    if exported is not None:
        where, dtype = suited(exported, f"teacher {info.spec}", device=device, where=where, dtype=dtype, exact=exact)
    dtype = dtype or ("float16" if where.type == "cuda" else "float32")
    if exact and where.type == "cuda":
        # Reproducible bytes are worth more here than the last few images/s.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    # The views in an exported graph may suit one layout only.
    layout = torch.channels_last if channels_last and exported is None else torch.contiguous_format
    module = module.to(where, memory_format=layout)  # type: ignore[call-overload]
    values_nK = _answers(module, spec, info.preprocessing, where)
    names = class_names or list(info.class_names or (f"output {output}" for output in range(values_nK.shape[1])))
    reading = reading_of(spec, info, names, values_nK)
    if reading.probabilities == "sigmoid" and dtype != "float32":
        # Between 0.998 and 1, lower precisions hold next to no sigmoids: logits above 7 would all become 17.
        note(f"teacher {info.spec} is run in float32: sigmoids in {dtype} are too coarse to take logits of")
        dtype = "float32"
    return Teacher(
        module=module,
        info=info,
        reading=reading,
        class_names=tuple(names),
        claim=claim_of(spec, info, names),
        device=where,
        dtype=dtype,
        parameters=parameter_count(module) if exported is None else exported.parameters,
        weights_sha256=digest,
        place=place_of_teacher(spec, digest),
    )


def _copied(module: torch.nn.Module, spec: TeacherSpec) -> tuple[torch.nn.Module, ModelInfo]:
    """A copy of a module in float32, so that the module keeps its mode, hooks, device and precision."""
    module = bare(module)
    name = f"{type(module).__module__}:{type(module).__qualname__}"
    if spec.checkpoint is not None:
        raise UsageError(f"the teacher {name} is a module: it has its weights", hint="leave out checkpoint")
    if isinstance(module, TrainedStudent):
        info, module = module.info, module.network
    else:
        info = info_of_module(module, name, spec)
    try:
        module = copy.deepcopy(module).float()
    except RuntimeError as error:
        raise InputError(
            f"the teacher {name} cannot be copied: {str(error).splitlines()[0]}",
            hint="a pass under torch.no_grad() leaves no computed tensors in it; or save its weights, and name its "
            "class and the file: teacher='module:callable', checkpoint=FILE",
        ) from None
    if not isinstance(spec.network, TrainedStudent):
        info = replace(info, preprocessing=channels_taken(module, info.preprocessing))
    return module, info


def _noise(count: int, preprocessing: Preprocessing, where: torch.device) -> torch.Tensor:
    shape = (count, len(preprocessing.mean), preprocessing.image_px, preprocessing.image_px)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(where)


def _answers(
    module: torch.nn.Module, spec: TeacherSpec, preprocessing: Preprocessing, where: torch.device
) -> NDArray[np.float32]:
    """Return the outputs (n, K) for noise; InputError for a network that does not take such images or has none."""
    key, side = output_key_of(spec), preprocessing.image_px
    if isinstance(spec.network, torch.nn.Module):
        output_count(module, side, channels=len(preprocessing.mean), is_teacher=True, output_key=key)
    try:
        with torch.inference_mode():
            returned = module(_noise(PROBED_IMAGES, preprocessing, where))
            return logits_in(returned, f"teacher {name_of(spec)}", key).float().cpu().numpy()
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            f"teacher {name_of(spec)} cannot take {side}x{side} images: {str(error).splitlines()[0]}",
            hint="give the size it was made for with --image-size",
        ) from None


def resolve_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device; `auto` is this rank's CUDA device if there is one, else the CPU."""
    if device == "auto" and torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    try:
        resolved = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        raise UsageError(f"--device {device} is not a device", hint="known: auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: no CUDA device is available here", hint="use --device cpu")
    return resolved


def as_tensor(images_nhwc: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return (n, S, S, 3) uint8 as a channels_last (n, 3, S, S) tensor on a device."""
    return torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).to(device)
