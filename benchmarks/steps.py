"""Steps a second with a live teacher, with stored labels, and of the student alone; goal: stored labels cost nothing.

    python benchmarks/steps.py                    both pairs, some minutes on 2 cores
    python benchmarks/steps.py --pair cifar       cifar: resnet32x4 -> resnet8x4, 32 px, batch 64
                                                  imagenet: resnet34 -> resnet18, 224 px, batch 16

All arms are `train_epoch`, the loop of train-student, turn by turn in one process on one student: with batches and
labels that lie in memory; fed by the FFCV loader without labels (cross-entropy); fed by it with stored labels of
replayed views; fed by it with a teacher beside the student; and from memory with DOT, which goes backward twice. Images
are random, 32x32 raw, or photographs as JPEG (noise where ../shared/data is absent).
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from loading import cpu_name, jpeg_beton, raw_beton

from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.format.header import Preprocessing
from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.data.loaders import open_loader
from trainer.data.stored import StoredLabels
from trainer.data.views import ViewRecipe, epoch_views
from trainer.loop.distributed import Ranks
from trainer.loop.epoch import train_epoch
from trainer.loop.recipes import resolve
from trainer.loop.run_folder import State
from trainer.loop.schedules import Schedule
from trainer.loop.student import build_optimizer, build_student, choose_device, set_tf32
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

VIEWS = 8


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of the literature, and what they are shown."""

    teacher: str
    student: str
    classes: int
    image_px: int
    batch_size: int
    recipe: str


PAIRS = {
    "cifar": Pair("resnet32x4", "resnet8x4", 100, 32, 64, "pad_crop_flip"),
    "imagenet": Pair("torchvision/resnet34", "torchvision/resnet18", 1000, 224, 16, "resized_crop_flip"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, help="one pair only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a round, in every arm")
    parser.add_argument("--only", default="", help="the student alone, and arms whose name has this in it: DOT")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{cpu_name()}, {torch.get_num_threads()} threads; {versions}")
    for name, pair in PAIRS.items():
        if arguments.pair in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                compare(pair, Path(folder), arguments)


def compare(pair: Pair, folder: Path, arguments: argparse.Namespace) -> None:
    """Median steps a second of the arms, and their ratio to the student alone."""
    rounds, precision = arguments.rounds, arguments.precision
    arms, step_count, where = arms_of(pair, folder, arguments.steps, arguments.device, precision)
    first = next(iter(arms))
    arms = {name: arm for name, arm in arms.items() if name == first or arguments.only in name}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(rounds):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm()
            seconds[name].append((time.perf_counter() - started) / step_count)
    shape = f"{pair.image_px} px, batch {pair.batch_size}, {pair.classes} classes"
    print(f"\n{pair.teacher} -> {pair.student}, {shape}, {precision} on {where}")
    print(f"n = {rounds} rounds of {step_count} steps each, turn by turn")
    alone = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        middle = statistics.median(values)
        spread = f"{1 / max(values):.2f} to {1 / min(values):.2f}"
        print(
            f"  {name:34s} {1 / middle:8.2f} steps/s   {spread:>18s}   {middle / alone:5.2f} times a step alone",
            flush=True,
        )


def arms_of(
    pair: Pair, folder: Path, steps: int, device_name: str, precision: str
) -> tuple[dict[str, Callable[[], object]], int, torch.device]:
    """The arms, the student alone first."""
    ranks = Ranks()
    device = choose_device(device_name, ranks)
    beton = with_targets(pair, folder, pair.batch_size * steps)
    recipe = ViewRecipe(name=pair.recipe)
    config = resolve(
        {"student": pair.student, "batch_size": pair.batch_size, "precision": precision, "loss": "kd"},
        recipe="cifar" if pair.image_px <= 64 else "imagenet",
        stored=StoredLabels(
            count=beton.count, image_px=pair.image_px, view_count=VIEWS, scored=recipe, scored_views=VIEWS
        ),
    )
    sizes = Preprocessing(image_px=pair.image_px, resize_px=pair.image_px, mean=[0.5] * 3, std=[0.25] * 3)
    names = tuple(f"class {number}" for number in range(pair.classes))
    student = build_student(config, class_names=names, preprocessing=sizes, state=State(), device=device, ranks=ranks)
    dot = replace(config, dot=0.075)
    with_dot = replace(student, optimizer=build_optimizer(dot, student.model))
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    spec = TeacherSpec(network=pair.teacher, image_px=pair.image_px, random_weights=True)
    teacher = load_teacher(spec, list(names), device=str(device), dtype=dtype, exact=False)
    loader = open_loader(beton, recipe=recipe, preprocessing=sizes, device=device)
    set_tf32(config, device)
    schedule = Schedule(name="constant", lr=1e-4, epochs=1, steps_per_epoch=steps)
    row_n = np.random.default_rng(0).permutation(beton.count)
    view_n = epoch_views(0, beton.columns["view_id"][row_n], VIEWS)

    def batches() -> Iterable[Batch]:
        return loader.batches(row_n, view_n=view_n, target_view_n=view_n, batch_size=pair.batch_size, drop_last=True)

    in_memory = list(batches())

    def epoch(
        of: Iterable[Batch], target_of: Callable[[Batch], torch.Tensor | None], recipe: TrainConfig = config
    ) -> object:
        return train_epoch(
            student if recipe.dot is None else with_dot,
            of,
            config=recipe,
            schedule=schedule,
            epoch=0,
            ranks=ranks,
            target_of=target_of,
            on_batch=lambda _: None,
        )

    def stored(batch: Batch) -> torch.Tensor | None:
        return batch.target

    return (
        {
            "student alone, labels in memory": lambda: epoch(in_memory, stored),
            f"no labels, {loader.kind} loader": lambda: epoch(batches(), lambda _: None, replace(config, loss="ce")),
            f"stored labels, {loader.kind} loader": lambda: epoch(batches(), stored),
            f"live teacher, {loader.kind} loader": lambda: epoch(batches(), lambda batch: teacher(batch.images)),
            "DOT, labels in memory": lambda: epoch(in_memory, stored, dot),
        },
        steps,
        device,
    )


def with_targets(pair: Pair, folder: Path, count: int) -> Beton:
    """Images with random labels of VIEWS views."""
    make = raw_beton if pair.image_px <= 64 else jpeg_beton
    images = make(folder / "images.beton", count)
    generator = np.random.default_rng(1)
    columns = BetonColumns(
        label_N=generator.integers(0, pair.classes, images.count),
        sample_id_N=np.arange(images.count),
        view_id_N=generator.integers(0, 2**64, images.count, dtype=np.uint64),
        weight_N=np.ones(images.count),
        kd_weight_N=np.ones(images.count),
    )
    shape = (VIEWS, pair.classes)
    targets = (generator.normal(size=shape).astype(np.float16) for _ in range(images.count))
    path = folder / "targets.beton"
    write_beton(path, (images.image(row) for row in range(images.count)), columns, targets=targets, target_shape=shape)
    return Beton.open(path)


if __name__ == "__main__":
    main()
