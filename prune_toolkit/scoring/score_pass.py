"""`prune score`: one pass of the teacher over the data, part by part, into a scored manifest.

A part is done when its samples, the logits of all its views and its scores are on disk and valid, so a killed run loses
at most one part, and ranks do not communicate. Batches never cross parts: the bytes do not depend on which process
computed which part.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.format.child_header import Blocks
from manifests.format.header import TeacherCard
from manifests.format.parts import config_digest, part_path, part_rows, soft_labels_table, vectors_table, write_part
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import keep_largest
from manifests.manifest import Manifest
from manifests.sources.telling import leak_warning
from manifests.tables.rows import hash_matrix
from manifests.tables.thumbnails_table import TABLE as THUMBNAILS
from manifests.tables.thumbnails_table import thumbnails_block
from prune_toolkit.images.readers import ImageReader, ImagesAtHand
from prune_toolkit.indexing.index import data_block, read_samples, samples_table, thumbnails_of, warn_problems
from prune_toolkit.scoring.calibration import calibration_of
from prune_toolkit.scoring.doubts import doubt_of
from prune_toolkit.scoring.exchanged import exchanged_warning
from prune_toolkit.scoring.feature_pass import write_feature_scores
from prune_toolkit.scoring.feature_scores import FeatureScore
from prune_toolkit.scoring.logit_scores import Calibration, LogitScore, mean_scores, top1
from prune_toolkit.scoring.pseudo_labels import answers, part_labels, relabelled
from prune_toolkit.scoring.score_config import FEATURE_SCORE_TABLE, FEATURE_TABLE, SCORE_TABLE, Scoring, logits_table
from prune_toolkit.scoring.teacher_pass import TeacherPass, show_views
from prune_toolkit.scoring.view_flags import views_text
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, local_with_beton, note_time

WEAK_ON_VIEWS = 0.85
"""A warning is printed for a teacher that keeps a smaller share of its top-1 on training views. One that kept 81 %
taught worse than labels alone, one that kept 95 % as well as a live teacher (docs/benchmarks.md)."""


def build_scores(work: Scoring) -> Manifest | None:
    """Write a scored manifest; return None if other ranks have not finished their parts."""
    config, images = work.config, work.images
    if images.spec is not None:
        images.spec.refuse_out(config.out)
    thumbnails = work.thumbnails_tables()

    def make(parts: list[int], digest: str) -> None:
        shown = sum(len(part_rows(part, images.count)) for part in parts) * config.view_count
        with (
            closing(work.open(trust_beton=config.trust_beton)) as reader,
            Progress(shown, f"scoring with {work.teacher.info.spec}") as progress,
        ):
            for part in parts:
                _score_part(work, reader, part, digest, progress)

    resolved = work.resolved()
    return PartWork(
        out=config.out,
        config=resolved,
        count=images.count,
        # The scores are last and complete a part.
        tables=[
            *(thumbnails if images.index is None else []),
            *(["samples"] if work.own_samples else []),
            *config.logits_tables,
            *([FEATURE_TABLE] if config.features else []),
            SCORE_TABLE,
        ],
        make=make,
        finish=lambda parts, start: _finish(work, config_digest(resolved), parts, start),
        parents=[] if images.index is None else [images.index],
        linked={}
        if images.index is None
        else dict.fromkeys([*(() if work.own_samples else ("samples",)), *thumbnails], images.index),
        ranks=config.ranks,
        finish_only=config.finish_only,
    ).run()


def _score_part(work: Scoring, reader: ImageReader, part: int, digest: str, progress: Progress) -> None:
    start = time.monotonic()
    config, images = work.config, work.images
    rows = part_rows(part, images.count)
    readable = images.readable(np.arange(rows.start, rows.stop))
    # Of all processes one makes part 0, and warns.
    ids, logits_nVC, features_n1D = show_views(
        work, reader, readable, progress, feature_views=int(config.features), check=part == 0
    )
    label_n = answers(logits_nVC[:, 0]) if images.unlabelled else images.label_N[ids]
    label_P = part_labels(len(rows), ids - rows.start, label_n) if images.unlabelled else None

    def write(table: str, content: pa.Table) -> None:
        write_part(config.out / part_path(table, part), content, digest)

    if images.index is None:
        facts = [images.facts.pop(row) for row in rows]
        if config.thumbnails:
            write(THUMBNAILS, thumbnails_of(rows, facts))
        write("samples", samples_table(images.source, rows, facts, label_P))
    elif label_P is not None and images.samples is not None:
        write("samples", relabelled(images.samples.slice(rows.start, len(rows)), label_P))
    for view, table in enumerate(config.logits_tables):
        stored = keep_largest(FullLogits(logits_nVC[:, view]), label_n, config.top_k)
        write(table, soft_labels_table(ids, "logits", stored))
    if config.features:
        write(FEATURE_TABLE, vectors_table(ids, "features", features_n1D[:, 0]))
    scores = mean_scores(logits_nVC, None if images.unlabelled else label_n, config.scored_views)
    # Before the last table, which makes the part valid: so every finished part has its time.
    note_time(config.out, part, time.monotonic() - start, training_hits(logits_nVC, label_n))
    write(SCORE_TABLE, pa.table({"sample_id": ids, **scores}))


def _finish(work: Scoring, digest: str, parts: Totals, start: float) -> Outcome:
    config, images, classes = work.config, work.images, len(work.images.class_names)
    samples = read_samples(config.out, images.count)
    calibration = None
    if not images.unlabelled:
        # On the evaluation view, whichever views the scores are averaged over.
        calibration, confusion = calibration_of(config.out, logits_table(0), images.label_N, classes)
        in_order = work.teacher.reading.outputs is None
        if (warning := exchanged_warning(confusion.count_CC, images.class_names, in_order=in_order)) is not None:
            note(f"warning: {warning}")
    blocks: Blocks = {"kind": "scores"}
    if images.index is None:
        warn_problems(samples)
        assert images.spec is not None
        data = data_block(images.source, samples, name=config.name, licence=config.licence, strict=config.strict)
        local = images.spec.local()
        blocks["thumbnails"] = thumbnails_block() if config.thumbnails else None
    else:
        data, local = images.index.header.data, local_with_beton(images.index)
    local = {**local, **work.teacher.place}
    if config.redistributable is not None:
        data = data.model_copy(update={"redistributable": config.redistributable})
    if images.unlabelled:
        data = data.model_copy(update={"class_names": images.class_names, "labels_from": "teacher"})
    if work.val is not None and work.val.index is None:
        warning = leak_warning(hash_matrix(samples.column("content_hash")), work.val.source, config.workers)
        if warning is not None:
            note(f"warning: {warning}")
    card = teacher_card(work, calibration, None if work.val is None else validation_top1(work, work.val))
    scored_views = None if config.view_count == 1 else views_text(config.scored_views)
    specs, seconds = [entry.spec(scored_views) for entry in LogitScore.registered(unlabelled=images.unlabelled)], 0.0
    if config.features:
        began = time.monotonic()
        write_feature_scores(work, samples, digest)
        seconds = time.monotonic() - began
        specs += [entry.spec() for entry in FeatureScore.registered(unlabelled=images.unlabelled)]
    blocks |= {
        "data": data,
        "teacher": card,
        "compute": work.teacher.compute(work.batch_size),
        "views": work.views(),
        "features": work.features_block(),
        "scores": specs,
        "run": {
            "command": "score",
            **run_facts(parts, data.readable, data.readable * config.view_count, start, seconds),
        },
    }
    return Outcome(blocks=blocks, local=local, tables=[FEATURE_SCORE_TABLE] if config.features else [])


def training_hits(logits_nVC: NDArray[np.float16], label_n: NDArray[np.int64]) -> int:
    """Count the training views (1 and above) whose largest logit is that of the label; logits (n, V, C)."""
    return int((logits_nVC[:, 1:].argmax(axis=2) == label_n[:, None]).sum())


def run_facts(parts: Totals, samples: int, images: int, start: float, finishing_s: float) -> dict[str, Any]:
    """Return the run block: seconds of all processes, and of this one since `start`; images are views of the samples.

    views_top1, the teacher's top-1 on the training views, shows whether it copes with this augmentation. Of images
    without labels, it is the share of these views with the same answer as view 0.
    """
    training_views = images - samples
    known = parts.hits is not None and training_views > 0
    return {
        "seconds": round(parts.seconds + finishing_s, 3),
        "wall": round(time.monotonic() - start, 3),
        "images": images,
        "images_per_second": round(images / parts.seconds, 1) if parts.seconds else 0.0,
        "views_top1": round((parts.hits or 0) / training_views, 6) if known else None,
    }


def teacher_card(work: TeacherPass, calibration: Calibration | None, val_top1: float | None = None) -> TeacherCard:
    """Return the header block of a teacher with this calibration, None for images without labels.

    Warns if it is near chance, or far from what is said of its weights: a mismatch is more likely than a bad teacher.
    """
    teacher, class_count = work.teacher, len(work.images.class_names)
    if calibration is not None:
        doubt = doubt_of(calibration.top1, calibration.count, class_count, teacher.claim)
        if doubt is not None:
            note(f"warning: {doubt}")
    return TeacherCard(
        spec=teacher.info.spec,
        weights_sha256=teacher.weights_sha256,
        parameters=teacher.parameters,
        preprocessing=teacher.preprocessing,
        **teacher.reading.card(),
        train_top1=None if calibration is None else calibration.top1,
        train_ece=None if calibration is None else calibration.ece,
        val_top1=val_top1,
        licence=work.config.teacher_licence,
    )


def validation_top1(work: Scoring, val: ImagesAtHand) -> float:
    """Return the teacher's top-1 on a validation set with the same classes."""
    ids = val.readable(np.arange(val.count))
    with closing(work.open_view_0(val)) as reader, Progress(len(ids), "validating the teacher") as progress:
        found, logits_nVC, _ = show_views(work, reader, ids, progress)
    return top1(logits_nVC[:, 0], val.label_N[found])


def views_text_of(run: Mapping[str, Any], train_top1: float | None) -> str:
    """Describe the teacher's top-1 on the training views; warn if it is much lower than on view 0."""
    views_top1 = run.get("views_top1")
    if views_top1 is None:
        return ""
    if train_top1 is None:
        if views_top1 < WEAK_ON_VIEWS:
            note(
                f"warning: for {100 * (1 - views_top1):.2f} % of the training views the teacher has another answer "
                "than for view 0: it was hardly trained with this augmentation\n"
                "  use the augmentation it was trained with (--augment), or --policy single"
            )
        return f", the same answer as for view 0 on {100 * views_top1:.2f} % of the training views"
    if views_top1 < WEAK_ON_VIEWS * train_top1:
        note(
            f"warning: the teacher is right on {100 * train_top1:.2f} % of the images, but on {100 * views_top1:.2f} % "
            "of their training views: it was hardly trained with this augmentation, and labels of these views may "
            "teach less than that of view 0\n"
            "  use the augmentation it was trained with (--augment), or --policy single"
        )
    return f", right on {100 * views_top1:.2f} % of their training views"
