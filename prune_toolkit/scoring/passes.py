"""`prune score`: one pass of the teacher over the data, part by part, into a scored manifest.

A part is done when its samples, logits and scores are all on disk and valid, so a killed run loses one part at most
and ranks need no contact. Batches never cross parts: the bytes do not depend on who computed which part.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.card import write_card
from manifests.console import Progress, note
from manifests.errors import InputError, UsageError
from manifests.header import Header, ScoreSpec, Views
from manifests.header import Teacher as TeacherCard
from manifests.manifest import Manifest, commit, part_entries, write_local
from manifests.parts import config_digest, part_path, part_rows, read_part, vectors_table, write_part
from prune_toolkit.indexing import data_block, read_samples, samples_table, warn_problems
from prune_toolkit.runs import ALONE, Ranks, finished, missing_parts, tool
from prune_toolkit.scoring.images_at_hand import ImageReader, ImagesAtHand
from prune_toolkit.scoring.scores import SCORES, Calibration, check_finite, compute_scores
from trainer.teacher import Teacher

LOGITS, SCORE_SET = "logits/view-000", "teacher"
FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `prune score` was asked to do, the teacher and the images apart."""

    out: Path
    batch_size: int = 256
    workers: int = 1
    loader: str = "auto"
    ranks: Ranks = ALONE
    finish_only: bool = False
    name: str | None = None
    licence: str | None = None
    teacher_licence: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1")

    def resolved(self, teacher: Teacher, images: ImagesAtHand, val: ImagesAtHand | None) -> dict[str, Any]:
        """What the result depends on, without paths."""
        return {
            "command": "score",
            "data": images.identity,
            "val": None if val is None else val.identity,
            "teacher": teacher.info.spec,
            "weights_sha256": teacher.weights_sha256,
            "preprocessing": teacher.preprocessing.model_dump(),
            "output_map": teacher.outputs,
            "compute": teacher.compute(self.batch_size).model_dump(),
            "name": self.name,
            "licence": self.licence,
            "teacher_licence": self.teacher_licence,
        }


def score_logits(
    teacher: Teacher, reader: ImageReader, ids: NDArray[np.int64], batch_size: int, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """(sample_ids (n,), logits (n, C) float16) of the readable ones of some samples, in order.

    InputError naming the first sample whose logits are not finite or leave the range of float16.
    """
    seen, found = [np.empty(0, np.int64)], []
    for batch_ids, images in reader.batches(ids, batch_size):
        logits = teacher.logits(images)
        check_finite(logits, batch_ids)
        if np.abs(logits).max(initial=0.0) > FLOAT16_MAX:
            row = int(np.abs(logits).max(axis=1).argmax())
            raise InputError(
                f"sample {batch_ids[row]}: a logit of {np.abs(logits[row]).max():.3g} does not fit float16",
                hint="is the checkpoint sound, and the preprocessing the teacher's own?",
            )
        seen.append(batch_ids)
        found.append(logits.astype(np.float16))
        progress.advance(len(batch_ids))
    classes = found[0].shape[1] if found else 0
    return np.concatenate(seen), np.concatenate(found) if found else np.empty((0, classes), np.float16)


def build_scores(
    config: ScoreConfig, teacher: Teacher, images: ImagesAtHand, val: ImagesAtHand | None = None
) -> Manifest | None:
    """Write a scored manifest; None when other ranks still work on their parts."""
    resolved = config.resolved(teacher, images, val)
    if done := finished(config.out, resolved):
        note(f"{config.out} is finished already")
        return done
    start = time.monotonic()
    digest, count = config_digest(resolved), images.count
    config.out.mkdir(parents=True, exist_ok=True)
    tables = [LOGITS, f"scores/{SCORE_SET}"]
    if images.index is None:
        tables = ["samples", *tables]
    else:
        images.index.link_table("samples", config.out)
    mine = [] if config.finish_only else list(missing_parts(config.out, tables, config.ranks.parts(count), digest))
    scored = sum(len(part_rows(part, count)) for part in mine)
    rate = 0.0
    if mine:
        reader = images.open(teacher.preprocessing, device=teacher.device, workers=config.workers, loader=config.loader)
        try:
            with Progress(scored, f"scoring with {teacher.info.spec}") as progress:
                for part in mine:
                    _score_part(config, teacher, images, reader, part, digest, progress)
                rate = progress.rate()
        finally:
            reader.close()
    left = list(missing_parts(config.out, tables, ALONE.parts(count), digest))
    if left:
        note(f"{len(left)} of {len(ALONE.parts(count))} parts are not there yet")
        return None
    run = {"seconds": round(time.monotonic() - start, 3), "scored": scored, "images_per_second": round(rate, 1)}
    return _commit(config, teacher, images, val, resolved, run)


def _score_part(
    config: ScoreConfig,
    teacher: Teacher,
    images: ImagesAtHand,
    reader: ImageReader,
    part: int,
    digest: str,
    progress: Progress,
) -> None:
    rows = part_rows(part, images.count)
    ids, logits = score_logits(
        teacher, reader, images.readable(np.arange(rows.start, rows.stop)), config.batch_size, progress
    )
    if images.index is None:
        facts = [images.facts.pop(row) for row in rows]
        write_part(config.out / part_path("samples", part), samples_table(images.source, rows, facts), digest)
    logits = logits.reshape(len(ids), len(images.class_names))
    write_part(config.out / part_path(LOGITS, part), vectors_table(ids, "logits", logits), digest)
    scores = compute_scores(logits, images.label_N[ids])
    table = pa.table({"sample_id": pa.array(ids), **{name: pa.array(values) for name, values in scores.items()}})
    write_part(config.out / part_path(f"scores/{SCORE_SET}", part), table, digest)


def _commit(
    config: ScoreConfig,
    teacher: Teacher,
    images: ImagesAtHand,
    val: ImagesAtHand | None,
    resolved: dict[str, Any],
    run: dict[str, Any],
) -> Manifest:
    calibration = Calibration()
    for part in ALONE.parts(images.count):
        table = read_part(config.out / part_path(f"scores/{SCORE_SET}", part))
        calibration.add(table.column("confidence").to_numpy(), table.column("correct").to_numpy())
    warn_about_teacher(calibration.top1, len(images.class_names))
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
    preprocessing = teacher.preprocessing
    header = Header(
        kind="scores",
        data=data,
        teacher=TeacherCard(
            spec=teacher.info.spec,
            weights_sha256=teacher.weights_sha256,
            parameters=teacher.parameters,
            preprocessing=preprocessing,
            output_map=teacher.outputs,
            train_top1=calibration.top1,
            train_ece=calibration.ece,
            val_top1=None if val is None else validation_top1(config, teacher, val),
            licence=config.teacher_licence,
        ),
        compute=teacher.compute(config.batch_size),
        views=Views(recipe="eval", version=1, seed=0, count=1, image_px=preprocessing.image_px),
        scores=[
            ScoreSpec(set=SCORE_SET, name=s.name, formula=s.formula, source=s.source, harder=s.harder)
            for s in SCORES.values()
        ],
        parents=[] if images.index is None else [images.index.id],
        tool=tool(),
        config=resolved,
        files=part_entries(config.out, ["samples", LOGITS, f"scores/{SCORE_SET}"], images.count),
        run=run,
    )
    write_local(config.out, local)
    write_card(config.out, header)
    return commit(config.out, header)


def validation_top1(config: ScoreConfig, teacher: Teacher, val: ImagesAtHand) -> float:
    """The teacher's top-1 on a validation set with the same classes."""
    reader = val.open(teacher.preprocessing, device=teacher.device, workers=config.workers, loader="auto")
    calibration = Calibration()
    ids = val.readable(np.arange(val.count))
    try:
        with Progress(len(ids), "validating the teacher") as progress:
            found, logits = score_logits(teacher, reader, ids, config.batch_size, progress)
    finally:
        reader.close()
    scores = compute_scores(logits, val.label_N[found], ["confidence", "correct"])
    calibration.add(scores["confidence"], scores["correct"])
    return calibration.top1


def warn_about_teacher(train_top1: float, class_count: int) -> None:
    """A teacher near chance is more often mismatched than bad."""
    if train_top1 < 2 / class_count:
        note(
            f"warning: the teacher's top-1 on these images is {100 * train_top1:.2f} %, about chance for "
            f"{class_count} classes: is the class order right, and the preprocessing?"
        )


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What `--limit` shows: a taste of the scores, and what the whole would take."""

    samples: int
    top1: float
    ece: float
    hardest: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    images_per_second: float
    seconds_for_all: float
    bytes_for_all: int


def preview(config: ScoreConfig, teacher: Teacher, images: ImagesAtHand, limit: int) -> Preview:
    """Score `limit` samples spread evenly over the data; writes nothing."""
    ids = images.readable(np.unique(np.linspace(0, images.count - 1, min(limit, images.count)).astype(np.int64)))
    reader = images.open(teacher.preprocessing, device=teacher.device, workers=config.workers, loader=config.loader)
    try:
        with Progress(len(ids), "preview") as progress:
            found, logits = score_logits(teacher, reader, ids, config.batch_size, progress)
            rate = progress.rate()
    finally:
        reader.close()
    if not len(found):
        raise InputError("not one image of the preview could be read")
    scores = compute_scores(logits, images.label_N[found])
    calibration = Calibration()
    calibration.add(scores["confidence"], scores["correct"])
    hardest = np.argsort(-scores["loss"], kind="stable")[:5]
    keys = images.source.keys if images.samples is None else images.samples.column("key").to_pylist()
    return Preview(
        samples=len(found),
        top1=calibration.top1,
        ece=calibration.ece,
        hardest=[
            {
                "key": keys[int(found[row])],
                "label": images.class_names[int(images.label_N[found[row]])],
                "predicted": images.class_names[int(logits[row].argmax())],
                "loss": round(float(scores["loss"][row]), 4),
            }
            for row in hardest
        ],
        preprocessing=teacher.preprocessing.model_dump(),
        images_per_second=rate,
        seconds_for_all=images.count / rate if rate else 0.0,
        bytes_for_all=images.count * (2 * len(images.class_names) + 4 * len(SCORES) + 120),
    )
