"""`prune export-model`."""

from pathlib import Path

import click

from manifests.base.progress import format_bytes
from manifests.errors import UsageError
from prune_toolkit.cli.options import FOLDER, DataOptions, data_options, json_option, typed, workers_option
from trainer.cli.console import echo_json

NAMES = ("onnx", "torchscript", "torch-export", "timm", "hf")


@click.command(name="export-model")
@click.argument("model", type=FOLDER)
@click.option("--to", type=click.Choice(NAMES), required=True, help="Which library is to load it.")
@click.option(
    "--out",
    "-o",
    type=FOLDER,
    metavar="OUT",
    help="File, or folder for timm and hf [default: student.onnx, student.torchscript.pt, student.pt2, student-timm, "
    "student-hf].",
)
@click.option(
    "--with-normalisation",
    "--with-normalization",
    "with_normalisation",
    is_flag=True,
    help="The network takes uint8 images and normalises them itself; without, it takes normalised ones.",
)
@click.option("--student", metavar="module:callable", help="The network, if it is of your own code.")
@data_options
@workers_option
@json_option
def command(
    model: Path,
    to: str,
    out: Path | None,
    with_normalisation: bool,
    student: str | None,
    images: DataOptions,
    workers: int,
    as_json: bool,
) -> None:
    """Write a trained student as a file or folder that other libraries load.

    MODEL is the folder of a run, or a file that train-student wrote. What was written is loaded again by the other
    library, and its logits are compared with the student's on 256 images: of --data, else of noise. If they differ,
    nothing is written.

    \b
    prune export-model run --to onnx
    prune export-model run --to hf -o student-hf --data photos
    """
    from prune_toolkit.images.readers import images_to_evaluate
    from prune_toolkit.model_export.check import images_of, noise_images
    from prune_toolkit.model_export.export_model import export_student, format_of
    from prune_toolkit.model_export.exportable import Exportable
    from trainer.loop.finished_run import load_student

    form = format_of(to, with_normalisation=with_normalisation)
    spec = images.spec()
    if spec is None and (unused := typed() & {"split", "classes", "label", "configuration", "list_file"}):
        raise UsageError(f"--{min(unused)} needs --data: it says how to read the images")
    exportable = Exportable.of(load_student(model, student=student), with_normalisation=with_normalisation)
    shown = (
        noise_images(exportable.image_px) if spec is None else images_of(images_to_evaluate(spec), exportable, workers)
    )
    exported = export_student(exportable, form, out or Path(form.default), shown)
    if as_json:
        echo_json(exported.as_json())
        return
    takes = exported.facts["input"]
    names = exported.facts["class_names"]
    classes = "" if names is None else f", {len(names):,} classes"
    path = f"{exported.path}/" if form.is_folder else str(exported.path)
    click.echo(
        f"{path}: {exported.facts['model_spec']}{classes}, {format_bytes(exported.bytes)}, for {form.what}; takes "
        f"{takes['dtype']} (n, 3, {exportable.image_px}, {exportable.image_px}), {takes['values']}"
    )
    apart, on = exported.difference, "noise" if spec is None else spec.data
    click.echo(
        f"checked on {apart.images:,} images ({on}) against the module: logits differ by at most {apart.largest:.2g}, "
        f"the largest is {apart.largest_logit:.3g}"
    )
