"""`prune merge --average`: average the manifests of several teachers into that of their ensemble, part by part.

Torch-free.
"""

import hashlib
import time

import numpy as np
import pyarrow as pa

from manifests.base.progress import Progress
from manifests.format.child_header import Blocks
from manifests.format.header import TeacherCard
from manifests.format.parts import part_path, part_rows, vectors_table, write_part
from manifests.manifest import Manifest
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.combine.alike import agreed
from prune_toolkit.combine.average_config import SCORE_TABLE, Merge, licences
from prune_toolkit.scoring.calibration import calibration_of
from prune_toolkit.scoring.logit_scores import Calibration, LogitScore, compute_scores
from prune_toolkit.scoring.view_flags import views_text
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, note_time


def write_merge(merge: Merge) -> Manifest:
    """Write the scored manifest of the ensemble; an interrupted run is resumed."""

    def make(parts: list[int], digest: str) -> None:
        labels = sum(len(part_rows(part, merge.count)) for part in parts) * merge.views.count
        with Progress(labels, f"averaging {merge.average} of {len(merge.parents)} teachers", "labels") as progress:
            for part in parts:
                _average_part(merge, part, digest, progress)

    return PartWork(
        out=merge.out,
        config=merge.resolved(),
        count=merge.count,
        tables=[*merge.logits_tables, SCORE_TABLE],
        make=make,
        finish=lambda parts, start: _finish(merge, parts, start),
        parents=merge.parents,
        linked=dict.fromkeys(["samples", *carried_tables(merge.carrier)], merge.carrier),
    ).run_alone()


def _average_part(merge: Merge, part: int, digest: str, progress: Progress) -> None:
    start, hits, out = time.monotonic(), 0, merge.out
    ids, per_view = np.empty(0, np.int64), []
    for view, table in enumerate(merge.logits_tables):
        ids, logits_nC = merge.logits(table, part)
        label_n = merge.label_N[ids]
        write_part(out / part_path(table, part), vectors_table(ids, "logits", logits_nC), digest)
        if view in merge.scored_views:
            per_view.append(compute_scores(logits_nC, label_n))
        if view > 0:
            hits += int((logits_nC.argmax(axis=1) == label_n).sum())
        progress.advance(len(part_rows(part, merge.count)))
    scores = {"sample_id": pa.array(ids)}
    for name in per_view[0]:
        mean_n = np.stack([scores_of_view[name] for scores_of_view in per_view]).mean(axis=0, dtype=np.float64)
        scores[name] = pa.array(mean_n.astype(np.float32))
    note_time(out, part, time.monotonic() - start, hits)
    write_part(out / part_path(SCORE_TABLE, part), pa.table(scores), digest)


def _finish(merge: Merge, parts: Totals, start: float) -> Outcome:
    calibration, _ = calibration_of(merge.out, merge.logits_tables[0], merge.label_N, merge.class_count)
    averaged_over = views_text(merge.scored_views) if merge.views.count > 1 else None
    training_views = calibration.count * (merge.views.count - 1)
    hits = parts.hits if training_views else None
    runs = {parent.id: parent.header.run for parent in merge.parents}
    blocks: Blocks = {
        "kind": "scores",
        "data": merge.data,
        "teacher": _card(merge, calibration),
        "compute": agreed([parent.header.compute for parent in merge.parents]),
        "views": merge.views,
        "scores": [entry.spec(averaged_over) for entry in LogitScore.registered()],
        # The run block as of scoring; the runs of the teachers are under `parent_runs`.
        "run": {
            "command": "merge",
            "seconds": parts.seconds,
            "wall": round(time.monotonic() - start, 3),
            "views_top1": None if hits is None else round(hits / training_views, 6),
            "parent_runs": list(runs.values()),
        },
    }
    return Outcome(blocks=blocks, local=next((parent.local for parent in merge.parents if parent.local), {}))


def _card(merge: Merge, calibration: Calibration) -> TeacherCard:
    """The ensemble as one teacher; the normalisation is that of the first member, others may differ in it."""
    kind, teachers = merge.average, merge.teachers
    names = [f"({teacher.spec})" if teacher.spec.startswith("average of ") else teacher.spec for teacher in teachers]
    digests = "\0".join([kind, *(teacher.weights_sha256 for teacher in teachers)])
    return TeacherCard(
        spec=f"average of {kind}: {' + '.join(names)}",
        weights_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        parameters=sum(teacher.parameters for teacher in teachers),
        preprocessing=teachers[0].preprocessing,
        train_top1=calibration.top1,
        train_ece=calibration.ece,
        licence=licences([teacher.licence for teacher in teachers]),
    )
