"""Options that several commands share, spelled the same everywhere."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.cli.local_path import LOCAL

if TYPE_CHECKING:
    from prune_toolkit.images.data_spec import DataSpec
    from prune_toolkit.quotas.keep import Keep
    from trainer.models.teacher import Teacher

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = LOCAL


class _Manifest(click.ParamType):  # type: ignore[type-arg]
    """A manifest that is only read: the path of a folder, or the text of a URL."""

    name = "manifest"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A URL stays text, all else is a path."""
        text = str(value)
        return text if "://" in text else Path(text)


class _Keep(click.ParamType):  # type: ignore[type-arg]
    """A fraction of the samples to keep."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "Keep":
        """The fraction as it was typed; UsageError unless it is above 0 and at most 1."""
        from prune_toolkit.quotas.keep import Keep

        return value if isinstance(value, Keep) else Keep.parse(str(value))


MANIFEST = _Manifest()
KEEP = _Keep()


def asked_for() -> set[str]:
    """Names of the running command's options that were typed, or are in prune.toml."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}


def echo_next(*words: object) -> None:
    """The command that one may type next, on stdout, each word as a shell takes it."""
    click.echo(f"next: {shlex.join(map(str, words))}")


def echo_train_command(selection: Path, *, has_beton: bool = True, has_labels: bool = True) -> None:
    """The command that makes a student of a selection, or first a beton."""
    if has_beton:
        echo_next("train-student", "--manifest", selection, *(() if has_labels else ("--loss", "ce")))
    else:
        echo_next("prune", "cut", selection, "--data", "DATA")


def typed() -> set[str]:
    """Names of the running command's options that were typed; none where no command is running."""
    context, source = click.get_current_context(silent=True), click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) == source} if context else set()


def data_options(command: F) -> F:
    """--data, --split, --classes, --label: which images, and how to read them."""
    for option in (
        click.option("--label", help="Label column of a Parquet data set, when there are several."),
        click.option("--classes", type=FOLDER, help="Class names in label order: a JSON list, or one name a line."),
        click.option("--split", help="Which split of the data, such as train or test."),
        click.option(
            "--data",
            help="Images: a folder of class folders, Parquet, idx .gz or CIFAR files, a .beton, torchvision:NAME, "
            "demo:digits.",
        ),
    ):
        command = option(command)
    return command


def data_of(options: dict[str, Any]) -> "DataSpec | None":
    """The images that `data_options` name, None where they name none."""
    from prune_toolkit.images.data_spec import DataSpec

    if options["data"] is None:
        return None
    return DataSpec(data=options["data"], split=options["split"], classes=options["classes"], label=options["label"])


def secret_of(options: dict[str, Any]) -> bytes | None:
    """The secret that `secret_option` names, None where it names none; `check_secret` compares it."""
    from manifests.hidden.secret import read_secret

    return None if options["secret"] is None else read_secret(options["secret"])


def teacher_options(command: F) -> F:
    """The teacher and its --checkpoint, and how it runs: --batch-size, --dtype, --device, ...; see `teacher_of`."""
    for option in (
        click.option("--loader", type=click.Choice(["auto", "ffcv", "torch"]), default="auto", show_default=True),
        click.option(
            "--threads", type=click.IntRange(min=1), help="CPU threads of the model [default: PyTorch's choice]."
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float16", "bfloat16"]),
            help="Precision, by autocast [default: float16 on CUDA, float32 elsewhere].",
        ),
        click.option("--batch-size", type=int, default=256, show_default=True, help="Images a forward pass."),
        click.option(
            "--image-size", type=int, metavar="PX", help="Side of the images the teacher sees [default: the teacher's]."
        ),
        click.option("--checkpoint", type=FOLDER, help="Weights of the teacher: safetensors, or a PyTorch state dict."),
        click.option(
            "--teacher", help="resnet32x4, torchvision/NAME:WEIGHTS, timm/NAME, module:callable, or FILE.safetensors."
        ),
    ):
        command = option(command)
    return command


def check_teacher_named(options: dict[str, Any]) -> None:
    """UsageError when `teacher_options` name no teacher; before anything large is read."""
    from manifests.errors import UsageError

    if options["teacher"] is None:
        raise UsageError("which teacher?", hint='--teacher SPEC, or teacher = "SPEC" in prune.toml')


def teacher_of(options: dict[str, Any], class_names: list[str]) -> "Teacher":
    """The teacher that `teacher_options` name, on its device; UsageError when they name none."""
    check_teacher_named(options)
    if options["threads"] is not None:
        import torch

        torch.set_num_threads(options["threads"])
    from trainer.models.teacher import load_teacher

    return load_teacher(
        options["teacher"],
        class_names,
        checkpoint=options["checkpoint"],
        image_px=options["image_size"],
        device=options["device"],
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        dtype=options["dtype"],
    )


def view_options(views: int) -> Callable[[F], F]:
    """Which views are stored, `views` unless told otherwise, and how much of each; see scoring/view_flags.py."""

    def decorate(command: F) -> F:
        for option in (
            click.option(
                "--top-k", type=int, metavar="K", help="Store the K largest logits a view [default: all of them]."
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of the views."),
            click.option(
                "--flip/--no-flip", default=True, show_default=True, help="Mirror half of the augmented views."
            ),
            click.option(
                "--scale-min", type=float, default=0.08, show_default=True, help="Smallest area of a resized crop."
            ),
            click.option("--pad", type=int, metavar="PX", help="Padding of a padded crop [default: an eighth]."),
            click.option(
                "--augment",
                type=click.Choice(["auto", "pad_crop_flip", "resized_crop_flip"]),
                default="auto",
                show_default=True,
                help="How views from 1 on differ from view 0; auto pads small images and crops large ones.",
            ),
            click.option(
                "--views",
                type=int,
                default=views,
                show_default=True,
                metavar="V",
                help="Views of each image: the evaluation view, and V - 1 augmented ones.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def rank_options(command: F) -> F:
    """--rank and --world-size, for sharing the work among processes."""
    for option in (
        click.option("--world-size", type=int, help="Processes that share the parts [default: WORLD_SIZE, or 1]."),
        click.option("--rank", type=int, help="Which of them this is, from 0 [default: RANK, or 0]."),
    ):
        command = option(command)
    return command


jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1, max=64), default=8, show_default=True, help="Files that travel at once."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    show_default="the cores",
    help="Threads that read and decode images.",
)
redistributable_option = click.option(
    "--redistributable/--not-redistributable",
    default=None,
    help="Whether the images may be passed on, recorded in the manifest: where not, prune push never sends any.",
)
secret_option = click.option(
    "--secret", type=FOLDER, metavar="FILE", help="Of a manifest whose keys are hidden: the secret it was pushed with."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
