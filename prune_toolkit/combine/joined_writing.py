"""Write a manifest made of rows of others: combined tables part by part, unchanged ones as hard links."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.errors import InputError, UsageError
from manifests.format.child_header import Blocks
from manifests.format.header import DataSet, Header, TeacherCard
from manifests.format.parts import (
    PART_ROWS,
    SAMPLES_SCHEMA,
    part_count,
    part_is_valid,
    part_path,
    part_rows,
    read_part,
    soft_labels_of,
    write_part,
)
from manifests.manifest import Manifest
from manifests.tables.rows import Share
from prune_toolkit.combine.alike import agreed
from prune_toolkit.combine.average_config import SCORE_TABLE, licences, may_be_passed_on
from prune_toolkit.combine.joined_samples import SAMPLES, Samples, data_fingerprint
from prune_toolkit.combine.joined_tables import TablePlan, joined_part, joined_score_specs, opened, origin, samples_plan
from prune_toolkit.combine.mean_logits import check_logits
from prune_toolkit.scoring.logit_scores import TEACHER, Calibration, compute_scores
from prune_toolkit.work.part_work import Outcome, PartWork

LOGITS = "logits/view-000"
_AND = " + "
_PLACE = ("data", "split", "classes", "label", "unlabelled")
"""Entries of local.json that are kept if all manifests have the same."""
"""The separator of the names of merged data sets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShareWork:
    """A manifest made of rows of others, before anything is written."""

    out: Path
    resolved: dict[str, Any]
    """Everything the result depends on, without paths."""
    parents: tuple[Manifest, ...]
    """In an order that does not depend on the command line."""
    shares: tuple[Share, ...]
    """In the order of precedence."""
    samples: Samples
    plans: tuple[TablePlan, ...]
    left_out: tuple[str, ...]
    """Tables and samples that are not carried over, with the reason."""
    what: str
    """The task, for the progress bar."""

    def write(self) -> Manifest:
        """Write the manifest; an interrupted run is resumed. Raises UsageError if its header cannot be made."""
        for what in self.left_out:
            note(f"left out: {what}")
        answers_in, count = self._answers_in(), self.samples.count
        linked = {plan.name: share.manifest for plan in self.plans if (share := plan.as_it_is(count)) is not None}
        if self.shares[0].is_whole(count):
            linked[SAMPLES] = self.shares[0].manifest
        made = [name for name in (SAMPLES, *(plan.name for plan in self.plans)) if name not in linked]
        return PartWork(
            out=self.out,
            config=self.resolved,
            count=count,
            tables=made,
            make=lambda parts, digest: self._make(made, parts, digest),
            finish=lambda _parts, start: self._finish(start, answers_in),
            parents=self.parents,
            linked=linked,
        ).run_alone()

    def _make(self, made: list[str], parts: list[int], digest: str) -> None:
        """Write table by table, so that only a part of one table of every manifest is in memory."""
        count, readable_N = self.samples.count, self.samples.readable_N
        plans = {plan.name: plan for plan in (samples_plan(self.shares), *self.plans)}
        rows = sum(len(part_rows(part, count)) for part in parts)
        with Progress(rows * len(made), self.what, "rows") as progress:
            for name in made:
                tables = opened(plans[name], count)
                has_row_N = np.ones(count, np.bool_) if name == SAMPLES else readable_N
                for part in parts:
                    path, span = self.out / part_path(name, part), part_rows(part, count)
                    if not part_is_valid(path, digest):
                        content = joined_part(tables, part, has_row_N)
                        if name == SAMPLES:
                            content = content.select(SAMPLES_SCHEMA.names).cast(SAMPLES_SCHEMA)
                        write_part(path, content, digest)
                    progress.advance(len(span))

    def _finish(self, start: float, answers_in: str | None) -> Outcome:
        headers = [parent.header for parent in self.parents]
        scored = [header for header in headers if header.teacher is not None] or headers
        specs = joined_score_specs(self.shares, self.plans)
        seconds = round(time.monotonic() - start, 3)
        kinds = {plan.name.partition("/")[0] for plan in self.plans}
        lacking = {kind for header in headers for kind in header.left_out or ()} - kinds
        teacher = self._teacher(answers_in)
        blocks: Blocks = {
            "kind": "scores" if specs or teacher is not None or "scores" in lacking else "index",
            "data": self._data(),
            "teacher": teacher,
            "compute": agreed([header.compute for header in scored]),
            "left_out": sorted(lacking) or None,
            "scores": specs,
            "run": {"command": self.resolved["command"], "seconds": seconds, "wall": seconds, **_runs(headers)},
        }
        return Outcome(blocks=blocks, local=self._local())

    def _data(self) -> DataSet:
        blocks = [parent.header.data for parent in self.parents]
        names = {block.name for block in blocks}
        if len(names) > 1:
            names = {name for several in names for name in several.split(_AND)}
        return blocks[0].model_copy(
            update={
                "name": _AND.join(sorted(names)),
                "split": agreed([block.split for block in blocks]),
                "count": self.samples.count,
                "readable": int(self.samples.readable_N.sum()),
                "fingerprint": data_fingerprint(self.out, self.samples.count, blocks[0]),
                "licence": licences([block.licence for block in blocks]),
                "redistributable": may_be_passed_on(blocks),
                "read_as": agreed([block.read_as for block in blocks]),
            }
        )

    def _teacher(self, answers_in: str | None) -> TeacherCard | None:
        """The card of the first parent that has a teacher, with the accuracy on all of these samples if it is known."""
        cards = [parent.header.teacher for parent in self.parents if parent.header.teacher is not None]
        if not cards:
            return None
        calibration = Calibration()
        for confidence_n, correct_n in () if answers_in is None else self._answers(answers_in):
            calibration.add(confidence_n, correct_n)
        return cards[0].model_copy(
            update={
                "train_top1": None if answers_in is None else calibration.top1,
                "train_ece": None if answers_in is None else calibration.ece,
                "val_top1": agreed([card.val_top1 for card in cards]),
                "licence": licences([card.licence for card in cards]),
            }
        )

    def _answers_in(self) -> str | None:
        """Return the table from which the teacher's accuracy is computed, None if there is no teacher or no label.

        Raises UsageError if there is no such table.
        """
        if all(parent.header.teacher is None or parent.header.data.is_unlabelled for parent in self.parents):
            return None
        specs = joined_score_specs(self.shares, self.plans)
        stored = {spec.name for spec in specs if spec.set == TEACHER and spec.views in (None, "0")}
        if LOGITS in {plan.name for plan in self.plans}:
            return LOGITS
        if {"confidence", "correct"} <= stored:
            return SCORE_TABLE
        wheres = ", ".join(parent.where for parent in self.parents)
        raise UsageError(
            f"{wheres}: the teacher's accuracy on these samples cannot be computed without its logits, or its scores "
            "of view 0",
            hint="push or pull them as well: --only logits, --only scores",
        )

    def _answers(self, table_name: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield confidence and correct of view 0, part by part, from logits or scores.

        Raises InputError for values that cannot be confidence and correct, and for logits that are not finite.
        """
        label_N, where = self.samples.label_N, ", ".join(parent.where for parent in self.parents)
        for part in range(part_count(self.samples.count)):
            table = read_part(self.out / part_path(table_name, part))
            keys = read_part(self.out / part_path(SAMPLES, part), columns=["key"]).column("key")
            keys_n = keys.take(pc.subtract(table.column("sample_id"), part * PART_ROWS)).to_pylist()
            if table_name == SCORE_TABLE:
                confidence_n, correct_n = (table.column(name).to_numpy() for name in ("confidence", "correct"))
                sound_n = (confidence_n >= 0) & (confidence_n <= 1) & ((correct_n == 0) | (correct_n == 1))
                if not sound_n.all():
                    row = int(np.argmin(sound_n))
                    raise InputError(
                        f"{where}: sample {keys_n[row]}: confidence is {confidence_n[row]:g} and correct is "
                        f"{correct_n[row]:g}; expected a probability, and 0 or 1",
                        hint="score with this teacher again",
                    )
                yield confidence_n, correct_n
                continue
            ids, logits = soft_labels_of(table, "logits", len(self.parents[0].class_names))
            logits_nC = logits.logits()
            check_logits(logits_nC, keys_n, where=where, what="is not finite", hint="score with this teacher again")
            scores = compute_scores(logits_nC, label_N[ids], ["confidence", "correct"])
            yield scores["confidence"], scores["correct"]

    def _local(self) -> dict[str, Any] | None:
        """Return the place of the images if all manifests have the same; a beton of one does not hold all samples."""
        places = [{name: value for name, value in parent.local.items() if name in _PLACE} for parent in self.parents]
        return agreed(places) or None


def _runs(headers: Sequence[Header]) -> dict[str, Any]:
    """The parent runs, each once: pieces of one manifest share its scoring run, and so do later manifests of it."""
    whole = {origin(header): header.run for header in headers}
    runs = [_before_split(run) for run in whole.values()]
    older = [ancestor for run in runs for ancestor in _ancestors(run)]
    seen: list[dict[str, Any]] = []
    found = [_once(run, seen) for run in runs if run not in older]
    trained = [run["training_seconds"] for run in found if isinstance(run.get("training_seconds"), (int, float))]
    return {"parent_runs": found, **({"training_seconds": sum(trained)} if trained else {})}


def _before_split(run: dict[str, Any]) -> dict[str, Any]:
    while run.get("command") == "split" and len(parents := _parents(run)) == 1:
        run = parents[0]
    return run


def _once(run: dict[str, Any], seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a run without those of its parents that were seen already, and mark the others as seen."""
    parents = [parent for parent in _parents(run) if parent not in seen]
    if len(parents) == len(_parents(run)):
        seen += parents
        return run
    own = {name: value for name, value in run.items() if name not in ("parent_run", "parent_runs")}
    return {**own, "parent_runs": parents}


def _parents(run: dict[str, Any]) -> list[dict[str, Any]]:
    several = run.get("parent_runs", [run.get("parent_run")])
    return [parent for parent in several if isinstance(parent, dict)] if isinstance(several, list) else []


def _ancestors(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for parent in _parents(run):
        yield parent
        yield from _ancestors(parent)
