"""Plan the runs of a grid, before anything is written or trained.

Equal runs are trained once: runs differ by their flags and their selection, of which only the samples count if the loss
uses no targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.base.layout import HEADER_NAME
from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import WHOLE, Keep
from prune_toolkit.sweep.grid import Arm, Grid, all_arms
from prune_toolkit.sweep.run_lengths import budget_flags, images_shown, run_config
from prune_toolkit.sweep.selections import PlannedSelection, plan_command, short_digest
from trainer.config import TrainConfig
from trainer.losses import LOSSES

Cell = tuple[Arm, str, Keep]
"""An arm, a teacher and a keep."""


@dataclass(frozen=True, kw_only=True)
class SweepTeacher:
    """A scored manifest and the name of its teacher in tables."""

    name: str
    manifest: Manifest


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedRun:
    """A student to be trained."""

    key: str
    selection: PlannedSelection
    flags: tuple[str, ...]
    """Flags of train-student except --manifest, --val and --out."""
    budget: tuple[str, ...]
    """Those of the flags that set its length."""
    loss: str
    seed: int
    images: int
    """The largest number of images it is shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """An arm at a keep, with one of its KD weights and one teacher: one run per seed."""

    arm: Arm
    teacher: str
    keep: Keep
    weight: str | None
    runs: tuple[PlannedRun, ...]

    @property
    def cell(self) -> Cell:
        """The cell for which a KD weight is chosen."""
        return self.arm, self.teacher, self.keep

    @property
    def run_keys(self) -> tuple[str, ...]:
        """The keys of its runs: rows that share these are one experiment."""
        return tuple(run.key for run in self.runs)


def named_teachers(folders: Sequence[Path]) -> list[SweepTeacher]:
    """Open scored manifests of one data set and name their teachers, each by its spec, else by the end of its path.

    Raises MismatchError if one has other data; UsageError for a manifest that is given twice.
    """
    manifests = [Manifest.open(folder) for folder in folders]
    first = manifests[0]
    for other in manifests[1:]:
        if other.header.data.fingerprint != first.header.data.fingerprint:
            raise MismatchError(
                f"{other.path} and {first.path} are manifests of different data",
                hint="a sweep compares teachers of one data set: score the same index with each of them",
            )
    by_id: dict[str, Manifest] = {}
    for manifest in manifests:
        if (same := by_id.setdefault(manifest.id, manifest)) is not manifest:
            raise UsageError(
                f"{same.path} and {manifest.path} are the same manifest",
                hint="name each teacher's manifest once; --seeds sets the number of students",
            )
    names = _unique_names([_spec(manifest) for manifest in manifests], [manifest.path for manifest in manifests])
    return [SweepTeacher(name=name, manifest=manifest) for name, manifest in zip(names, manifests, strict=True)]


def _unique_names(specs: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return the specs; a spec that several share is replaced by as much of the end of its path as is unique."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [Path(*of[-length:]).as_posix() for of in parts]
        names = [spec if specs.count(spec) == 1 else end for spec, end in zip(specs, ends, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def _spec(manifest: Manifest) -> str:
    card = manifest.header.teacher
    return manifest.path.name if card is None else card.spec


class Planner:
    """Plans the rows of a grid, with or without a hold-out; each selection is planned once."""

    def __init__(self, grid: Grid, teachers: Sequence[SweepTeacher], without: Path | None = None) -> None:
        self.grid, self.teachers, self.without = grid, teachers, without
        self._arms = all_arms(grid)
        self._planned: dict[tuple[str, ...], PlannedSelection] = {}
        self._first: dict[str, PlannedSelection] = {}
        self.skipped: set[Cell] = set()
        """Cells that `rows` left out because their runs would be too short for the arm."""

    def rows(self, seeds: int) -> Iterator[Row]:
        """Yield every arm at every keep with every KD weight, `seeds` runs each."""
        for teacher in self.teachers:
            for arm in self._arms:
                for keep in self._keeps(arm):
                    for weight in arm.weights or (None,):
                        planned = [self._run(teacher, arm, keep, weight, seed) for seed in range(seeds)]
                        runs = tuple(run for run in planned if run is not None)
                        if len(runs) < seeds:
                            self.skipped.add((arm, teacher.name, keep))
                        else:
                            yield Row(arm=arm, teacher=teacher.name, keep=keep, weight=weight, runs=runs)

    def _keeps(self, arm: Arm) -> list[Keep]:
        if arm.kind == "all":
            return [WHOLE]
        below = [keep for keep in self.grid.keeps if not keep.is_whole]
        if arm.kind == "infobatch":
            return [*below, WHOLE]
        return list(self.grid.keeps) if arm.kind == "static" else below

    def _run(self, teacher: SweepTeacher, arm: Arm, keep: Keep, weight: str | None, seed: int) -> PlannedRun | None:
        """Plan a run; None if it would be too short for the arm."""
        chosen = self._chosen(teacher, arm, keep if arm.kind == "static" else WHOLE, seed)
        flags = (
            *(() if self.grid.student is None else ("--student", self.grid.student)),
            *self.grid.every_train,
            *arm.train,
            *(() if weight is None else ("--kd-weight", weight)),
            *("--seed", str(seed)),
        )

        def configure(further: tuple[str, ...]) -> TrainConfig:
            return run_config(chosen, (*flags, *further))

        selected = self._chosen(teacher, arm, keep, seed) if arm.kind in ("fewer", "infobatch") else chosen
        try:
            budget = budget_flags(
                self.grid, arm.kind, keep, count=chosen.count, selected=selected.count, configure=configure
            )
            if budget is None:
                return None
            config = configure(budget)
        except UsageError as error:
            raise UsageError(f"{arm.name}: {error.message}", hint=error.hint) from None
        targets = chosen.key if LOSSES[config.loss].needs_targets else chosen.samples_key
        return PlannedRun(
            key=short_digest([targets, flags, budget, self.without is not None]),
            selection=chosen,
            flags=(*flags, *budget),
            budget=budget,
            loss=config.loss,
            seed=seed,
            images=images_shown(config, chosen.count),
        )

    def _chosen(self, teacher: SweepTeacher, arm: Arm, keep: Keep, seed: int) -> PlannedSelection:
        command = (
            *(str(teacher.manifest.path), "--keep", str(keep)),
            *self.grid.every_select,
            *arm.select,
            *("--seed", str(seed)),
            *(() if self.without is None else ("--without", str(self.without))),
        )
        if command not in self._planned:
            chosen = plan_command(command, teacher.manifest)
            # Equal selections are made once, by the first command.
            self._planned[command] = self._first.setdefault(chosen.key, chosen)
        return self._planned[command]


def data_identity(spec: str) -> str:
    """Return what identifies validation data: the id of a manifest, else the text of the option."""
    return Manifest.open(spec).id if (Path(spec) / HEADER_NAME).is_file() else spec
