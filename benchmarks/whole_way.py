"""The whole way on a real data set, by the commands a user types: index, teacher, score, select, students.

.venv/bin/python benchmarks/whole_way.py ../shared/data/fashion_mnist /tmp/fashion --epochs 4 --seeds 3

Prints top-1 on the test split (last epoch) of the teacher, and of students that learned by KD from all images, from a
random half and from the medium half with reshaped labels: mean, standard deviation and n. It shows that the parts fit
together; too few seeds and epochs to claim that one arm is better.
"""

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import click

from prune_toolkit.demo import run

ARMS = {
    "all + KD": "--keep 1 --labels raw",
    "random 50 % + KD": "--keep 0.5 --selector random --labels raw",
    "medium 50 % + reshape + KD": "--keep 0.5 --selector medium --labels reshape",
}


@click.command()
@click.argument("data", default="demo:digits")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--teacher", default="resnet20", show_default=True)
@click.option("--teacher-epochs", default=4, show_default=True)
@click.option("--student", default="resnet8", show_default=True)
@click.option("--epochs", default=4, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--train-flags", default="", help="Further flags of every train-student.")
@click.option("--index-flags", default="", help="Further flags of prune index.")
def main(
    data: str,
    out: Path | None,
    teacher: str,
    teacher_epochs: int,
    student: str,
    epochs: int,
    seeds: int,
    train_flags: str,
    index_flags: str,
) -> None:
    start = time.monotonic()
    out = out or Path(tempfile.mkdtemp(prefix="whole-way-"))
    run(f"prune index {data} --beton -o {out}/index {index_flags}")
    run(f"prune index {data} --split test --beton -o {out}/val {index_flags}")
    train = f"train-student --val {out}/val --schedule cosine {train_flags}"
    run(f"{train} --manifest {out}/index --loss ce --student {teacher} --epochs {teacher_epochs} -o {out}/teacher")
    run(f"prune score {out}/index --teacher {out}/teacher/student.safetensors --val {out}/val -o {out}/manifest")
    results: dict[str, list[float]] = {title: [] for title in ARMS}
    seconds: dict[str, list[float]] = {title: [] for title in ARMS}
    for seed in range(seeds):
        for title, flags in ARMS.items():
            name = f"{title.split()[0]}-{seed}"
            run(f"prune select {out}/manifest {flags} --seed {seed} -o {out}/selection-{name}")
            run(
                f"{train} --manifest {out}/selection-{name} --student {student} --epochs {epochs} "
                f"--seed {seed} -o {out}/run-{name}"
            )
            report = json.loads((out / f"run-{name}" / "run.json").read_bytes())
            results[title].append(100 * report["last"]["top1"])
            seconds[title].append(report["time"]["total_s"])
    report = json.loads((out / "teacher" / "run.json").read_bytes())
    print(f"\n{data}, {platform.machine()}, budget: fixed epochs ({epochs}; teacher {teacher_epochs})")
    print(f"{'arm':<28} {'top-1 last':>10} {'sd':>6} {'n':>3} {'seconds':>8}")
    print(f"{'teacher ' + teacher:<28} {100 * report['last']['top1']:>10.2f} {'-':>6} {1:>3} "
          f"{report['time']['total_s']:>8.0f}")  # fmt: skip
    for title, values in results.items():
        deviation = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        print(f"{title:<28} {statistics.mean(values):>10.2f} {deviation:>6} {len(values):>3} "
              f"{statistics.median(seconds[title]):>8.0f}")  # fmt: skip
    print(f"took {time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
