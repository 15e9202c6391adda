"""Which selection and which labels beat random + KD? Arms by stored views, keep, student, fixed epochs or steps.

    python benchmarks/beyond_random.py fashion ../shared/data/fashion_mnist OUT --views 1,16 --keep 0.1,0.3
    python benchmarks/beyond_random.py cifar ../shared/data/cifar100 OUT --claim --arms "random,CCS,beta margin"

From the training images a hold-out is set aside that the teacher never sees: arms are explored on it, with three seeds;
a claim is made on the test images with five other seeds. The teacher is trained by the script with seed 0. Every step
whose result is there is skipped: run the same line again to go on where it stopped.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click
from _study import make_networks_importable
from _study_data import write_study_data

from prune_toolkit.demo import run

SCORED_VIEWS = 17
EXPLORING_SEEDS, CLAIMING_SEEDS, FIRST_CLAIMING_SEED = 3, 5, 100


@dataclass(frozen=True)
class Data:
    """A data set of the study: how its images are divided, its teacher, and how its students are trained."""

    pool: int
    held: int
    wrong: Fraction
    teacher: str
    """Flags of train-student for the teacher."""
    epochs: int
    classes: str | None = None


TEACHER = "--loss ce --batch-size 128 --lr 0.1 --nesterov --schedule cosine --warmup-epochs 1 --weight-decay 5e-4"
DATA = {
    "fashion": Data(10_000, 5_000, Fraction(0), "--student resnet20 --epochs 8 --precision bf16", 16, "names.json"),
    "noisy": Data(10_000, 5_000, Fraction(1, 5), "--student resnet20 --epochs 8 --precision bf16", 16, "names.json"),
    "cifar": Data(20_000, 5_000, Fraction(0), "--student vgg8 --epochs 24 --precision bf16", 30),
}
SELECTIONS = {
    "random": "random",
    "CCS": "ccs",
    "medium": "medium",
    "medium + reshape": "medium --labels reshape",
    "random + reshape": "random --labels reshape",
    "window .25": "window --position 0.25 --score margin",
    "easy": "window --position 0 --score margin",
    "beta .3, 4": "beta --mode 0.3 --sharpness 4",
    "beta .2, 16": "beta --mode 0.2 --sharpness 16",
    "beta margin": "beta --held-out {held}",
    "beta loss": "beta --score loss --held-out {held}",
    "beta influence": "beta --score influence --held-out {held}",
    "beta influence_flat": "beta --score influence_flat --held-out {held}",
    "D2": "d2",
    "recall": "random --quota recall --held-out {held}",
}
LABELS = {
    "T 4:1": "random -- --temperature 4:1",
    "KD .9:.5": "random -- --kd-weight 0.9:0.5",
    "soft, hard, soft": "random -- --label-schedule soft:0.4,hard:0.2,soft:0.4",
    "mixup": "random -- --mixup 0.2",
    "cutmix": "random -- --cutmix 1",
    "unsure": "random -- --unsure-below 0.5",
    "DOT": "random -- --optimizer sgd --dot 0.09",
    "soften": "random --labels soften",
    "revise .5": "random --labels revise --eta 0.5",
    "int8": "random --codec int8",
    "int4": "random --codec int4",
    "KD .5": "random -- --kd-weight 0.5",
    "T 2": "random -- --temperature 2",
}
BOTH = {
    "CCS + revise .5": "ccs --labels revise --eta 0.5",
    "window .25 + revise .5": "window --position 0.25 --score margin --labels revise --eta 0.5",
    "beta margin + revise .5": "beta --held-out {held} --labels revise --eta 0.5",
}
"""Selections and labels that are each ahead of random + KD in exploration, together."""
ARMS = SELECTIONS | LABELS | BOTH
STUDENTS = {"small": "_networks:small_cnn", "wide": "_networks:wide_cnn"}
VIEWS = "--augment pad_crop_flip"


@click.command()
@click.argument("name", type=click.Choice(list(DATA)))
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--views", default="1,2,16", help="Stored views, a sweep for each number.")
@click.option("--keep", default="0.05,0.1,0.3,0.5")
@click.option("--students", default="small", help=f"Of {', '.join(STUDENTS)}.")
@click.option("--steps", type=int, help="Fixed steps of every student, in place of fixed epochs.")
@click.option("--epochs", type=int, help="Epochs over a selection  [16; CIFAR-100: 30].")
@click.option("--arms", default=",".join(ARMS), help="Which of them; names hold no comma but '.3, 4'.")
@click.option("--seeds", type=int, help=f"Students per arm  [{EXPLORING_SEEDS}; a claim: {CLAIMING_SEEDS}].")
@click.option("--claim", is_flag=True, help=f"Judge on the test images, with seeds from {FIRST_CLAIMING_SEED}.")
@click.option("--jobs", default=1)
def main(
    name: str,
    source: Path,
    out: Path,
    views: str,
    keep: str,
    students: str,
    steps: int | None,
    epochs: int | None,
    arms: str,
    seeds: int | None,
    claim: bool,
    jobs: int,
) -> None:
    make_networks_importable()
    data, folder = DATA[name], out / name
    prepare(data, source, folder)
    chosen = [arm for arm in ARMS if f",{arm}," in f",{arms},"]
    entries = " ".join(f'--select "{arm}={ARMS[arm].format(held=folder / "held-scores")}"' for arm in chosen)
    length = f"--epochs {epochs or data.epochs}" if steps is None else f"--steps {steps}"
    dynamic = "" if steps is not None else "--dynamic infobatch,seta"
    judged = f"--val {folder}/test --first-seed {FIRST_CLAIMING_SEED}" if claim else f"--val {folder}/held"
    count = seeds or (CLAIMING_SEEDS if claim else EXPLORING_SEEDS)
    for student in students.split(","):
        for shown in views.split(","):
            regime = f"{'claim' if claim else 'explore'}-{student}-views{shown}-{length.strip('-').replace(' ', '')}"
            run(
                f"prune sweep {folder}/pool-scores --keep {keep} {entries} {dynamic} {length} {judged} --seeds {count} "
                f'--student {STUDENTS[student]} --labels raw --loss kd --select-flags "--views {shown}" '
                f'--train "--recipe cifar --schedule cosine --workers 1 {VIEWS}" --jobs {jobs} -o {folder}/{regime}'
            )


def prepare(data: Data, source: Path, folder: Path) -> None:
    """Write the images, train the teacher on all but the held-out ones, score pool and held-out images."""
    classes = None if data.classes is None else source / data.classes
    write_study_data(
        str(source), folder / "data", pool=data.pool, held=data.held, wrong=data.wrong, classes=classes, seed=0
    )
    for split in ("seen", "pool", "held", "test"):
        run(f"prune index {folder}/data/{split}.parquet --classes {folder}/data/names.txt --beton -o {folder}/{split}")
    teacher = folder / "teacher" / "student.safetensors"
    run(
        f"train-student --manifest {folder}/seen {data.teacher} {TEACHER} {VIEWS} --workers 1 --eval-every 4 "
        f"--val {folder}/held -o {folder}/teacher"
    )
    score = f"prune score {folder}/{{}} --teacher {teacher} --features"
    run(f"{score.format('pool')} --views {SCORED_VIEWS} {VIEWS} -o {folder}/pool-scores")
    run(f"{score.format('held')} -o {folder}/held-scores")


if __name__ == "__main__":
    main()
