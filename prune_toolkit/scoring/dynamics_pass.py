"""`prune score --dynamics`: add scores of the training dynamics that runs recorded to a scored manifest.

No image is read: all tables of the manifest are linked, and one is added. Torch-free.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.dynamics import Dynamics, read_dynamics
from manifests.manifest import Manifest
from prune_toolkit.scoring.dynamics_scores import DYNAMICS, NEEDS, WINDOW, DynamicsScore, Epochs
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.work.score_set import add_score_set

LEAST_WINDOW = 3
"""Epochs in which a change from one to the next can vary."""
MOSTLY_STEPPED = 0.9
"""A note is printed if the steps showed a smaller share: samples that a dynamic method skips are recorded differently,
in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class DynamicsPlan:
    """Runs that fit a manifest, and the scores to compute from them."""

    out: Path
    parent: Manifest
    runs: list[Dynamics]
    early_epochs: list[int]
    """The early epoch of each run, counted from 1."""
    scores: list[DynamicsScore]
    window: int | None = None
    """Epochs of a window, if asked for."""

    @classmethod
    def of(
        cls,
        out: Path,
        parent: Manifest,
        runs: Sequence[Path],
        early_epoch: int | None = None,
        window: int | None = None,
    ) -> "DynamicsPlan":
        """Read the records of the runs and check them against the manifest.

        Raises UsageError for a manifest that is not scored or already has such scores, for a run that is given twice,
        for an early epoch that was not recorded, and for a window of less than three epochs; MismatchError for a run on
        other data; InputError for a run that did not record every readable sample.
        """
        if parent.kind != "scores":
            raise UsageError(
                f"{parent.path} is of kind {parent.kind}: scores of dynamics can only be added to a scored manifest",
                hint="make one: prune score DATA --teacher TEACHER",
            )
        if window is not None and window < LEAST_WINDOW:
            raise UsageError(f"--window {window}: at least {LEAST_WINDOW} epochs", hint=f"{WINDOW} is usual")
        if parent.header.data.is_unlabelled:
            raise UsageError(
                f"scores of dynamics compare answers with labels, and the images of {parent.path} have none",
                hint="select by a score that needs none, such as entropy",
            )
        if parent.has(f"scores/{DYNAMICS}"):
            raise UsageError(
                f"{parent.path} already has scores of dynamics",
                hint=f"start from the manifest it was made from, {parent.header.parents[0][:12]}",
            )
        records = [_checked(read_dynamics(run), parent) for run in runs]
        _refuse_twice(records)
        for record in records:
            _tell(record, window or WINDOW)
        early = [_early(record, early_epoch) for record in records]
        scores = []
        for entry in DynamicsScore.registered():
            lacking = [need for record in records for need in entry.lacks(_epochs(record, 0))]
            if lacking:
                note(f"no {entry.name}: every run must record {lacking[0]} ({NEEDS[lacking[0]][1]})")
            else:
                scores.append(entry)
        return cls(out=out, parent=parent, runs=records, early_epochs=early, scores=scores, window=window)

    def run_facts(self) -> list[dict[str, Any]]:
        """Return the runs, as a header names them."""
        return [
            {
                "manifest": record.info.manifest,
                "run": record.info.run,
                "content": record.content_digest,
                "student": record.info.student,
                "seed": record.info.seed,
                "epochs": record.info.epochs_recorded,
                "grand_epochs": record.info.grand_epochs,
                "early_epoch": early,
            }
            for record, early in zip(self.runs, self.early_epochs, strict=True)
        ]

    def resolved(self) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        return {
            "command": "score",
            "parent": self.parent.id,
            DYNAMICS: self.run_facts(),
            **({} if self.window is None else {"window": self.window}),
            **outside_scores(DYNAMICS),
        }


def write_dynamics_scores(plan: DynamicsPlan) -> Manifest:
    """Write the manifest with one more set of scores."""
    return add_score_set(
        plan.parent,
        plan.out,
        lambda: (plan.runs[0].sample_id_N, [(entry.spec(), mean_over_runs(entry, plan)) for entry in plan.scores]),
        config=plan.resolved(),
        facts={"training_seconds": _training_seconds(plan.runs)},
    )


def mean_over_runs(entry: DynamicsScore, plan: DynamicsPlan) -> NDArray[np.float32]:
    """(N,) float32 mean of a score over the runs; InputError if it is not finite."""
    total_N = np.zeros(len(plan.runs[0].sample_id_N))
    for record, early in zip(plan.runs, plan.early_epochs, strict=True):
        value_N = np.asarray(entry.function(_epochs(record, early - 1, plan.window)), np.float64)
        finite_N = np.isfinite(value_N)
        if not finite_N.all():
            row = int(np.argmin(finite_N))
            raise InputError(
                f"{record.path}: {entry.name} of sample {record.sample_id_N[row]} is {value_N[row]}",
                hint="the run diverged: train again with a smaller learning rate",
            )
        total_N += value_N
    return (total_N / len(plan.runs)).astype(np.float32)


def _epochs(record: Dynamics, early: int, window: int | None = None) -> Epochs:
    info = record.info
    return Epochs(
        count=info.epochs_recorded,
        read=record.epoch,
        early=early,
        grand_count=min(info.grand_epochs, info.epochs_recorded),
        has_kl=info.has_kl,
        window=window or WINDOW,
    )


def _checked(record: Dynamics, parent: Manifest) -> Dynamics:
    data = parent.header.data
    if record.info.fingerprint != data.fingerprint:
        raise MismatchError(
            f"{record.path} was trained on other data than {parent.path}: "
            f"fingerprint {record.info.fingerprint[:16]}, not {data.fingerprint[:16]}",
            hint="name a run that was trained on a selection of this manifest",
        )
    samples = parent.samples(["sample_id", "key", "problem"])
    ids = samples.filter(samples.column("problem").is_null()).column("sample_id").to_numpy()
    missing = np.setdiff1d(ids, record.sample_id_N)
    if len(missing):
        first = samples.column("key")[int(missing[0])].as_py()
        raise InputError(
            f"{record.path} recorded {len(ids) - len(missing):,} of {len(ids):,} readable samples; "
            f"the first missing: {first}",
            hint="train on all of them: prune select --keep 1, then train-student --record-dynamics",
        )
    if len(record.sample_id_N) > len(ids):
        raise InputError(
            f"{record.path} recorded {len(record.sample_id_N) - len(ids):,} samples that are not readable in "
            f"{parent.path}",
            hint="train on a selection of this manifest",
        )
    return record


def _early(record: Dynamics, asked: int | None) -> int:
    """Return the epoch of early scores, counted from 1: the requested one, else a tenth of all, rounded down."""
    recorded = record.info.epochs_recorded
    if asked is not None and not 1 <= asked <= recorded:
        raise UsageError(f"--early-epoch {asked}: {record.path} recorded epochs 1 to {recorded}")
    return asked or max(1, recorded // 10)


def _refuse_twice(records: Sequence[Dynamics]) -> None:
    """Raise UsageError for two records of one run, which would count twice in the mean."""
    seen: dict[str, Dynamics] = {}
    for record in records:
        for mark in (record.info.run, record.content_digest):
            if (other := seen.setdefault(mark, record)) is not record:
                raise UsageError(
                    f"{other.path} and {record.path} are the same run",
                    hint="name each run once; for different runs, train with different --seed",
                )


def _tell(record: Dynamics, window: int) -> None:
    recorded, share, whole = record.info.epochs_recorded, record.stepped_share(), _run_json(record)
    if not whole or recorded < whole["recorded"]["epochs"]:
        epochs = "epoch" if recorded == 1 else f"{recorded} epochs"
        note(f"{record.path} is not finished: its scores are of the first {epochs}")
    if recorded == 1:
        note(f"{record.path} recorded one epoch: forgetting only separates right from wrong samples")
    elif recorded < window:
        note(f"{record.path} recorded {recorded} epochs: for dual and tdds these are one window, in place of {window}")
    if share is not None and share < MOSTLY_STEPPED:
        note(
            f"{record.path}: its steps showed {100 * share:.0f} % of the samples per epoch; the others were recorded "
            "after the steps, in evaluation mode (it was trained with --dynamic, or its batches are large)"
        )


def _run_json(record: Dynamics) -> dict[str, Any]:
    """Return run.json of the finished run; nothing if it is not finished, or the file is of another run."""
    try:
        content: dict[str, Any] = json.loads((record.path / "run.json").read_bytes())
        return content if content["digest"] == record.info.run and content["recorded"]["epochs"] else {}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}


def _training_seconds(runs: Sequence[Dynamics]) -> float | None:
    """Return the total seconds of all processes of the runs, including recording: the cost of these scores.

    None if a run does not report it.
    """
    seconds = 0.0
    try:
        for whole in map(_run_json, runs):
            of_one = float(whole["time"]["training_s"]) + float(whole["time"]["recording_s"])
            seconds += of_one * int(whole["world_size"])
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return round(seconds, 3) if math.isfinite(seconds) else None
