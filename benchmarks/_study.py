"""What the studies share: runs of the two commands, several at once, and tables of their run.json files."""

import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t

AUGMENTATIONS = {"weak": "--augment pad_crop_flip", "strong": "--augment resized_crop_flip --scale-min 0.25"}


def pool_and_teacher(
    data: str, out: Path, pool: int | None, teacher: Path | None, teacher_epochs: int, index_flags: str
) -> tuple[Path, Path]:
    """An index of the training images, or of a random pool of them, and a teacher: trained on all where none is named.

    The index has a beton, and so has that of the test images at out/val. Steps whose result is there are skipped.
    """
    from manifests.manifest import Manifest
    from prune_toolkit.demo import run

    run(f"prune index {data} --beton -o {out}/all {index_flags}")
    run(f"prune index {data} --split test --beton -o {out}/val {index_flags}")
    if teacher is None:
        run(
            f"train-student --manifest {out}/all --loss ce --student resnet20 --epochs {teacher_epochs} --lr 0.1 "
            f"--batch-size 128 --nesterov --schedule cosine {AUGMENTATIONS['strong']} --val {out}/val -o {out}/teacher"
        )
        teacher = out / "teacher" / "student.safetensors"
    if pool is None:
        return out / "all", teacher
    everything = Manifest.open(out / "all")
    run(f"prune score {everything.path} --teacher {teacher} -o {out}/all-scores")
    run(
        f"prune select {out}/all-scores --keep {pool}/{everything.header.data.readable} --selector random --labels raw "
        f"--seed 1000 -o {out}/pool-images"
    )
    names = out / "names.txt"
    names.write_text("\n".join(everything.class_names))
    run(f"prune index {out}/pool-images/train.beton --classes {names} --beton -o {out}/pool")
    return out / "pool", teacher


@dataclass(frozen=True)
class Job:
    """One run: its folder, the commands that make it, and what they need on the way and nobody afterwards."""

    folder: Path
    commands: tuple[str, ...]
    scratch: Path | None = None


def run_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Run what is not finished yet, each job in one of several processes of one thread; a log lies beside each run."""
    left = [job for job in jobs if not (job.folder / "run.json").is_file()]
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are there already", flush=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, name in enumerate(pool.imap_unordered(_run, left), start=1):
            rest = (time.monotonic() - started) / done * (len(left) - done)
            print(f"{done}/{len(left)} {name}, about {rest / 60:.0f} min left", flush=True)


def _run(job: Job) -> str:
    from prune_toolkit.demo import run

    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with (job.folder.parent / f"{job.folder.name}.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        for command in job.commands:
            run(command)
    if job.scratch is not None:
        shutil.rmtree(job.scratch)
    return job.folder.name


def report_of(folder: Path) -> dict[str, Any]:
    """run.json of a run."""
    report: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    return report


def history_of(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl of a run, a row an epoch."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean +- standard deviation of top-1 in percent."""
    deviation = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{statistics.mean(values):.2f} ± {deviation}"


def paired_interval(values: Sequence[float], baseline: Sequence[float]) -> str:
    """Mean difference of paired runs with its 95 % interval (Student's t)."""
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    if len(differences) < 2:
        return f"{differences[0]:+.2f}"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.mean(differences):+.2f} ± {half:.2f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def make_networks_importable() -> None:
    """Let the spec _networks:NAME find benchmarks/_networks.py, in this process and in those it starts."""
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
