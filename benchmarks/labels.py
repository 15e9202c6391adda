"""What should a student be taught: a live teacher's labels, or which stored ones? Accuracy and seconds, arm by arm.

    python benchmarks/labels.py                                     digits, a minute: shows that it works
    python benchmarks/labels.py ../shared/data/fashion_mnist OUT --pool 10000 --teacher-epochs 8 --epochs 12 \\
        --seeds 3 --views 2,4,8,16 --keep 1,0.5 --augment weak,strong --jobs 2

From a random pool of the training images the teacher scores 16 views, weakly and strongly augmented; students learn
from all of the pool and from a random half: labels alone, online teacher, `single`, `mean`, `replay` of 2, 4, 8 and 16
views. One table of top-1 on the test split (last epoch) and of seconds. Runs that are there are not repeated: give each
student and pool a folder OUT of its own.
"""

import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import click
from _study import (
    AUGMENTATIONS,
    Job,
    make_networks_importable,
    markdown,
    mean_and_deviation,
    pool_and_teacher,
    report_of,
    run_jobs,
)

from manifests.manifest import Manifest
from prune_toolkit.demo import run


@dataclass(frozen=True)
class Arm:
    """How a student is taught: flags of its selection and of its training."""

    name: str
    select: str
    train: str


@click.command()
@click.argument("data", default="demo:digits")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--pool", type=int, help="Training images, drawn at random  [all]")
@click.option("--epochs", default="4", help="One number, or several with commas.")
@click.option("--seeds", default=1)
@click.option("--views", default="2,4", help="Numbers of stored views; the largest is what is scored.")
@click.option("--keep", "keeps", default="1")
@click.option("--augment", "augments", default="weak")
@click.option("--arms", default="ce,online,single,mean,replay", help="Which arms.")
@click.option("--teacher", type=click.Path(path_type=Path), help="A trained one; else a resnet20 is trained.")
@click.option("--teacher-epochs", default=4)
@click.option("--student", default="_networks:small_cnn")
@click.option("--index-flags", default="", help="Further flags of prune index.")
@click.option("--jobs", default=1, help="Runs at once, one thread each.")
def main(
    data: str,
    out: Path | None,
    pool: int | None,
    epochs: str,
    seeds: int,
    views: str,
    keeps: str,
    augments: str,
    arms: str,
    teacher: Path | None,
    teacher_epochs: int,
    student: str,
    index_flags: str,
    jobs: int,
) -> None:
    make_networks_importable()
    out = out or Path(mkdtemp(prefix="labels-"))
    view_counts = sorted(map(int, views.split(",")))
    teacher = prepare(data, out, pool, teacher, teacher_epochs, index_flags, view_counts[-1], augments.split(","))
    cells = [(int(e), a, k) for e in epochs.split(",") for a in augments.split(",") for k in keeps.split(",")]
    chosen = [arm for arm in all_arms(view_counts, teacher) if arm.name.split()[0] in arms.split(",")]
    work = [
        job(out, arm, epoch_count, augment, keep, seed, student)
        for seed in range(seeds)
        for epoch_count, augment, keep in cells
        for arm in chosen
    ]
    run_jobs(work, jobs)
    report(out, chosen, cells, seeds, data, jobs)


def prepare(
    data: str,
    out: Path,
    pool: int | None,
    teacher: Path | None,
    teacher_epochs: int,
    index_flags: str,
    view_count: int,
    augments: list[str],
) -> Path:
    """Teacher, pool and scored manifests; every step is skipped where its result is there."""
    source, teacher = pool_and_teacher(data, out, pool, teacher, teacher_epochs, index_flags)
    for augment in augments:
        run(
            f"prune score {source} --teacher {teacher} --views {view_count} {AUGMENTATIONS[augment]} --val {out}/val "
            f"-o {out}/scores-{augment}"
        )
    return teacher


def all_arms(view_counts: list[int], teacher: Path) -> Iterator[Arm]:
    """Labels alone, online, and every policy."""
    yield Arm("ce", "--policy single", "--loss ce")
    yield Arm("online", "--policy single", f"--teacher {teacher}")
    yield Arm("single", "--policy single", "--policy single")
    yield Arm(f"mean of {view_counts[-1]}", "--policy mean", "--policy mean")
    for count in view_counts:
        yield Arm(f"replay {count}", f"--policy replay --views {count}", "--policy replay")


def job(out: Path, arm: Arm, epochs: int, augment: str, keep: str, seed: int, student: str) -> Job:
    """Select, with the seed where it matters, and train."""
    folder = out / "runs" / f"{arm.name.replace(' ', '-')}-{augment}-{keep}-{epochs}-{seed}"
    selection = out / "selections" / folder.name
    drawn = 0 if float(keep) == 1 else seed
    augmentation = "" if arm.name.startswith("replay") else AUGMENTATIONS[augment]
    return Job(
        folder,
        (
            f"prune select {out}/scores-{augment} --keep {keep} --selector random --labels raw --seed {drawn} "
            f"{arm.select} -o {selection}",
            f"train-student --manifest {selection} --val {out}/val --student {student} --recipe cifar "
            f"--schedule cosine --epochs {epochs} --eval-every {epochs} --workers 1 --seed {seed} {arm.train} "
            f"{augmentation} -o {folder}",
        ),
        selection,
    )


def report(out: Path, arms: list[Arm], cells: list[tuple[int, str, str]], seeds: int, data: str, jobs: int) -> None:
    """Top-1 and seconds of every arm in every cell."""
    print(
        f"\n{data}, {platform.machine()}, {jobs} runs at once of one thread each; last epoch, fixed epochs, n = {seeds}"
    )
    titles = [f"{augment}, keep {keep}, {epochs} epochs" for epochs, augment, keep in cells]
    rows = []
    for arm in arms:
        row = [arm.name]
        for epochs, augment, keep in cells:
            reports = [report_of(job(out, arm, epochs, augment, keep, seed, "").folder) for seed in range(seeds)]
            seconds = statistics.median(report["time"]["training_s"] for report in reports)
            top1 = mean_and_deviation([100 * report["last"]["top1"] for report in reports])
            row.append(f"{top1}, {seconds:.0f} s")
        rows.append(row)
    print("top-1, mean ± sd, and training seconds, median\n\n" + markdown(["arm", *titles], rows))
    for augment in dict.fromkeys(augment for _, augment, _ in cells):
        scored = Manifest.open(out / f"scores-{augment}").header
        assert scored.views is not None
        print(
            f"\nscoring {scored.views.count} {augment} views of {scored.data.readable:,}: {scored.run['seconds']:.0f} s"
        )


if __name__ == "__main__":
    main()
