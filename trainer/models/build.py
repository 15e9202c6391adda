"""From a spec to a network: what `--teacher` and `--student` accept.

    resnet8x4                     a built-in network (MODELS), fresh weights
    torchvision/resnet50          fresh weights; torchvision/resnet50:DEFAULT (or :IMAGENET1K_V2) names weights
    timm/resnet18.a1_in1k         its published weights for a teacher without checkpoint, else fresh weights
    hf/microsoft/resnet-50        transformers, from the hub; or a folder that save_pretrained wrote; for a teacher
    package.module:callable       called with num_classes=...; the working directory is searched too
    run/student.safetensors       a network that train-student wrote, with its weights; also the folder of the run
    net.pt, net.pt2, net.onnx     a network exported with its code, for a teacher: TorchScript, torch.export, ONNX

A checkpoint replaces the weights of all forms except those of files.
"""

import importlib
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from manifests.base.progress import note
from manifests.errors import InputError, PruneError, UsageError
from trainer.models import weights as checkpoints
from trainer.models.arguments import arguments_of
from trainer.models.built_in import MODELS
from trainer.models.exported.files import exported_blueprint
from trainer.models.exported.network import exported_in
from trainer.models.grey import channels_taken, evaluating
from trainer.models.images_said import ALL_FLAGS, NOTHING_SAID, ImagesSaid
from trainer.models.info import Blueprint, ModelInfo, Weights, default_preprocessing, rescaled
from trainer.models.named_by_data import own_spec
from trainer.models.returned import logits_in
from trainer.models.spec_files import STUDENT_NAME, kind_of
from trainer.models.spec_names import TIMM_HUB, check_spec, did_you_mean, is_name
from trainer.models.stated import stated_by
from trainer.models.transformers_zoo import transformers_blueprint
from trainer.models.zoos import reason, timm_blueprint, torchvision_blueprint

__all__ = ["MODELS", "ModelInfo", "build_model", "output_count", "parameter_count"]

ZOOS = ("torchvision", "timm")


def build_model(
    spec: str,
    *,
    class_count: int,
    checkpoint: Path | None = None,
    checkpoint_key: str | None = None,
    image_px: int | None = None,
    images: ImagesSaid | None = NOTHING_SAID,
    pretrained: bool = True,
    output_key: str | None = None,
) -> tuple[nn.Module, ModelInfo]:
    """Return the network that `spec` names, on the CPU in training mode, and what is known about it.

    pretrained=True, for a teacher: weights keep their head, and timm names load their published weights.
    pretrained=False, for a student: the network has class_count outputs, so a head of another size is
    replaced by a fresh one, and timm names start from fresh weights.
    checkpoint_key says where in the checkpoint the weights are, if several fit.
    image_px overrides the image size of the weights or of the registry. images: what is said of a teacher's
    images, and is not asked of a module; None: all. output_key: see `output_count`. Raises UsageError for an unknown
    spec, InputError for weights that cannot be loaded, do not fit, or do not classify.
    """
    if class_count < 1 or (image_px is not None and image_px < 1):
        raise UsageError(f"a network needs at least 1 class and 1 pixel, not {class_count} and {image_px}")
    check_spec(spec)
    kind = None if is_name(spec) else kind_of(spec)
    if kind == "run":
        spec, kind = str(Path(spec) / STUDENT_NAME), "safetensors"
        note(f"the student of this run: {spec}")
    if kind is not None and checkpoint is not None:
        raise UsageError(
            f"{spec} has its own weights, so --checkpoint {checkpoint} contradicts it",
            hint="name the architecture instead of the file, or leave --checkpoint out",
        )
    if kind == "safetensors":
        checkpoint = Path(spec)
        given = f"--teacher SPEC --checkpoint {spec}" if pretrained else f"--student SPEC --weights {spec}"
        blueprint = _blueprint_in(checkpoint, given)
    elif kind == "transformers":
        blueprint = transformers_blueprint(spec, pretrained=pretrained)
    elif kind is not None:
        blueprint = exported_blueprint(Path(spec), kind, image_px, pretrained=pretrained)
    else:
        blueprint = _blueprint(spec, image_px, pretrained=pretrained)
    model, info = _built(blueprint, checkpoint, class_count, image_px, images, keep_head=pretrained, key=checkpoint_key)
    if pretrained and (blueprint.foreign or exported_in(model) is not None):
        info = replace(info, preprocessing=channels_taken(model, info.preprocessing))
    if blueprint.foreign or image_px is not None:
        shown = info.preprocessing
        outputs = output_count(
            model, shown.image_px, channels=len(shown.mean), is_teacher=pretrained, output_key=output_key
        )
        if outputs != class_count and not pretrained:
            raise InputError(f"{spec} has {outputs} outputs; {class_count} are needed, one per class")
    return model, info


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters; shared ones count once, buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def output_count(
    model: nn.Module, image_px: int, *, channels: int = 3, is_teacher: bool = False, output_key: str | None = None
) -> int:
    """Return the number of logits for one black image; raises InputError if the network fails or returns no logits.

    is_teacher: logits may be part of what it returns, as logits_in finds them with output_key.
    """
    example = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, channels, image_px, image_px, device=example.device, dtype=example.dtype)
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(image)
    except Exception as error:
        raise InputError(
            f"the network does not take {channels}x{image_px}x{image_px} images: {reason(error)}",
            hint="choose another image size, or a network made for this one",
        ) from error
    logits = logits_in(outputs, f"teacher {type(model).__name__}", output_key) if is_teacher else outputs
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network returns {got} for one image, not logits of shape (1, classes)")
    return logits.shape[1]


def _built(
    blueprint: Blueprint,
    checkpoint: Path | None,
    class_count: int,
    image_px: int | None,
    images: ImagesSaid | None,
    *,
    keep_head: bool,
    key: str | None,
) -> tuple[nn.Module, ModelInfo]:
    spec, names = blueprint.spec, blueprint.class_names
    weights: Weights = "loaded"
    described: ModelInfo | None = None
    state: Mapping[str, Tensor] | None = None
    if checkpoint is not None:
        described, state = checkpoints.find_student_info(checkpoint), checkpoints.read_state(checkpoint)
        names = described.class_names if described else names
    elif blueprint.load is not None:
        model, spec, names = blueprint.load()
        state = None if keep_head else model.state_dict()
    else:
        model = blueprint.make(class_count)
        weights = "loaded" if blueprint.foreign else "random"
    if state is not None:
        origin = spec if checkpoint is None else str(checkpoint)
        model, outputs, weights = _filled(
            blueprint.make, state, class_count, keep_head=keep_head, origin=origin, key=key
        )
        names = names if names is not None and weights == "loaded" and len(names) == outputs else None
    native = described.preprocessing if described else blueprint.native(model)
    stated = None
    if native is None and images is not None and blueprint.foreign and keep_head:
        stated = stated_by(checkpoints.bare(model), spec, images, image_px or blueprint.image_px)
        native = stated.preprocessing if stated else None
    unknown = stated.unknown if stated else () if native or weights == "random" else tuple(ALL_FLAGS)
    if native is None or (weights == "random" and image_px is not None):
        preprocessing = default_preprocessing(image_px or blueprint.image_px)
    else:
        preprocessing = rescaled(native, image_px or native.image_px)
    return model, ModelInfo(
        spec=spec,
        class_names=names,
        preprocessing=preprocessing,
        weights=weights,
        stated=stated.attribute if stated else None,
        unknown=unknown,
    )


def _filled(
    make: Callable[[int], nn.Module],
    state: Mapping[str, Tensor],
    class_count: int,
    *,
    keep_head: bool,
    origin: str,
    key: str | None,
) -> tuple[nn.Module, int, Weights]:
    """Return a network filled with `state`, its number of outputs, and whether its head comes from `state` too."""
    model = make(class_count)
    head = checkpoints.other_head(model, state, class_count, origin=origin, key=key)
    is_fresh = head is not None and not keep_head
    if head is not None and keep_head:
        model, class_count = make(head), head
    checkpoints.load_state(model, state, origin=origin, key=key, without_head=is_fresh)
    return model, class_count, "fresh head" if is_fresh else "loaded"


def _blueprint_in(path: Path, flags: str) -> Blueprint:
    info = checkpoints.read_student_info(path)
    return _blueprint(own_spec(info.spec, path, flags), info.preprocessing.image_px, pretrained=False)


def _blueprint(spec: str, image_px: int | None, *, pretrained: bool) -> Blueprint:
    if spec in MODELS:
        entry = MODELS[spec]
        return Blueprint(spec=spec, make=entry.build, image_px=entry.image_px)
    family, slash, name = spec.partition("/")
    if slash and family == "torchvision":
        return torchvision_blueprint(name, image_px)
    if slash and family == "timm":
        return timm_blueprint(name, image_px, pretrained=pretrained)
    if slash and family == "hf":
        return transformers_blueprint(name, pretrained=pretrained)
    if spec.startswith(TIMM_HUB):
        return timm_blueprint(spec, image_px, pretrained=pretrained)
    module, _, attribute = spec.partition(":")
    return Blueprint(spec=spec, make=lambda classes: _call(module, attribute, classes), foreign=True)


def _call(module_name: str, attribute: str, class_count: int) -> nn.Module:
    spec = f"{module_name}:{attribute}"
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and f"{module_name}.".startswith(f"{missing}."):
                raise UsageError(
                    f"there is no module {missing!r} for the model {spec}",
                    hint=f"run in the folder that holds it, or install it; searched {folder} and sys.path",
                ) from None
            raise InputError(f"importing {module_name} failed: {reason(error)}") from error
        try:
            build = operator.attrgetter(attribute)(module)
        except AttributeError:
            raise UsageError(
                f"module {module_name!r} has no {attribute!r}",
                hint=did_you_mean(attribute, [name for name in vars(module) if not name.startswith("_")]),
            ) from None
        arguments = arguments_of(build, spec, class_count)
        try:
            model = build(**arguments)
        except PruneError:
            raise
        except (Exception, SystemExit) as error:
            how = f"with num_classes={class_count}" if arguments else "without arguments"
            raise InputError(f"{spec} failed when called {how}: {reason(error)}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec} returned {type(model).__name__}, not a torch.nn.Module")
    return model
