"""The hold-out: training samples that a sweep evaluates students on, and does not train these students on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from manifests.base.layout import HEADER_NAME
from manifests.errors import UsageError
from manifests.manifest import Manifest
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.sweep.grid import Grid
from prune_toolkit.sweep.runs import SweepTeacher
from prune_toolkit.sweep.work import select_by_command

HOLDOUT_SEED = 1_000_003
"""Seed of the hold-out: one that a run is unlikely to have."""
_METHOD, _QUOTA, _LABELS = "random", "proportional", "raw"


def holdout_command(grid: Grid, teacher: SweepTeacher) -> tuple[str, ...]:
    """Return the arguments of prune select for the hold-out, except --out."""
    flags = ("--selector", _METHOD, "--quota", _QUOTA, "--labels", _LABELS, "--seed", str(HOLDOUT_SEED))
    return (str(teacher.manifest.path), "--keep", str(grid.holdout), *flags)


def write_holdout(grid: Grid, teachers: Sequence[SweepTeacher], folder: Path) -> None:
    """Write the hold-out unless it is there; replace one that an earlier call with other options left before it began.

    Raises UsageError if the folder has a manifest that is not a hold-out of a sweep.
    """
    if (folder / HEADER_NAME).is_file() and not _is_wanted(Manifest.open(folder), grid, teachers):
        shutil.rmtree(folder)
    select_by_command(holdout_command(grid, teachers[0]), folder)


def _is_wanted(there: Manifest, grid: Grid, teachers: Sequence[SweepTeacher]) -> bool:
    """Return whether a manifest is the hold-out of this grid, made from the manifest of any of the teachers."""
    chosen, labels = there.header.selection, there.header.labels
    made = None if chosen is None or labels is None else (chosen.method, chosen.quota, labels.transform, chosen.seed)
    if chosen is None or made != (_METHOD, _QUOTA, _LABELS, HOLDOUT_SEED):
        raise UsageError(f"{there.path} is not the hold-out of a sweep", hint="name another folder with --out")
    is_of_these = any(there.header.parents == [teacher.manifest.id] for teacher in teachers)
    return is_of_these and Keep.parse(chosen.keep_asked) == grid.holdout
