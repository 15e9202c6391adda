"""Use a trained network: measure it, and write it for other libraries."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from manifests.format.header import Preprocessing
from manifests.manifest import Manifest
from prune_toolkit.api.arguments import Place, data_spec, said_outputs, teacher_spec, threads
from prune_toolkit.api.torch_state import torch_as_it_was
from prune_toolkit.evaluation.evaluate import EvaluationConfig
from prune_toolkit.evaluation.evaluate import evaluate as evaluate_on
from prune_toolkit.evaluation.model import named_model
from prune_toolkit.evaluation.result import Evaluation
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.readers import ImagesAtHand, images_to_evaluate
from prune_toolkit.indexing.reading import tell_reading
from prune_toolkit.model_export.check import images_of, noise_images
from prune_toolkit.model_export.export_model import ExportedModel, export_student, format_of
from prune_toolkit.model_export.exportable import Exportable
from trainer.cli.shared_options import local_path
from trainer.loop.finished_run import Run, load_student
from trainer.models.images_said import ImagesSaid
from trainer.models.trained_student import TrainedStudent
from trainer.teachers.teacher import load_teacher


def evaluate(
    model: str | Path | Run | nn.Module,
    data: Manifest | DataSpec | Place,
    *,
    preprocessing: Preprocessing | None = None,
    checkpoint: Place | None = None,
    checkpoint_key: str | None = None,
    image_size: int | None = None,
    mean: float | str | Sequence[float | str] | None = None,
    std: float | str | Sequence[float | str] | None = None,
    interpolation: str | None = None,
    resize_size: int | None = None,
    outputs: Place | Sequence[str] | None = None,
    probabilities: bool = False,
    output: str | int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    loader: str = "auto",
    random_weights: bool = False,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    limit: int | None = None,
    out: Place | None = None,
    per_class: Place | None = None,
    confusion: Place | None = None,
    strict: bool = False,
    workers: int | None = None,
) -> Evaluation:
    """Measure a network on labelled images; like `prune eval`.

    model: a spec, a file or run of train-student, or an nn.Module that takes normalised (n, 3, S, S) images and returns
    logits (n, classes); preprocessing is required for a module, except for students of this toolkit. out, per_class,
    confusion: CSV files to write.
    """
    config = EvaluationConfig(
        batch_size=batch_size,
        workers=threads(workers),
        loader=loader,
        limit=limit,
        predictions=_file(out),
        classes=_file(per_class),
        confusion=_file(confusion),
    )
    images = images_to_evaluate(data if isinstance(data, Manifest) else data_spec(data, split, classes, label))
    if images.index is None:
        tell_reading(images.source, strict=strict)
    place = model.path if isinstance(model, Run) else model
    spec = teacher_spec(
        place if isinstance(place, nn.Module) else named_model(str(place)),
        preprocessing,
        checkpoint,
        checkpoint_key,
        image_size,
        ImagesSaid.of(mean=mean, std=std, interpolation=interpolation, resize_size=resize_size),
        said_outputs(outputs, output, probabilities=probabilities),
        random_weights=random_weights,
    )
    with torch_as_it_was():
        loaded = load_teacher(spec, images.class_names, device=device, dtype=dtype)
        return evaluate_on(loaded, images, config)


def export_model(
    model: str | Path | Run | TrainedStudent,
    to: str,
    *,
    out: Place | None = None,
    with_normalisation: bool = False,
    student: str | None = None,
    data: Manifest | DataSpec | Place | None = None,
    split: str | None = None,
    classes: Place | None = None,
    label: str | None = None,
    workers: int | None = None,
) -> ExportedModel:
    """Write a trained student for other libraries, and check it; like `prune export-model`.

    model: a file or run of train-student, or what `load_student` returned. to: onnx, torchscript, torch-export, timm or
    hf. student: the network, where it is of your own code. data: the images to check on, in place of noise.
    """
    form = format_of(to, with_normalisation=with_normalisation)
    if isinstance(model, TrainedStudent):
        trained = model
    else:
        trained = load_student(model.path if isinstance(model, Run) else model, student=student)
    exportable = Exportable.of(trained, with_normalisation=with_normalisation)
    if data is None:
        shown = noise_images(exportable.image_px)
    else:
        found = (
            ImagesAtHand.of_index(data)
            if isinstance(data, Manifest)
            else images_to_evaluate(data_spec(data, split, classes, label))
        )
        shown = images_of(found, exportable, threads(workers))
    return export_student(exportable, form, local_path(out or form.default), shown)


def _file(path: Place | None) -> Path | None:
    return None if path is None else local_path(path)
