"""Peak memory and time of the commands that look at all samples, on a synthetic manifest, of one or two checkouts.

.venv/bin/python benchmarks/memory.py                                        # 1,000,000 rows of 10 classes
.venv/bin/python benchmarks/memory.py --samples 4000000 --baseline CHECKOUT  # and beside another checkout, in turn

Each command runs in a process of its own, whose time from start to end and peak of resident memory are told: medians of
--runs rounds. With --baseline both checkouts work in turn on the same input, the table has their ratio, and it says
whether they gave the same: manifests by id, everything else by its bytes.
"""

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from _study import markdown
from _synthetic import class_name, write_csv, write_manifest

from manifests.base.layout import HEADER_NAME
from manifests.manifest import Manifest

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command, run in a folder beside those of the inputs."""

    title: str
    arguments: str
    makes: tuple[str, ...] = ()
    """Folders and files that it writes."""
    needs: tuple[str, ...] = ()
    """Cases that come before it."""


def cases(classes: int) -> list[Case]:
    """Every command, in an order in which each finds what it needs."""
    half = ",".join(class_name(label) for label in range((classes + 1) // 2))
    column = "--key file --score difficulty --harder high"
    return [
        Case(title="select", arguments="select ../manifest --keep 0.3 --no-beton -o selected", makes=("selected",)),
        Case(title="diff", arguments="diff ../manifest ../other --json"),
        Case(title="split", arguments=f"split ../manifest --classes {half} -o one --rest two", makes=("one", "two")),
        Case(title="merge", arguments="merge one two -o merged", makes=("merged",), needs=("split",)),
        Case(title="show", arguments="show ../manifest"),
        Case(title="verify", arguments="verify ../manifest --json"),
        Case(title="card", arguments="card ../manifest"),
        Case(title="import", arguments=f"import ../scores.csv ../manifest {column} -o imported", makes=("imported",)),
        Case(title="export", arguments="export selected --filelist kept.txt", makes=("kept.txt",), needs=("select",)),
    ]


def measured(checkout: Path, case: Case, folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a command of a checkout; what it prints goes to `TITLE.out`."""
    folder.mkdir(exist_ok=True)
    for name in case.makes:
        removed(folder / name)
    program = [sys.executable, str(HERE / "_memory.py"), "peak.txt", *case.arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    with (folder / f"{case.title}.out").open("wb") as told:
        done = subprocess.run(program, cwd=folder, env=environment, stdout=told, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"prune {case.arguments}: exit code {done.returncode}")
    return seconds, float((folder / "peak.txt").read_text())


def removed(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def outcome(folder: Path, case: Case) -> Iterator[tuple[str, str]]:
    """Yield what a command gave: ids of manifests, digests of all other files and of what it printed."""
    for name in case.makes:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.name == HEADER_NAME:
                # Its bytes name the seconds it took.
                yield str(file.relative_to(folder)), Manifest.open(file.parent).id
            elif file.is_file():
                yield str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).hexdigest()
    if not case.makes:
        yield "printed", hashlib.sha256((folder / f"{case.title}.out").read_bytes()).hexdigest()


def row(title: str, rounds: list[list[tuple[float, float]]], *, same: bool | None) -> tuple[str, ...]:
    """A row of the table from (seconds, MiB) of every round and checkout: the baseline first, if there is one."""
    medians = [[statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*rounds, strict=True)]
    seconds = " and ".join(f"{seconds:.1f}" for seconds, _ in medians)
    peaks = tuple(f"{peak:,.0f}" for _, peak in medians)
    if same is None:
        return (title, *peaks, seconds)
    return (title, *peaks, f"{medians[1][1] / medians[0][1]:.2f}", seconds, "yes" if same else "NO")


@click.command()
@click.option("--samples", default=1_000_000, show_default=True)
@click.option("--classes", default=10, show_default=True)
@click.option("--runs", default=1, show_default=True, help="Rounds per command.")
@click.option("--baseline", type=click.Path(path_type=Path, exists=True), help="Another checkout to compare with.")
@click.option("--only", multiple=True, metavar="COMMAND", help="Commands to measure [default: all].")
@click.option("--folder", type=click.Path(path_type=Path), help="For the files; inputs in it are used again.")
def main(
    samples: int, classes: int, runs: int, baseline: Path | None, only: tuple[str, ...], folder: Path | None
) -> None:
    checkouts = [HERE.parent] if baseline is None else [baseline.resolve(), HERE.parent]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) if folder is None else folder.resolve()
        write_inputs(work, samples, classes)
        rows, there = [], set[str]()
        for case in cases(classes):
            if only and case.title not in only:
                continue
            for needed in [each for each in cases(classes) if each.title in case.needs and each.title not in there]:
                for number, checkout in enumerate(checkouts):
                    measured(checkout, needed, work / f"side-{number}")
                there.add(needed.title)
            rounds = [
                [measured(checkout, case, work / f"side-{number}") for number, checkout in enumerate(checkouts)]
                for _ in range(runs)
            ]
            there.add(case.title)
            gave = [dict(outcome(work / f"side-{number}", case)) for number in range(len(checkouts))]
            rows.append(row(case.title, rounds, same=None if baseline is None else gave[0] == gave[1]))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(f"{samples:,} samples x {classes:,} classes, n = {runs}\n")
    titles = ("peak MiB", "seconds") if baseline is None else ("before MiB", "after MiB", "ratio", "seconds", "same")
    print(markdown(("command", *titles), rows))


def write_inputs(work: Path, samples: int, classes: int) -> None:
    """Two manifests with logits of one view and all scores, and a score in a CSV, unless they are there."""
    start = time.perf_counter()
    for seed, name in enumerate(("manifest", "other")):
        if not (work / name / HEADER_NAME).is_file():
            write_manifest(work / name, samples, classes, logits=True, seed=seed)
    if not (work / "scores.csv").is_file():
        write_csv(work / "scores.csv", Manifest.open(work / "manifest"))
    print(f"written in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
