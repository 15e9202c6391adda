"""Options that several commands share, spelled the same everywhere."""

import os
import shlex
from collections.abc import Callable, Mapping, Set
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from manifests.base.cores import core_count
from manifests.base.layout import MAX_IMAGE_PX
from manifests.errors import UsageError
from trainer.cli.shared_options import IMAGES_SAID, LOCAL

if TYPE_CHECKING:
    from manifests.manifest import Manifest
    from prune_toolkit.images.data_spec import DataSpec
    from prune_toolkit.scoring.view_flags import ViewFlags
    from prune_toolkit.work.part_work import WorkShare
    from trainer.teachers.teacher import Teacher
    from trainer.teachers.teacher_spec import TeacherSpec

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
FOLDER = LOCAL


def manifest_place(value: object) -> Path | str:
    """Return the place of a manifest that is only read: the text of a URL, anything else as a path."""
    text = str(value)
    return text if "://" in text else Path(text)


def options_of(make: Callable[..., Any]) -> list[click.Parameter]:
    """Return the click options declared above a function or a class."""
    options: list[click.Parameter] = getattr(make, "__click_params__", [])
    return options


def made(make: Callable[..., T], values: Mapping[str, Any]) -> T:
    """Call `make` with the values of the options declared above it."""
    return make(**{option.name: values[option.name] for option in options_of(make) if option.name is not None})


def gathered(name: str, make: Callable[..., Any]) -> Callable[[F], F]:
    """Give a command the options declared above `make`, and one argument for them, `name`: the value `make` returns.

    Usually `make` is a frozen dataclass with a field per option. It may have gathered some of its arguments itself. An
    option that the command has as an argument of its own is left out, and its value is that of the argument.
    """

    def decorate(command: F) -> F:
        @wraps(command)
        def called(**values: Any) -> Any:
            theirs = {option.name for option in options_of(make)}
            others = {option: value for option, value in values.items() if option not in theirs}
            return command(**others, **{name: made(make, values)})

        arguments = {option.name for option in options_of(command) if isinstance(option, click.Argument)}
        taken = {spelling for option in options_of(command) for spelling in option.opts}
        called.__click_params__ = [  # type: ignore[attr-defined]
            *options_of(command),
            *(_without(option, taken) for option in options_of(make) if option.name not in arguments),
        ]
        return cast(F, called)

    return decorate


def _without(option: click.Parameter, spellings: Set[str]) -> click.Parameter:
    """Return an option without the spellings that the command has for an option of its own."""
    if not spellings & set(option.opts):
        return option
    option = copy(option)
    option.opts = [spelling for spelling in option.opts if spelling not in spellings]
    return option


def asked_for() -> set[str]:
    """Return the names of the running command's options that were typed or set in prune.toml."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}


def echo_next(*words: object) -> None:
    """Print the command to type next on stdout, each word quoted for a shell."""
    click.echo(f"next: {shlex.join(map(str, words))}")


def echo_train_command(selection: Path, *, has_beton: bool = True, has_labels: bool = True) -> None:
    """Print the command that trains a student on a selection, or the one that first writes its beton."""
    if has_beton:
        echo_next("train-student", "--manifest", selection, *(() if has_labels else ("--loss", "ce")))
    else:
        echo_next("prune", "cut", selection, "--data", "DATA")


def typed() -> set[str]:
    """Return the names of the running command's options that were typed; none if no command is running."""
    context, source = click.get_current_context(silent=True), click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) == source} if context else set()


@click.option(
    "--data",
    help="Images: a folder of class folders, Parquet, idx .gz or CIFAR files, a .beton, torchvision:NAME, demo:digits.",
)
@click.option("--split", help="Split of the data to read, such as train or test; none: the data has no splits.")
@click.option("--classes", type=FOLDER, help="File of class names in label order: a JSON list, or one name per line.")
@click.option("--label", "--label-column", "label", help="Column or field of the labels, if there are several.")
@click.option(
    "--config",
    "configuration",
    help="Configuration of a hub's repository, the folder of its Parquet files; or the set of EMNIST.",
)
@click.option(
    "--list",
    "--image-list",
    "list_file",
    type=FOLDER,
    help="List of the image files and their labels: CSV, TSV, JSONL or text.",
)
@click.option("--file-column", help="Column of the files in the list of images.")
@click.option("--split-column", help="Column of the splits in the list of images.")
@click.option(
    "--unlabelled", "--unlabeled", is_flag=True, default=None, help="The images have no labels, or theirs are not used."
)
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The images, and how to read them."""

    data: str | None
    split: str | None
    classes: Path | None
    label: str | None
    configuration: str | None
    list_file: Path | None
    file_column: str | None
    split_column: str | None
    unlabelled: bool | None

    def spec(self, named: str | None = None) -> "DataSpec | None":
        """Return the spec of the images `named`, else of --data; None if neither is given."""
        from prune_toolkit.images.data_spec import DataSpec

        data = named or self.data
        return None if data is None else DataSpec(**{**vars(self), "data": data})

    def like(self, data: str | None, split: str | None, *, held_out: bool = False) -> "DataSpec | None":
        """Return the spec of other images that are read alike, but for their split and list; None if there are none."""
        spec = self.spec(data) if data is not None else None
        return None if spec is None else replace(spec, split=split, list_file=None, unlabelled=None, held_out=held_out)


data_options = gathered("images", DataOptions)
strict_option = click.option(
    "--strict", is_flag=True, help="Stop where the data is probably not what is meant, in place of a warning."
)


@click.option(
    "--teacher",
    help="Network to run: resnet32x4, torchvision/NAME:WEIGHTS, timm/NAME, hf/ORG/NAME, module:callable, or a file.",
)
@click.option(
    "--checkpoint", type=FOLDER, help="File with the network's weights: safetensors, or a PyTorch state dict."
)
@click.option(
    "--checkpoint-key",
    metavar="KEY",
    help="Where in --checkpoint the weights are, such as student, if several of its entries fit.",
)
@click.option(
    "--image-size",
    type=click.IntRange(1, MAX_IMAGE_PX),
    metavar="PX",
    help="Side of the images shown to the teacher [default: the teacher's].",
)
@click.option("--mean", **IMAGES_SAID["--mean"])
@click.option("--std", **IMAGES_SAID["--std"])
@click.option("--interpolation", **IMAGES_SAID["--interpolation"])
@click.option("--resize-size", **IMAGES_SAID["--resize-size"])
@click.option(
    "--outputs",
    type=FOLDER,
    metavar="FILE",
    help="Class of each output of the teacher, one per line in their order, or a .csv with rows OUTPUT,CLASS.",
)
@click.option("--probabilities", is_flag=True, help="The teacher returns softmax or sigmoid outputs, not logits.")
@click.option(
    "--output", "output_key", metavar="KEY", help="Where the logits are in a tuple or mapping: 0, logits, heads.0."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images per forward pass [default: 256; fewer above 512 px].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Precision, by autocast [default: float16 on CUDA, float32 elsewhere].",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the model [default: PyTorch's choice].")
@click.option(
    "--loader",
    type=click.Choice(["auto", "ffcv", "torch"]),
    default="auto",
    show_default=True,
    help="Library that loads the images; ffcv and torch show the same views.",
)
@click.option("--random-weights", is_flag=True, help="Accept a teacher that is untrained, for a trial.")
@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """A teacher, and how it runs."""

    teacher: str | None
    checkpoint: Path | None
    checkpoint_key: str | None
    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    interpolation: str | None
    resize_size: int | None
    outputs: Path | None
    probabilities: bool
    output_key: str | None
    batch_size: int | None
    dtype: str | None
    device: str
    threads: int | None
    loader: str
    random_weights: bool

    def spec(self, scored: "Manifest | None" = None) -> "TeacherSpec":
        """Return what was said of the teacher, over what a manifest says that it scored; UsageError if none is named.

        A teacher that scored needs no flags where local.json knows its files.
        """
        from trainer.models.images_said import ImagesSaid
        from trainer.teachers.output_names import read_outputs
        from trainer.teachers.teacher_place import card_of_run, teacher_that_scored
        from trainer.teachers.teacher_spec import TeacherSpec, check_teacher

        card = None if scored is None else scored.header.teacher
        if self.teacher is not None:
            named = TeacherSpec(network=self.teacher, checkpoint=self.checkpoint, checkpoint_key=self.checkpoint_key)
        elif scored is not None and card is not None:
            named = teacher_that_scored(scored, self.checkpoint, self.checkpoint_key, "--teacher SPEC")
        else:
            raise UsageError(
                "--teacher is missing: name the network to run",
                hint='--teacher SPEC, or teacher = "SPEC" in prune.toml',
            )
        spec = replace(
            named,
            image_px=self.image_size,
            preprocessing=None if card is None else card.preprocessing,
            images=ImagesSaid.of(
                mean=self.mean, std=self.std, interpolation=self.interpolation, resize_size=self.resize_size
            ),
            outputs=None if self.outputs is None else read_outputs(self.outputs),
            output_key=self.output_key,
            probabilities=self.probabilities,
            scored=None if scored is None else card_of_run(scored),
            random_weights=self.random_weights,
        )
        check_teacher(spec)
        return spec

    def load(self, class_names: list[str] | None, scored: "Manifest | None" = None) -> "Teacher":
        """Load the teacher onto its device; `scored` as in `spec`; UsageError if none is named."""
        spec = self.spec(scored)
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        from trainer.teachers.teacher import load_teacher

        return load_teacher(
            spec,
            class_names,
            device=self.device,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            dtype=self.dtype,
        )


teacher_options = gathered("teacher_options", TeacherOptions)


def view_options(views: int) -> Callable[[F], F]:
    """Add the options of the views to store, `views` of them by default, and of how much of each to store."""

    @click.option(
        "--views",
        type=int,
        default=views,
        show_default=True,
        metavar="V",
        help="Views of each image: the evaluation view, and V - 1 augmented ones.",
    )
    @click.option(
        "--augment",
        type=click.Choice(["auto", "pad_crop_flip", "resized_crop_flip"]),
        default="auto",
        show_default=True,
        help="How views from 1 on differ from view 0; auto pads small images and crops large ones.",
    )
    @click.option("--pad", type=int, metavar="PX", help="Largest shift in pad_crop_flip views [default: side / 8].")
    @click.option(
        "--scale-min",
        type=float,
        default=0.08,
        show_default=True,
        help="Smallest share of the area in resized_crop_flip views.",
    )
    @click.option(
        "--flip/--no-flip", default=True, show_default=True, help="Mirror half of the augmented views, or none."
    )
    @click.option("--seed", type=int, default=0, show_default=True, help="Seed of the views.")
    @click.option("--top-k", type=int, metavar="K", help="Store the K largest logits per view [default: all].")
    def asked(**values: Any) -> "ViewFlags":
        from prune_toolkit.scoring.view_flags import ViewFlags

        return ViewFlags(**values)

    return gathered("views", asked)


@click.option("--rank", type=int, help="Number of this process, from 0 [default: $RANK, or 0].")
@click.option("--world-size", type=int, help="Number of processes that share the work [default: $WORLD_SIZE, or 1].")
def work_share(rank: int | None, world_size: int | None) -> "WorkShare":
    """Return this process's share of the work, from these options or the environment."""
    from prune_toolkit.work.part_work import WorkShare

    return WorkShare.resolve(rank, world_size)


rank_options = gathered("ranks", work_share)


codec_option = click.option(
    "--codec", help="How the logits of a target are stored: float16 (default), int8, int4, or features."
)
teacher_licence_option = partial(click.option, "--teacher-licence", "--teacher-license", "teacher_licence")
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1, max=64), default=8, show_default=True, help="Files to transfer at once."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=core_count,
    show_default="the cores",
    help="Threads that read and decode images.",
)
trust_beton_option = click.option(
    "--trust-beton", is_flag=True, help="Do not compare images that are read from a beton with the manifest."
)
redistributable_option = click.option(
    "--redistributable/--not-redistributable",
    default=None,
    help="Record whether the images may be redistributed; if not, prune push never sends any.",
)
secret_option = click.option(
    "--secret", type=FOLDER, metavar="FILE", help="With hidden keys: file with the secret the manifest was pushed with."
)


def _be_patient(context: click.Context, _option: click.Parameter, timeout_s: float | None) -> None:
    """Give the stores that the command opens this timeout. Raises UsageError if it is not a time."""
    if timeout_s is not None:
        from manifests.stores.patience import patience, patient

        context.with_resource(patient(patience(timeout_s)))


timeout_option = click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    expose_value=False,
    callback=_be_patient,
    help="With a URL: longest time without a byte from its server [default: 20].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
