"""Run a sweep from grid to finished runs: hold out, plan everything, tune on the hold-out, train the rest."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.base.progress import format_seconds, note
from manifests.errors import IncompleteError
from manifests.manifest import Manifest
from manifests.sources import ReadOptions
from prune_toolkit.sweep.flags import train_flags, train_options
from prune_toolkit.sweep.grid import ALL, OF_OPEN_LENGTH, Grid, unweighted_losses
from prune_toolkit.sweep.run_lengths import FEWEST_PRUNED
from prune_toolkit.sweep.runs import Cell, PlannedRun, Planner, Row, SweepTeacher, named_teachers
from prune_toolkit.sweep.sweep_folder import RUN_NAME, SweepFolder
from prune_toolkit.sweep.work import HOLDOUT_SEED, Job, perform, printing_to, write_holdout
from prune_toolkit.sweep.workers import cores, run_each
from trainer.data.task import open_validation
from trainer.losses import LOSSES

T = TypeVar("T")
HOLDOUT = "hold-out"
SAME_FAILURES = 4
"""The sweep stops if its first runs, this many, fail in the same way: the others would too."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The options of `prune sweep`."""

    grid: Grid
    manifests: tuple[Path, ...]
    out: Path
    val: str | None = None
    jobs: int = 1
    keep_betons: bool = False


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Rows whose runs are evaluated on the same images."""

    rows: tuple[Row, ...]
    val: str
    """The --val of its runs."""
    judged_on: str

    def runs(self) -> dict[str, tuple[Row, PlannedRun]]:
        """Return every run once, seed by seed, with the first row it belongs to."""
        found = [(row, run) for row in self.rows for run in row.runs]
        runs: dict[str, tuple[Row, PlannedRun]] = {}
        for row, run in sorted(found, key=lambda pair: pair[1].seed):
            runs.setdefault(run.key, (row, run))
        return runs


@dataclass(frozen=True, kw_only=True)
class Study:
    """A planned sweep, in two phases if there are KD weights to choose."""

    config: SweepConfig
    teachers: tuple[SweepTeacher, ...]
    tuning: Phase | None
    final: Phase
    """With every KD weight; `final_phase` keeps those that tuning chose."""

    @property
    def folder(self) -> SweepFolder:
        """The folder of the sweep."""
        return SweepFolder(self.config.out)


def describe(config: SweepConfig, teachers: Sequence[SweepTeacher]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that may never change in a folder, and those that may be extended."""
    grid, val = config.grid, config.val
    fixed = {
        "student": grid.student,
        "train": list(grid.every_train),
        "select-flags": list(grid.every_select),
        "epochs": grid.epochs,
        "steps": grid.steps,
        # A manifest is identified by its id, whatever its path; other images by the text of the option.
        "val": Manifest.open(val).id if val is not None and (Path(val) / HEADER_NAME).is_file() else val,
        "holdout": str(grid.holdout),
        "holdout-seed": HOLDOUT_SEED,
        # Sweeps of before this option go on.
        **({"first-seed": grid.first_seed} if grid.first_seed else {}),
    }
    lists = {
        "manifest": [teacher.manifest.id for teacher in teachers],
        "keep": [str(keep) for keep in grid.keeps],
        "select": list(grid.selects),
        "labels": list(grid.labels),
        "loss": list(grid.losses),
        "kd-weight": list(grid.kd_weights),
        "dynamic": list(grid.dynamics),
    }
    return fixed, {**lists, "seeds": grid.seeds, "tune-seeds": grid.tune_seeds}


def plan_study(config: SweepConfig, teachers: Sequence[SweepTeacher], holdout: Path | None) -> Study:
    """Plan every selection and run; errors of any of them are raised here."""
    grid = config.grid
    if config.val is not None:
        _check_validation(config.val, grid, teachers[0])
    for name in [name for kind, name in OF_OPEN_LENGTH.items() if kind in grid.dynamics and grid.steps is not None]:
        note(f"{name} is left out: its number of steps cannot be set, as --steps requires")
    for loss in unweighted_losses(grid):
        weight = LOSSES[loss].published["kd_weight"]
        note(
            f"--kd-weight is left out for {loss}, which keeps its published {weight:g}; "
            f'to set another, add it to an entry: --select "random -- --loss {loss} --kd-weight ..."'
        )
    held = str(config.out / "holdout")
    last = Planner(grid, teachers, holdout if config.val is None else None)
    rows, skipped, tuning = tuple(last.rows(range(grid.first_seed, grid.first_seed + grid.seeds))), last.skipped, None
    if config.val is not None and holdout is not None:
        before = Planner(grid, teachers, holdout)
        tuned = tuple(row for row in before.rows(range(grid.tune_seeds)) if row.weight is not None)
        # A cell that one phase leaves out is left out of the other as well.
        skipped = skipped | before.skipped
        tuning = Phase(rows=_without(tuned, skipped), val=held, judged_on=HOLDOUT)
    for name in sorted({arm.name for arm, _, _ in skipped}):
        keeps = sorted({keep for arm, _, keep in skipped if arm.name == name})
        note(
            f"{name} is left out at keep {', '.join(map(str, keeps))}: "
            f"fewer than {FEWEST_PRUNED} of its epochs would leave samples out"
        )
    final = Phase(rows=_without(rows, skipped), val=config.val or held, judged_on=config.val or HOLDOUT)
    return Study(config=config, teachers=tuple(teachers), tuning=tuning, final=final)


def _without(rows: Iterable[Row], cells: Set[Cell]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.cell not in cells)


READ_OPTIONS = ("classes", "label", "configuration", "list_file", "file_column", "split_column")
"""The options of train-student, besides --val-split, that say how --val is read."""


def _check_validation(val: str, grid: Grid, teacher: SweepTeacher) -> None:
    """Open the test images as train-student will, so that errors are found before anything is trained."""
    given = train_flags(grid.every_train, "--train")
    open_validation(
        val,
        ReadOptions(split=given.get("val_split"), **{name: given.get(name) for name in READ_OPTIONS}),
        teacher.manifest.class_names,
        given.get("class_map"),
    )


def needs_holdout(config: SweepConfig) -> bool:
    """Return whether any run is evaluated on samples of the training data."""
    return config.val is None or len(config.grid.kd_weights) > 1


def dry_study(config: SweepConfig) -> Study:
    """Plan a sweep without leaving any files."""
    teachers = named_teachers(config.manifests)
    SweepFolder(config.out).check(*describe(config, teachers))
    if not needs_holdout(config):
        return plan_study(config, teachers, None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "holdout"
        with printing_to(Path(scratch) / "log"):
            write_holdout(config.grid, teachers, folder, "--no-beton")
        return plan_study(config, teachers, folder)


def run_study(config: SweepConfig, report: Callable[[Study, Mapping[Cell, str]], T]) -> tuple[list[str], T]:
    """Run a sweep; return a line for each run that failed, and the report.

    report: called with the study and the chosen KD weights when all runs have ended.
    """
    teachers = named_teachers(config.manifests)
    fixed, asked = describe(config, teachers)
    folder = SweepFolder(config.out)
    folder.check(fixed, asked)
    with folder.locked():
        folder.check(fixed, asked)
        holdout = folder.holdout if needs_holdout(config) else None
        if holdout is not None:
            with printing_to(folder.path / "logs" / "holdout.log"):
                write_holdout(config.grid, teachers, holdout)
        study = plan_study(config, teachers, holdout)
        folder.begin(fixed, asked)
        failed, chosen = [], dict[Cell, str]()
        if study.tuning is not None:
            later = sum(run.images for _, run in one_weight(study.final).runs().values())
            failed += _run_phase(study, study.tuning, later=later)
            chosen = chosen_weights(study.tuning, folder)
        failed += _run_phase(study, final_phase(study, chosen), later=0)
        return failed, report(study, chosen)


def final_phase(study: Study, chosen: Mapping[Cell, str]) -> Phase:
    """Return the final rows: all of them, or only those with the chosen KD weights."""
    if study.tuning is None:
        return study.final
    rows = [row for row in study.final.rows if row.weight is None or chosen.get(row.cell) == row.weight]
    return replace(study.final, rows=tuple(rows))


def one_weight(phase: Phase) -> Phase:
    """Return a phase with the first KD weight of every cell; it takes as long as with any other."""
    first: dict[Cell, Row] = {}
    for row in phase.rows:
        first.setdefault(row.cell, row)
    return replace(phase, rows=tuple(first.values()))


def chosen_weights(tuning: Phase, folder: SweepFolder) -> dict[Cell, str]:
    """Return the KD weight with the highest mean top-1 on the hold-out, by cell; no entry if a run is missing.

    Among equal ones, the first.
    """
    means: dict[Cell, dict[str, float]] = {}
    incomplete = set[Cell]()
    for row in tuning.rows:
        reports = [folder.report(run.key) for run in row.runs]
        found = [report["last"]["top1"] for report in reports if report is not None]
        if len(found) < len(reports):
            incomplete.add(row.cell)
        elif row.weight is not None:
            means.setdefault(row.cell, {})[row.weight] = sum(found) / len(found)
    return {cell: max(of, key=of.__getitem__) for cell, of in means.items() if cell not in incomplete}


def job_of(study: Study, phase: Phase, row: Row, run: PlannedRun) -> Job:
    """Return a run as two commands; its title has arm, labels, loss, KD weight, keep and seed."""
    weight = "" if row.weight is None else f"weight {row.weight}"
    keep = "" if row.arm.name == ALL else f"keep {row.keep}"
    parts = (row.arm.name, run.selection.labels, run.loss, weight, keep, f"seed {run.seed}")
    folder, title = study.folder, ", ".join(part for part in parts if part)
    at = folder.run(run.key, f"{'tune ' if phase is study.tuning else ''}{title}")
    workers = () if "workers" in train_options(run.flags) else ("--workers", str(max(1, cores() // study.config.jobs)))
    return Job(
        key=run.key,
        title=title,
        select=run.selection.command,
        selection=folder.selection(run.selection.key),
        train=(*run.flags, "--val", phase.val, *workers),
        folder=at,
        log=folder.path / "logs" / f"{at.name}.log",
        images=run.images,
    )


class TimeLeft:
    """Seconds left, from the images still to be shown and the measured rate.

    The first run of each worker includes its start-up, so the rate is measured after these, once there are later runs.
    """

    def __init__(self, workers: int, images: int, now: float) -> None:
        self._workers, self._left = workers, images
        self._runs = self._shown = 0
        self._since = now

    def after(self, images: int, now: float) -> float:
        """Return the seconds left after a run of `images` images has ended."""
        self._runs, self._left, self._shown = self._runs + 1, self._left - images, self._shown + images
        seconds = self._left * (now - self._since) / max(1, self._shown)
        if self._runs == self._workers:
            self._shown, self._since = 0, now
        return seconds


def _run_phase(study: Study, phase: Phase, *, later: int) -> list[str]:
    """Train unfinished runs; return a line for each that failed. `later`: images to be shown after this phase."""
    runs = phase.runs()
    jobs = [job_of(study, phase, row, run) for row, run in runs.values() if study.folder.report(run.key) is None]
    needed = Counter(job.selection for job in jobs)
    images = sum(job.images for job in jobs)
    note(
        f"{len(runs)} runs judged on {phase.judged_on}, {len(runs) - len(jobs)} of them finished already; "
        f"{images:,} images to be shown"
    )
    left = TimeLeft(study.config.jobs, images + later, time.monotonic())
    failures: list[tuple[Job, str]] = []
    with closing(run_each(perform, jobs, study.config.jobs)) as outcomes:
        for done, (job, problem) in enumerate(outcomes, start=1):
            needed[job.selection] -= 1
            if not needed[job.selection] and not study.config.keep_betons:
                (job.selection / BETON_NAME).unlink(missing_ok=True)
            report = None if problem else study.folder.report(job.key)
            if report is None:
                failures.append((job, problem or f"left no {RUN_NAME}"))
                result = f"FAILED: {failures[-1][1]}; see {job.log}"
            else:
                result = f"{100 * report['last']['top1']:.2f} %, {format_seconds(report['time']['total_s'])}"
            seconds = left.after(job.images, time.monotonic())
            note(f"{done}/{len(jobs)} {job.title}: {result}; {format_seconds(seconds)} left")
            if len(failures) == done == SAME_FAILURES and len({why for _, why in failures}) == 1:
                raise IncompleteError(
                    f"the first {done} runs failed in the same way: {failures[0][1]}", hint=f"see the log: {job.log}"
                )
    return [f"{job.title}: {problem} ({job.log})" for job, problem in failures]
