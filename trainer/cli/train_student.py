"""train-student: a selection in, a trained student out.

train-student --manifest selection --student resnet8x4 --val photos
"""

import math
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from manifests.base.layout import MAX_IMAGE_PX
from manifests.base.progress import note
from manifests.errors import UsageError
from trainer.cli.console import echo_json, run_cli
from trainer.cli.shared_options import IMAGES_SAID, LOCAL, PLUGIN


class Command(click.Command):
    """A command that shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per heading, in the order of the options."""
        records = [
            (getattr(option, "heading", "Other"), option.get_help_record(ctx)) for option in self.get_params(ctx)
        ]
        for heading, section in groupby(records, key=itemgetter(0)):
            with formatter.section(heading):
                formatter.write_dl([record for _, record in section if record is not None])


class Option(click.Option):
    """An option that knows the heading it belongs under."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading


def epoch_list(value: Any) -> tuple[float, ...]:
    """Parse epochs separated by commas, 150,180,210, or a list from prune.toml."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise click.BadParameter(f"{value!r} is not a list of epochs such as 150,180,210") from None


def whole_epochs(value: Any) -> tuple[int, ...]:
    """Parse whole epochs separated by commas, 1,5,10, or a list from prune.toml."""
    epochs = epoch_list(value)
    if any(epoch != int(epoch) for epoch in epochs if math.isfinite(epoch)) or not all(map(math.isfinite, epochs)):
        raise click.BadParameter(f"{value!r} is not a list of whole epochs such as 1,5,10")
    return tuple(map(int, epochs))


def option_list(value: Any) -> dict[str, float]:
    """Parse options of a loss separated by commas, alpha=1,beta=8, or a table from prune.toml."""
    try:
        pairs = value.items() if isinstance(value, dict) else (part.split("=") for part in value.split(","))
        return {name.strip(): float(number) for name, number in pairs}
    except (AttributeError, TypeError, ValueError):
        raise click.BadParameter(f"{value!r} is not a list of options such as alpha=1,beta=8") from None


def annealed_number(value: Any) -> float | str:
    """Parse a number, or the text of one that changes over the run, 4:1 or 4:1:cosine, which `resolve` reads."""
    text = str(value).strip()
    try:
        return text if ":" in text else float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor FROM:TO, such as 4:1") from None


def share(value: Any) -> float:
    """Parse a number, a fraction or a percentage: 0.3, 1/3, 30%."""
    text = str(value).strip()
    number, of = text.removesuffix("%").strip(), 100 if text.endswith("%") else 1
    try:
        return float(Fraction(number) / of) if "/" in number else float(number) / of
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.BadParameter(f"{value!r} is not a share such as 0.3, 1/3 or 30%") from None


def one_budget(epochs: int | None, steps: int | None, match_time: Path | None, out: Path | None) -> dict[str, Any]:
    """Return the one length that was given; typed flags win over prune.toml, UsageError if two are left.

    out: folder of a run with --match-time that may have been started already; None to start over.
    """
    values = {"epochs": epochs, "steps": steps, "match_time": match_time}
    asked = {name: value for name, value in values.items() if value is not None}
    source = click.get_current_context().get_parameter_source
    typed = {name: asked[name] for name in asked if source(name) is click.core.ParameterSource.COMMANDLINE}
    length: dict[str, Any] = typed or asked
    if len(length) > 1:
        flags = [f"--{name.replace('_', '-')}" for name in length]
        raise UsageError(f"{' and '.join(flags)} contradict each other", hint="give one of them")
    if "match_time" not in length:
        return length
    from trainer.loop.budget import asked_seconds

    return {"match_s": asked_seconds(length["match_time"], out)}


data = partial(click.option, cls=Option, heading="Data")
views = partial(click.option, cls=Option, heading="Views and their labels")
student = partial(click.option, cls=Option, heading="Student")
live = partial(click.option, cls=Option, heading="Live teacher")
recipe = partial(click.option, cls=Option, heading="Recipe (defaults depend on --recipe)")
budget = partial(click.option, cls=Option, heading="Length (give one)")
dynamic = partial(click.option, cls=Option, heading="Samples of an epoch, and recording")
loss = partial(click.option, cls=Option, heading="Loss")
machine = partial(click.option, cls=Option, heading="Machine")
run = partial(click.option, cls=Option, heading="Run")


@click.command("train-student", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@data("--manifest", type=LOCAL, default="selection", show_default=True, metavar="DIR",
      help="Manifest to train on: a selection; with --teacher or --loss ce also an index with a beton.")  # fmt: skip
@data("--val", metavar="DATA", help="Validation images: a folder, Parquet files, ..., or a manifest with a beton.")
@data("--val-split", metavar="NAME", help="Split of --val.  [validation or test, if it has splits]")
@data("--classes", type=click.Path(path_type=Path), metavar="FILE", help="Class names of --val, in label order.")
@data("--label", "--label-column", "label", metavar="NAME", help="Label column of --val, if there are several.")
@data("--config", "configuration", metavar="NAME", help="Configuration of --val in a hub's repository: its folder.")
@data("--list", "list_file", type=click.Path(path_type=Path), metavar="FILE",
      help="List of the files and labels of --val.")  # fmt: skip
@data("--file-column", metavar="NAME", help="Column of the files in --list.")
@data("--split-column", metavar="NAME", help="Column of the splits in --list.")
@data("--class-map", type=click.Path(path_type=Path), metavar="FILE.csv",
      help="Table of the classes that have other names in --val; each row: NAME IN MANIFEST,NAME IN VAL.")  # fmt: skip
@data(
    "--image-size",
    "image_px",
    type=click.IntRange(1, MAX_IMAGE_PX),
    metavar="PX",
    help="Image side in training and evaluation.  [teacher's]",
)
@views("--policy", metavar="NAME",
       help="replay (scored views, each with its label), mean or single (fresh views).  [by labels]")  # fmt: skip
@views("--augment", metavar="NAME",
       help="Fresh views: pad_crop_flip, resized_crop_flip or none.  [as scored, or by image size]")  # fmt: skip
@views("--flip/--no-flip", default=None, help="Mirror fresh views at random, or never.")
@views("--pad", "pad_px", type=int, metavar="PX", help="Largest shift in pad_crop_flip views.  [side / 8]")
@views("--scale-min", type=float, help="Smallest share of the area in resized_crop_flip views.  [0.08]")
@views("--mixup", type=float, metavar="ALPHA",
       help="Blend each image of a batch with another; its share is from Beta(ALPHA, ALPHA).  [off]")  # fmt: skip
@views("--cutmix", type=float, metavar="ALPHA",
       help="Paste a box of another image of its batch into each; with --mixup, a coin decides.  [off]")  # fmt: skip
@views("--mix-prob", type=share, metavar="P", help="Probability of mixing a batch.  [1]")
@student("--student", metavar="SPEC",
         help="resnet8x4, torchvision/NAME, timm/NAME, module:callable or FILE.safetensors.  [by recipe]")  # fmt: skip
@student("--weights", type=click.Path(path_type=Path, exists=True), metavar="FILE",
         help="File with the weights to start from.")  # fmt: skip
@live("--teacher", metavar="SPEC", help="Run this teacher on every batch instead of using stored labels.")
@live("--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="File with the weights of --teacher.")
@live("--checkpoint-key", metavar="KEY", help="Where in --checkpoint the weights are, if several of its entries fit.")
@live("--mean", **IMAGES_SAID["--mean"])
@live("--std", **IMAGES_SAID["--std"])
@live("--interpolation", **IMAGES_SAID["--interpolation"])
@live("--resize-size", **IMAGES_SAID["--resize-size"])
@live("--outputs", type=LOCAL, metavar="FILE",
      help="Class of each output of --teacher, one per line in order, or a .csv with rows OUTPUT,CLASS.")  # fmt: skip
@live("--probabilities", is_flag=True, help="--teacher returns softmax or sigmoid outputs, not logits.")
@live("--output", "output_key", metavar="KEY",
      help="Where the logits are in a tuple or mapping that --teacher returns: 0, logits, heads.0.")  # fmt: skip
@recipe("--recipe", default="auto", show_default=True, metavar="NAME",
        help="Set of defaults: demo, cifar, imagenet, or auto (cifar or imagenet, by image size).")  # fmt: skip
@recipe("--batch-size", type=int, metavar="N", help="Samples per step, over all ranks.")
@recipe("--optimizer", metavar="NAME", help="sgd or adamw.")
@recipe("--lr", type=float, help="Highest learning rate.")
@recipe("--momentum", type=float, help="Momentum of sgd.")
@recipe("--nesterov/--no-nesterov", default=None, help="Use Nesterov momentum with sgd.")
@recipe("--dot", type=float, metavar="DELTA",
        help="DOT: momentum minus DELTA for the cross-entropy, plus DELTA for the KD term.  [off]")  # fmt: skip
@recipe("--weight-decay", type=float, help="Weight decay, applied to all parameters.")
@recipe("--schedule", metavar="NAME", help="Learning rate over the run: cosine, step or constant.")
@recipe(
    "--milestones", type=epoch_list, metavar="E,E,...", help="With --schedule step: epochs at which the rate drops."
)
@recipe("--gamma", type=float, help="With --schedule step: factor of the rate at a milestone.")
@recipe("--warmup-epochs", type=float, help="Epochs of linear warm-up.")
@budget("--epochs", type=int, help="Passes over the selected samples.  [by recipe]")
@budget("--steps", type=int, metavar="N", help="Optimiser steps, whatever the number of samples.")
@budget("--match-time", type=LOCAL, metavar="RUN",
        help="Folder of a finished run: take as many steps as fit into its training time.")  # fmt: skip
@dynamic("--dynamic", metavar="NAME",
         help="Choose each epoch's samples: infobatch, rs2 or seta: `prune list dynamic`.")  # fmt: skip
@dynamic("--keep", type=share, metavar="R", help="With rs2 or seta: share of samples per epoch: 0.3, 1/3 or 30%.")
@dynamic("--prune-ratio", type=share, metavar="P",
         help="With --dynamic infobatch: probability of leaving out a sample of below-mean loss.  [0.5]")  # fmt: skip
@dynamic("--anneal", type=share, metavar="R",
         help="With infobatch or seta: share of last epochs that leave none of them out.  [0.125]")  # fmt: skip
@dynamic("--groups", type=int, metavar="K", help="With --dynamic seta: groups of similar loss.  [10]")
@dynamic("--window", type=share, metavar="R", help="With --dynamic seta: share of the groups in an epoch.  [0.5]")
@dynamic("--record-dynamics", is_flag=True, default=None,
         help="Record how the student does on every sample in each epoch, for `prune score --dynamics`.")  # fmt: skip
@dynamic("--record-grand", type=int, metavar="E", help="Also record gradient norms, in the first E epochs; slow.  [0]")
@dynamic(
    "--record-kl",
    is_flag=True,
    default=None,
    help="Also record how far predictions move; meanwhile takes 4 bytes of disk per sample and class.",
)
@loss("--loss", metavar="NAME", help="kd, dkd, lskd, lskd-dkd, dist, or ce (labels alone): `prune list losses`.  [kd]")
@loss("--kd-weight", type=annealed_number, metavar="W", help="Weight of the KD term, times the sample's kd_weight; "
      "A:B anneals it, as below.  [by loss; kd: 0.9]")  # fmt: skip
@loss("--ce-weight", type=float, help="Weight of the cross-entropy term.  [by loss; kd: 1 minus that of the KD term]")
@loss("--temperature", type=annealed_number, metavar="T", help="Temperature of the KD term; A:B goes from A in epoch 1 "
      "to B in the last one, A:B:cosine or A:B:step otherwise than linearly.  [by loss; kd: 4]")  # fmt: skip
@loss("--kd-warmup-epochs", type=float, help="Epochs over which the KD term rises to its weight.  [by loss; kd: 0]")
@loss("--loss-options", type=option_list, metavar="NAME=VALUE,...",
      help="Options of --loss, such as alpha=1,beta=8.  [by loss]")  # fmt: skip
@loss("--revise", "revise_eta", type=float, metavar="ETA",
      help="Revise the teacher's labels so that the true class leads; 0 turns it off.  [as selected]")  # fmt: skip
@loss("--revise-scope", metavar="SCOPE", help="With --revise: labels to revise, wrong or all.  [as selected, or all]")
@loss("--unsure-below", type=share, metavar="P",
      help="Teach the softened true class where the teacher's largest probability is below P.  [off]")  # fmt: skip
@loss("--unsure-smoothing", type=float, metavar="S", help="Label smoothing of these classes.  [0.1]")
@loss("--label-smoothing", type=float, help="Label smoothing in the cross-entropy term.  [0]")
@loss("--label-schedule", metavar="KIND:LENGTH,...",
      help="Phases of soft and hard labels, in epochs or shares: soft:0.4,hard:0.2,soft:0.4.  [soft]")  # fmt: skip
@loss("--hard-smoothing", type=float, metavar="S", help="Label smoothing in a hard phase.  [0.8]")
@loss("--hard-cutmix", type=float, metavar="ALPHA", help="--cutmix in a hard phase; 0 turns it off.  [1]")
@machine("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@machine("--loader", type=click.Choice(["auto", "ffcv", "torch"]), default="auto", show_default=True,
         help="Library that loads the images; ffcv and torch show the same views.")  # fmt: skip
@machine("--workers", type=click.IntRange(min=1), help="Reading threads per rank.  [cores]")
@machine("--precision", metavar="NAME", help="fp32, or autocast in bf16 or (CUDA only) fp16.  [fp32]")
@machine("--channels-last/--no-channels-last", default=None, help="Use the NHWC memory format.  [on]")
@machine("--tf32/--no-tf32", default=None, help="Use TF32 on CUDA with --precision fp32.  [on]")
@machine("--compile/--no-compile", default=None, help="Compile the student with torch.compile.  [off]")
@run("--out", "-o", default="run", show_default=True, type=LOCAL, metavar="DIR",
     help="Folder of the run; an unfinished run is resumed.")  # fmt: skip
@run("--seed", type=int, help="Seed of weights, order, views and dropout.  [0]")
@run("--eval-every", type=int, metavar="N", help="Epochs between evaluations; the last epoch is always evaluated.  [1]")
@run("--keep-epochs", type=whole_epochs, metavar="E,E,...",
     help="Keep the student after these epochs too, in OUT/epochs: early ones teach pruned data well.")  # fmt: skip
@run("--fresh", is_flag=True, help="Start over; delete the run in --out.")
@run("--dry-run", is_flag=True, help="Print the resolved configuration and the number of steps; do not train.")
@run("--plugin", **PLUGIN)
@run("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def train_student(
    *,
    manifest: Path,
    val: str | None,
    val_split: str | None,
    classes: Path | None,
    label: str | None,
    configuration: str | None,
    list_file: Path | None,
    file_column: str | None,
    split_column: str | None,
    class_map: Path | None,
    weights: Path | None,
    teacher: str | None,
    checkpoint: Path | None,
    checkpoint_key: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    interpolation: str | None,
    resize_size: int | None,
    outputs: Path | None,
    probabilities: bool,
    output_key: str | None,
    recipe: str,
    epochs: int | None,
    steps: int | None,
    match_time: Path | None,
    device: str,
    loader: str,
    workers: int | None,
    out: Path,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a student on a selection, with the labels its teacher stored there.

    No teacher runs unless --teacher names one. Square brackets show defaults; prune.toml can change them.

    \b
    In a folder that holds a selection:
      train-student --manifest selection --val photos
    Train a teacher, on class labels alone:
      train-student --manifest index --loss ce --student resnet32x4 --val photos --out teacher
    With a live teacher, for comparison:
      train-student --manifest selection --teacher teacher/student.safetensors --out online
    On two GPUs:
      torchrun --nproc-per-node 2 --no-python train-student --manifest selection
    """
    from manifests.sources import ReadOptions
    from trainer.config import TrainConfig
    from trainer.data.order import epoch_batches
    from trainer.data.task import open_task, open_validation, tell_validation
    from trainer.loop.budget import MatchTime
    from trainer.loop.distributed import Ranks
    from trainer.loop.recipes import resolve
    from trainer.loop.run_report import opening_lines, result_lines
    from trainer.models.images_said import ImagesSaid
    from trainer.teachers.output_names import read_outputs
    from trainer.teachers.teacher_spec import live_spec

    if fresh and dry_run:
        raise UsageError("--fresh and --dry-run contradict each other")
    said = ImagesSaid.of(mean=mean, std=std, interpolation=interpolation, resize_size=resize_size)
    spec = live_spec(
        teacher,
        checkpoint,
        checkpoint_key,
        said,
        outputs=None if outputs is None else read_outputs(outputs),
        probabilities=probabilities,
        output_key=output_key,
    )
    length = one_budget(epochs, steps, match_time, None if fresh else out)
    ranks = Ranks.from_environment()
    task = open_task(manifest)
    values |= {
        "teacher": teacher,
        "teacher_images": said.asdict() or None,
        "weights": None if weights is None else str(weights),
    }
    given = task.loss_values(values)

    def configure(found_steps: int | None = None) -> TrainConfig:
        flags = given | {"steps": found_steps} | length
        return resolve(flags, recipe=recipe, stored=task.stored, world_size=ranks.world_size)

    match = None
    if "match_s" in length:
        match = MatchTime(run=str(match_time), seconds=length["match_s"], configure=configure)
    config = configure()
    task.check(config)
    validation = None
    reading = ReadOptions(
        split=val_split,
        classes=classes,
        label=label,
        configuration=configuration,
        list_file=list_file,
        file_column=file_column,
        split_column=split_column,
    )
    of_val = {
        "--val-split": val_split,
        "--classes": classes,
        "--label": label,
        "--config": configuration,
        "--list": list_file,
        "--file-column": file_column,
        "--split-column": split_column,
        "--class-map": class_map,
    }
    if val is not None:
        validation = open_validation(val, reading, task.class_names, class_map)
        if ranks.is_main:
            tell_validation(task, validation)
    elif (unused := [flag for flag, value in of_val.items() if value is not None]) and ranks.is_main:
        note(f"{', '.join(unused)}: ignored without --val")
    plan = epoch_batches(config, task.beton.count, ranks.world_size)
    if ranks.is_main:
        for line in opening_lines(task, config, plan, match):
            note(line)
    if dry_run:
        if ranks.is_main:
            shown = task.resolved(config, validation)
            if match is not None:
                of_epochs = ("milestones", "warmup_epochs", "kd_warmup_epochs")
                scaled = [name for name in of_epochs if name not in given and getattr(config, name)]
                shown |= dict.fromkeys(["steps", "epochs", *scaled])
            echo_json({**shown, **asdict(plan)})
        return

    from trainer.loop.training import Machine, train

    report = train(
        task,
        config,
        validation=validation,
        out=out,
        machine=Machine(device=device, loader=loader, workers=workers),
        fresh=fresh,
        teacher_spec=spec,
        match=match,
    )
    if ranks.is_main and as_json:
        echo_json(report)
    elif ranks.is_main:
        click.echo(result_lines(report, str(out)))


def main() -> None:
    """Run the command and exit with its code."""
    run_cli(train_student)


if __name__ == "__main__":
    main()
