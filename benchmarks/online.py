"""A live teacher on all data against stored labels of a part: accuracy over training time and over total time.

    python benchmarks/online.py                                     digits, a minute: shows that it works
    python benchmarks/online.py ../shared/data/cifar100 OUT --teacher-spec resnet32x4 --student resnet8x4 --epochs 240

All arms have one recipe, loader and precision, and run one after the other. Total time counts scoring (to select) and
labelling as well. Prints a table with the time at which each arm first reaches the online arm's final accuracy and the
number of students after which stored labels have paid for themselves, and draws accuracy.svg and accuracy.png.
"""

import math
import platform
import statistics
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click
from _study import history_of, make_networks_importable, markdown, mean_and_deviation, report_of

from manifests.manifest import Manifest
from prune_toolkit.demo import run

Curve = tuple[list[float], list[float], float]
"""Training seconds and top-1 in percent after each evaluated epoch, and the seconds spent before."""


@click.command()
@click.argument("data", default="demo:digits")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--teacher", type=click.Path(path_type=Path), help="A trained one; else --teacher-spec is trained.")
@click.option("--teacher-spec", default="resnet20")
@click.option("--teacher-flags", default="--epochs 4 --lr 0.1 --batch-size 128 --nesterov --schedule cosine")
@click.option("--student", default="resnet8")
@click.option("--epochs", default=4)
@click.option("--keep", "keeps", default="0.3,0.5,0.7,1")
@click.option("--longer", type=int, help="Epochs of a further arm that learns from all data with stored labels.")
@click.option("--views", default=16, help="Stored views of what was kept.")
@click.option("--augment", default="--augment pad_crop_flip")
@click.option("--seeds", default=1)
@click.option("--train-flags", default="--schedule cosine", help="Of every student.")
@click.option("--index-flags", default="")
def main(
    data: str,
    out: Path | None,
    teacher: Path | None,
    teacher_spec: str,
    teacher_flags: str,
    student: str,
    epochs: int,
    keeps: str,
    longer: int | None,
    views: int,
    augment: str,
    seeds: int,
    train_flags: str,
    index_flags: str,
) -> None:
    make_networks_importable()
    out = out or Path(mkdtemp(prefix="online-"))
    run(f"prune index {data} --beton -o {out}/index {index_flags}")
    run(f"prune index {data} --split test --beton -o {out}/val {index_flags}")
    val = f"--val {out}/val"
    if teacher is None:
        run(
            f"train-student --manifest {out}/index --loss ce --student {teacher_spec} {teacher_flags} {val} "
            f"-o {out}/teacher"
        )
        teacher = out / "teacher" / "student.safetensors"
    run(f"prune score {out}/index --teacher {teacher} -o {out}/scores")
    train = f"train-student {val} --student {student} {train_flags}"
    run(f"prune select {out}/scores --keep 1 --selector random --labels raw -o {out}/all")
    # Whoever trains first in a process loads kernels and compiles.
    run(f"{train} --manifest {out}/all --steps 20 --teacher {teacher} {augment} -o {out}/warm-up")
    arms: dict[str, list[Path]] = {"online, all data": []}
    for seed in range(seeds):
        folder = out / f"online-{seed}"
        run(f"{train} --manifest {out}/all --teacher {teacher} {augment} --epochs {epochs} --seed {seed} -o {folder}")
        arms["online, all data"].append(folder)
        for keep in keeps.split(","):
            folder = out / f"stored-{keep}-{seed}"
            select = f"prune select {out}/scores --keep {keep} --selector random --labels raw --seed {seed}"
            run(f"{select} -o {folder}-kept")
            run(f"prune label {folder}-kept --views {views} --teacher {teacher} {augment} -o {folder}-labelled")
            stored = f"{train} --manifest {folder}-labelled --policy replay --seed {seed}"
            run(f"{stored} --epochs {epochs} -o {folder}")
            arms.setdefault(f"stored, keep {keep}", []).append(folder)
            if longer is not None and float(keep) == 1:
                run(f"{stored} --epochs {longer} -o {folder}-longer")
                arms.setdefault(f"stored, keep {keep}, {longer} epochs", []).append(Path(f"{folder}-longer"))
    title = f"{Path(data).name}: {teacher_name(out)} -> {student}, {epochs} epochs, {views} views, n = {seeds}"
    report(out, arms, title)


def teacher_name(out: Path) -> str:
    """As the scored manifest has it."""
    card = Manifest.open(out / "scores").header.teacher
    return "no teacher" if card is None else card.spec


def curve(folder: Path) -> Curve:
    """Accuracy over training time of one run."""
    seconds, points = 0.0, []
    for row in history_of(folder):
        seconds += row["waiting_for_data_s"] + row["compute_s"]
        if row["val_top1"] is not None:
            points.append((seconds, 100 * row["val_top1"]))
    return [t for t, _ in points], [a for _, a in points], labels_seconds(report_of(folder))


def labels_seconds(run_report: dict[str, Any]) -> float:
    """What the stored labels cost: scoring, selection with its beton, and labelling; nothing for a live teacher."""
    if run_report["policy"] == "online":
        return 0.0
    return sum(float(run_report["labels_time"][name]) for name in ("scoring_s", "selection_s", "labelling_s"))


def report(out: Path, arms: dict[str, list[Path]], title: str) -> None:
    """The table and the two plots."""
    curves = {name: [curve(folder) for folder in folders] for name, folders in arms.items()}
    online = next(iter(curves.values()))
    goal = statistics.mean(accuracy[-1] for _, accuracy, _ in online)
    online_s = statistics.mean(seconds[-1] for seconds, _, _ in online)
    rows = []
    for name, runs in curves.items():
        training_s = statistics.mean(seconds[-1] for seconds, _, _ in runs)
        before_s = statistics.mean(before for _, _, before in runs)
        reached = [next((t for t, a in zip(s, acc, strict=True) if a >= goal), math.nan) for s, acc, _ in runs]
        saved_s = online_s - training_s
        rows.append(
            [
                name,
                mean_and_deviation([accuracy[-1] for _, accuracy, _ in runs]),
                f"{training_s:.0f} ({training_s / online_s:.2f})",
                f"{before_s:.0f}",
                f"{training_s + before_s:.0f} ({(training_s + before_s) / online_s:.2f})",
                ", ".join("never" if math.isnan(t) else f"{t:.0f} ({t / online_s:.2f})" for t in reached),
                f"{math.ceil(before_s / saved_s)}" if before_s and saved_s > 0 else "-",
            ]
        )
    print(f"\n{title}; {report_of(out / 'online-0')['device']}, {platform.machine()}; last epoch, fixed epochs")
    header = [
        "arm",
        "top-1",
        "training s",
        "labels s",
        "total s",
        f"{goal:.2f} % reached after s",
        "pays from students",
    ]
    print("seconds in brackets as a share of the online arm's training time\n\n" + markdown(header, rows))
    draw(curves, goal, title, out / "accuracy")
    print(f"\n{out}/accuracy.svg")


def draw(curves: dict[str, list[Curve]], goal: float, title: str, path: Path) -> None:
    """Accuracy over training time and over total time, one line a run, one colour an arm."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    colours = ["black", *(colormaps["viridis"](x / max(1, len(curves) - 1)) for x in range(len(curves) - 1))]
    for (name, runs), colour in zip(curves.items(), colours, strict=True):
        for number, (seconds, accuracy, before_s) in enumerate(runs):
            label = name if number == 0 else None
            axes[0].plot(seconds, accuracy, color=colour, label=label, linewidth=1.4)
            axes[1].plot([second + before_s for second in seconds], accuracy, color=colour, linewidth=1.4)
    low = min(accuracy[len(accuracy) // 4] for runs in curves.values() for _, accuracy, _ in runs)
    for axis, what in zip(axes, ("training time", "training, scoring and labelling time"), strict=True):
        axis.axhline(goal, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{what}, s")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=low)
    axes[0].set_ylabel("top-1, %")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(title, fontsize=9)
    for suffix in (".svg", ".png"):
        figure.savefig(path.with_suffix(suffix), dpi=130, metadata={"Date": None} if suffix == ".svg" else None)


if __name__ == "__main__":
    main()
