"""`prune score`: one pass of the teacher over the data, part by part, into a scored manifest.

A part is done when its samples, the logits of all its views and its scores are on disk and valid, so a killed run loses
one part at most and ranks need no contact. Batches never cross parts: the bytes do not depend on who computed which
part.
"""

import os
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.console import Progress, note
from manifests.errors import InputError
from manifests.header import Header, ScoreSpec
from manifests.header import Teacher as TeacherCard
from manifests.manifest import Manifest, part_entries, write_local
from manifests.parts import part_path, part_rows, read_part, soft_labels_of, soft_labels_table, write_part
from manifests.top_k import TopK, top_k
from prune_toolkit.indexing import data_block, read_samples, samples_table, warn_problems
from prune_toolkit.runs import ALONE, PartWork, Totals, note_time, tool
from prune_toolkit.scoring.config import SCORE_SET, SCORE_TABLE, ScoreConfig, logits_table
from prune_toolkit.scoring.images_at_hand import ImageReader, ImagesAtHand
from prune_toolkit.scoring.scores import SCORES, Calibration, check_finite, compute_scores, mean_scores
from prune_toolkit.scoring.view_flags import views_text
from trainer.teacher import Teacher

WEAK_ON_VIEWS = 0.85
"""A teacher that keeps less of its top-1 on training views is warned about. One that kept 81 % taught worse than labels
alone, one that kept 95 % as well as live (docs/benchmarks.md)."""
FLOAT16_MAX = float(np.finfo(np.float16).max)


def score_views(
    teacher: Teacher,
    reader: ImageReader,
    ids: NDArray[np.int64],
    batch_size: int,
    progress: Progress,
    view_count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """(sample_ids (n,), logits (n, V, C) float16) of the readable ones of some samples, in order.

    The reader gives `view_count` views of each sample; progress counts images, n * V of them. InputError naming the
    first sample whose logits are not finite or leave the range of float16.
    """
    done, seen, found = 0, np.empty(len(ids), np.int64), np.empty((len(ids), view_count, 0), np.float16)
    for batch_ids, images in reader.batches(ids, batch_size):
        logits = teacher.logits(images)
        shown_ids = np.repeat(batch_ids, view_count)
        check_finite(logits, shown_ids)
        if np.abs(logits).max(initial=0.0) > FLOAT16_MAX:
            row = int(np.abs(logits).max(axis=1).argmax())
            raise InputError(
                f"sample {shown_ids[row]}: a logit of {np.abs(logits[row]).max():.3g} does not fit float16",
                hint="is the checkpoint sound, and the preprocessing the teacher's own?",
            )
        if not done:
            found = np.empty((len(ids), view_count, logits.shape[1]), np.float16)
        rows = slice(done, done + len(batch_ids))
        seen[rows], found[rows] = batch_ids, logits.reshape(len(batch_ids), view_count, -1)
        done = rows.stop
        progress.advance(len(images))
    return seen[:done], found[:done]


def build_scores(
    config: ScoreConfig, teacher: Teacher, images: ImagesAtHand, val: ImagesAtHand | None = None
) -> Manifest | None:
    """Write a scored manifest; None when other ranks still work on their parts."""
    indexed = images.index is not None

    def make(parts: list[int], digest: str) -> None:
        shown = sum(len(part_rows(part, images.count)) for part in parts) * config.view_count
        with (
            closing(config.open(teacher, images)) as reader,
            Progress(shown, f"scoring with {teacher.info.spec}") as progress,
        ):
            for part in parts:
                _score_part(config, teacher, images, reader, part, digest, progress)

    resolved = config.resolved(teacher, images, val)
    return PartWork(
        out=config.out,
        config=resolved,
        count=images.count,
        tables=[*([] if indexed else ["samples"]), *config.logits_tables, SCORE_TABLE],
        make=make,
        finish=lambda parts, start: _finish(config, teacher, images, val, resolved, parts, start),
        parent=images.index,
        linked=["samples"],
        ranks=config.ranks,
        finish_only=config.finish_only,
    ).run()


def _score_part(
    config: ScoreConfig,
    teacher: Teacher,
    images: ImagesAtHand,
    reader: ImageReader,
    part: int,
    digest: str,
    progress: Progress,
) -> None:
    start = time.monotonic()
    rows = part_rows(part, images.count)
    readable = images.readable(np.arange(rows.start, rows.stop))
    ids, logits_nVC = score_views(teacher, reader, readable, config.batch_size, progress, config.view_count)
    logits_nVC = logits_nVC.reshape(len(ids), config.view_count, len(images.class_names))
    label_n = images.label_N[ids]
    if images.index is None:
        facts = [images.facts.pop(row) for row in rows]
        write_part(config.out / part_path("samples", part), samples_table(images.source, rows, facts), digest)
    for view, table in enumerate(config.logits_tables):
        logits_nC = logits_nVC[:, view]
        stored = logits_nC if config.top_k is None else top_k(logits_nC, label_n, config.top_k)
        write_part(config.out / part_path(table, part), soft_labels_table(ids, "logits", stored), digest)
    scores = mean_scores(logits_nVC, label_n, config.scored_views)
    score_table = pa.table({"sample_id": pa.array(ids), **{name: pa.array(scores[name]) for name in scores}})
    # Before the last table, which makes the part valid: a part that is done has its time.
    note_time(config.out, part, time.monotonic() - start, training_hits(logits_nVC, label_n))
    write_part(config.out / part_path(SCORE_TABLE, part), score_table, digest)


def _calibration(config: ScoreConfig, images: ImagesAtHand) -> Calibration:
    """Of the evaluation view, whichever views the scores are of."""
    calibration = Calibration()
    for part in ALONE.parts(images.count):
        table = read_part(config.out / part_path(logits_table(0), part))
        ids, stored = soft_labels_of(table, "logits", len(images.class_names))
        logits_nC = stored.logits() if isinstance(stored, TopK) else stored
        scores = compute_scores(logits_nC, images.label_N[ids], ["confidence", "correct"])
        calibration.add(scores["confidence"], scores["correct"])
    return calibration


def _finish(
    config: ScoreConfig,
    teacher: Teacher,
    images: ImagesAtHand,
    val: ImagesAtHand | None,
    resolved: dict[str, Any],
    parts: Totals,
    start: float,
) -> Header:
    calibration = _calibration(config, images)
    if images.index is None:
        samples = read_samples(config.out, images.count)
        warn_problems(samples)
        spec = images.spec
        assert spec is not None
        data = data_block(images.source, samples, name=config.name, licence=config.licence)
        local = spec.local()
    else:
        data, local = images.index.header.data, dict(images.index.local)
        if images.beton_path is not None:
            local["beton"] = os.path.realpath(images.beton_path)
    card = teacher_card(
        teacher,
        calibration,
        class_count=len(images.class_names),
        val_top1=None if val is None else validation_top1(config, teacher, val),
        licence=config.teacher_licence,
    )
    write_local(config.out, local)
    return Header(
        kind="scores",
        data=data,
        teacher=card,
        compute=teacher.compute(config.batch_size),
        views=config.views(teacher),
        scores=score_specs(None if config.view_count == 1 else views_text(config.scored_views)),
        parents=[] if images.index is None else [images.index.id],
        tool=tool(),
        config=resolved,
        files=part_entries(config.out, ["samples", *config.logits_tables, SCORE_TABLE], images.count),
        run={"command": "score", **run_facts(parts, calibration.count, config.view_count, start)},
    )


def training_hits(logits_nVC: NDArray[np.float16], label_n: NDArray[np.int64]) -> int:
    """Training views, those from 1 on, of which the largest logit is the label's; logits (n, V, C)."""
    return int((logits_nVC[:, 1:].argmax(axis=2) == label_n[:, None]).sum()) if logits_nVC.shape[1] > 1 else 0


def run_facts(parts: Totals, samples: int, view_count: int, start: float) -> dict[str, Any]:
    """The run block: seconds of all processes together and of this one, from `start`; images are samples times views.

    views_top1, the teacher's top-1 on the training views, tells whether it knows this augmentation.
    """
    images, training_views = samples * view_count, samples * (view_count - 1)
    known = parts.hits is not None and training_views > 0
    return {
        "seconds": parts.seconds,
        "wall": round(time.monotonic() - start, 3),
        "images": images,
        "images_per_second": round(images / parts.seconds, 1) if parts.seconds else 0.0,
        "views_top1": round((parts.hits or 0) / training_views, 6) if known else None,
    }


def score_specs(views: str | None = None) -> list[ScoreSpec]:
    """What a header says of the scores; `views` are those they are the mean over, where there is more than one."""
    return [
        ScoreSpec(
            set=SCORE_SET,
            name=score.name,
            formula=score.formula,
            source=score.source,
            harder=score.harder,
            views=views,
        )
        for score in SCORES.values()
    ]


def teacher_card(
    teacher: Teacher,
    calibration: Calibration,
    *,
    class_count: int,
    val_top1: float | None = None,
    licence: str | None = None,
) -> TeacherCard:
    """What a header says of a teacher that did so well on the images; warns of one near chance."""
    warn_about_teacher(calibration.top1, class_count)
    return TeacherCard(
        spec=teacher.info.spec,
        weights_sha256=teacher.weights_sha256,
        parameters=teacher.parameters,
        preprocessing=teacher.preprocessing,
        output_map=teacher.outputs,
        train_top1=calibration.top1,
        train_ece=calibration.ece,
        val_top1=val_top1,
        licence=licence,
    )


def validation_top1(config: ScoreConfig, teacher: Teacher, val: ImagesAtHand) -> float:
    """The teacher's top-1 on a validation set with the same classes."""
    reader = val.open(teacher.preprocessing, device=teacher.device, workers=config.workers, loader="auto")
    calibration = Calibration()
    ids = val.readable(np.arange(val.count))
    try:
        with Progress(len(ids), "validating the teacher") as progress:
            found, logits_nVC = score_views(teacher, reader, ids, config.batch_size, progress, 1)
    finally:
        reader.close()
    scores = compute_scores(logits_nVC[:, 0], val.label_N[found], ["confidence", "correct"])
    calibration.add(scores["confidence"], scores["correct"])
    return calibration.top1


def views_text_of(run: Mapping[str, Any], train_top1: float) -> str:
    """The teacher's top-1 on the training views, in words; a warning where it is much lower than on view 0."""
    views_top1 = run.get("views_top1")
    if views_top1 is None:
        return ""
    if views_top1 < WEAK_ON_VIEWS * train_top1:
        note(
            f"warning: the teacher is right on {100 * train_top1:.2f} % of the images and on {100 * views_top1:.2f} % "
            "of their training views: it hardly knows this augmentation, and its labels of it may teach less than "
            "that of view 0\n  take the augmentation it was trained with (--augment), or --policy single"
        )
    return f", right on {100 * views_top1:.2f} % of their training views"


def warn_about_teacher(train_top1: float, class_count: int) -> None:
    """A teacher near chance is more often mismatched than bad."""
    if train_top1 < 2 / class_count:
        note(
            f"warning: the teacher's top-1 on these images is {100 * train_top1:.2f} %, about chance for "
            f"{class_count} classes: is the class order right, and the preprocessing?"
        )
