"""Plan the selections and runs of a grid, before anything is written or trained.

Equal selections are made once: they are identified by the samples they keep and the targets of these. Equal runs are
trained once: they differ by their flags and their selection, of which only the samples count if the loss uses no
targets.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.cli.options import made
from prune_toolkit.cli.select_command import command as select_command
from prune_toolkit.cli.select_command import select_config
from prune_toolkit.quotas.keep import WHOLE, Keep
from prune_toolkit.selection.choose_samples import SelectionPlan, plan_selection
from prune_toolkit.sweep.flags import train_options
from prune_toolkit.sweep.grid import OF_OPEN_LENGTH, Arm, Grid, all_arms
from prune_toolkit.sweep.run_lengths import budget_flags, images_shown
from trainer.config import TrainConfig
from trainer.data.stored import StoredLabels, scored_recipe
from trainer.loop.recipes import resolve
from trainer.losses import LOSSES
from trainer.losses.settings import under_flags

Cell = tuple[Arm, str, Keep]
"""An arm, a teacher and a keep."""
_CHOSEN_BY = {
    *("command", "parent", "keep", "selector", "parameters", "score", "quota", "per_class_min", "without"),
    *("seed", "preset", "distill_fraction", "distill_by"),
}
"""Keys of a resolved selection that only affect which samples are kept, and which of these are distilled."""


@dataclass(frozen=True, kw_only=True)
class SweepTeacher:
    """A scored manifest and the name of its teacher in tables."""

    name: str
    manifest: Manifest


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedSelection:
    """A planned selection."""

    key: str
    """Digest of the kept samples and their targets; the name of its folder."""
    samples_key: str
    """Digest of the kept samples and their views, without the targets."""
    command: tuple[str, ...]
    """Arguments of prune select except --out."""
    stored: StoredLabels
    """The labels and views stored in it, for a student."""
    published: Mapping[str, Any]
    """Settings of the loss from its preset and its labels."""
    labels: str

    @property
    def count(self) -> int:
        """Number of samples kept."""
        return self.stored.count


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
    cards = [(manifest.header.teacher, manifest.path) for manifest in manifests]
    specs = [path.name if card is None else card.spec for card, path in cards]
    names = _unique_names(specs, [manifest.path for manifest in manifests])
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


class Planner:
    """Plans the rows of a grid, with or without a hold-out; each selection is planned once."""

    def __init__(self, grid: Grid, teachers: Sequence[SweepTeacher], without: Path | None = None) -> None:
        self.grid, self.teachers, self.without = grid, teachers, without
        self._arms = all_arms(grid)
        self._planned: dict[tuple[str, ...], PlannedSelection] = {}
        self._first: dict[str, PlannedSelection] = {}
        self.skipped: set[Cell] = set()
        """Cells that `rows` left out because their runs would be too short for the arm."""

    def rows(self, seeds: range) -> Iterator[Row]:
        """Yield every arm at every keep with every KD weight, a run per seed."""
        for teacher, arm in product(self.teachers, self._arms):
            for keep, weight in product(self._keeps(arm), arm.weights or (None,)):
                planned = [self._run(teacher, arm, keep, weight, seed) for seed in seeds]
                runs = tuple(run for run in planned if run is not None)
                if len(runs) < len(seeds):
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

        selected = self._chosen(teacher, arm, keep, seed) if arm.kind in ("fewer", *OF_OPEN_LENGTH) else chosen
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


def plan_command(command: tuple[str, ...], manifest: Manifest) -> PlannedSelection:
    """Plan a selection given as arguments of prune select; raises the same errors as that command."""
    context = select_command.make_context("select", [*command, "--out", "selection"])
    plan = plan_selection(made(select_config, context.params), manifest)
    samples_key = short_digest({"kept": _sha256(plan.keep_N), "shown": _shown(plan)})
    taught = {name: value for name, value in plan.resolved.items() if name not in _CHOSEN_BY}
    key = {"samples": samples_key, "parent": manifest.id, "taught": taught, "distilled": _sha256(plan.distilled_N)}
    loss, revision = dict[str, Any](plan.decisions.loss), plan.decisions.revision
    return PlannedSelection(
        key=short_digest(key),
        samples_key=samples_key,
        command=command,
        stored=_stored(plan),
        published=loss | ({} if revision is None else {"revise_eta": revision.eta, "revise_scope": revision.scope}),
        labels=plan.decisions.labels,
    )


def short_digest(content: object) -> str:
    """Return a digest of plain values: twelve hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sha256(values_N: NDArray[Any]) -> str:
    return hashlib.sha256(values_N.tobytes()).hexdigest()


def _shown(plan: SelectionPlan) -> dict[str, Any]:
    """Return what determines the pixels shown to a student, and the loss of a preset."""
    header = plan.parent.header
    counted = {"count", "top_k"}
    return {
        "data": header.data.fingerprint,
        "image": None if header.teacher is None else header.teacher.preprocessing.model_dump(),
        "views": None if header.views is None else header.views.model_dump(exclude=counted, exclude_none=True),
        "max_side": plan.max_side,
        "loss": dict(plan.decisions.loss),
    }


def _stored(plan: SelectionPlan) -> StoredLabels:
    """Return what a training task will find in the selection."""
    views, card = plan.parent.header.views, plan.parent.header.teacher
    return StoredLabels(
        count=plan.count,
        image_px=224 if card is None else card.preprocessing.image_px,
        view_count=len(plan.targets.tables),
        policy=plan.targets.policy,
        scored=scored_recipe(views) if views is not None and views.recipe != "eval" else None,
        scored_views=plan.targets.views,
        top_k=plan.targets.top_k,
    )


def run_config(chosen: PlannedSelection, flags: Sequence[str]) -> TrainConfig:
    """Return the configuration that train-student makes of these flags; UsageError for an invalid one."""
    given = train_options(flags)
    names = {field.name for field in fields(TrainConfig)} - {"recipe"}
    asked = under_flags(chosen.published, {name: value for name, value in given.items() if name in names})
    return resolve(asked, recipe=given.get("recipe", "auto"), stored=chosen.stored)
