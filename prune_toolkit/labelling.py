"""`prune label`: the teacher looks at many views of the kept samples only, part by part, into a selection of its own.

Parts are those of the canonical order, as in scoring, so a killed run loses one part at most and ranks need no contact.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.card import write_card
from manifests.console import Progress, note
from manifests.header import Header, Labels, ScoreSpec
from manifests.header import Teacher as TeacherCard
from manifests.manifest import BETON_NAME, Manifest, commit, file_entry, part_entries, write_local
from manifests.parts import config_digest, part_path, read_part, write_part
from prune_toolkit.label_task import LabelConfig, Labelling
from prune_toolkit.materialise import write_train_beton
from prune_toolkit.runs import ALONE, clear_times, finished, missing_parts, note_time, tool, total_seconds
from prune_toolkit.scoring.config import SCORE_SET, SCORE_TABLE
from prune_toolkit.scoring.images_at_hand import ImageReader, samples_a_batch
from prune_toolkit.scoring.passes import warn_about_teacher
from prune_toolkit.scoring.scores import SCORES, Calibration, compute_scores
from prune_toolkit.selection.select import images_of
from prune_toolkit.selection.targets import beton_targets, targets_of, write_targets

__all__ = ["LabelConfig", "Labelling", "Trial", "trial", "write_labels"]

TRIAL_S, TRIAL_IMAGES, TRIAL_MOST = 3.0, 64, 4096


def write_labels(work: Labelling) -> Manifest | None:
    """Write a labelled selection; None when other ranks still work on their parts."""
    config, selection = work.config, work.selection
    resolved = config.resolved(work.teacher, selection)
    if done := finished(config.out, resolved):
        note(f"{config.out} is finished already")
        return done
    start = time.monotonic()
    digest, count = config_digest(resolved), selection.header.data.count
    config.out.mkdir(parents=True, exist_ok=True)
    for table in ("samples", "selection"):
        selection.link_table(table, config.out)
    mine = [] if config.finish_only else list(missing_parts(config.out, work.tables, config.ranks.parts(count), digest))
    if mine:
        reader = work.open_images()
        shown = sum(len(work.kept(part)) for part in mine) * config.targets.read_views
        try:
            with Progress(shown, f"labelling with {work.teacher.info.spec}") as progress:
                for part in mine:
                    _label_part(work, reader, part, digest, progress)
        finally:
            reader.close()
    left = list(missing_parts(config.out, work.tables, ALONE.parts(count), digest))
    if left:
        note(f"{len(left)} of {len(ALONE.parts(count))} parts are not there yet")
        return None
    # Another rank that found all parts there may have been faster; it has the times.
    return finished(config.out, resolved) or _commit(work, resolved, start)


def _label_part(work: Labelling, reader: ImageReader, part: int, digest: str, progress: Progress) -> None:
    start = time.monotonic()
    out, targets = work.config.out, work.config.targets
    ids = work.kept(part)
    label_n = work.images.label_N[ids]
    logits_nVC = work.logits(reader, ids, progress)
    if work.is_other:
        scores = compute_scores(logits_nVC[:, 0], label_n)
        table = pa.table({"sample_id": pa.array(ids), **{name: pa.array(values) for name, values in scores.items()}})
        write_part(out / part_path(SCORE_TABLE, part), table, digest)
    labels = targets_of(logits_nVC, label_n, ids, work.transform, targets.policy, targets.top_k)
    # Before the tables that make the part valid: a part that is done has its time.
    note_time(out, part, time.monotonic() - start)
    write_targets(out, targets, part, ids, labels, digest)


def _commit(work: Labelling, resolved: dict[str, Any], start: float) -> Manifest:
    """Write train.beton and the header; all of it but labels and teacher is the selection's."""
    commit_start = time.monotonic()
    config, selection, parent = work.config, work.selection, work.selection.header
    out, targets, count = config.out, config.targets, parent.data.count
    files = part_entries(out, ["samples", "selection", *work.tables], count)
    if config.beton:
        kept = selection.selection().filter(pa.array(work.keep_N))
        rows = write_train_beton(
            out / BETON_NAME,
            selection.samples().filter(pa.array(work.keep_N)),
            images=images_of(config.data, selection),
            workers=config.workers,
            weight_n=kept.column("weight").to_numpy(),
            kd_weight_n=kept.column("kd_weight").to_numpy(),
            targets=beton_targets(out, targets, count),
            target_shape=targets.shape,
        )
        files.append(file_entry(out, BETON_NAME, rows))
    class_std = work.transform.class_std_C
    header = Header(
        kind="selection",
        data=parent.data,
        teacher=_card(work) if work.is_other else parent.teacher,
        compute=work.teacher.compute(config.batch_size),
        views=config.views(work.teacher),
        scores=_score_specs() if work.is_other else [],
        selection=parent.selection,
        labels=Labels(
            transform=config.labels,
            parameters={} if parent.labels is None else parent.labels.parameters,
            views=len(targets.tables),
            policy=targets.policy,
            top_k=targets.top_k,
            class_std=None if class_std is None else class_std.tolist(),
        ),
        parents=[selection.id],
        tool=tool(),
        config=resolved,
        files=files,
        run=_run_block(work, start, commit_start),
    )
    write_local(out, selection.local if config.data is None else config.data.local())
    write_card(out, header)
    clear_times(out)
    return commit(out, header)


def _run_block(work: Labelling, start: float, commit_start: float) -> dict[str, Any]:
    """Seconds of all processes together, train.beton's included; images are samples times views."""
    parts_s, now = total_seconds(work.config.out), time.monotonic()
    images = int(work.keep_N.sum()) * work.config.targets.read_views
    return {
        "command": "label",
        "seconds": round(parts_s + now - commit_start, 3),
        "wall": round(now - start, 3),
        "images": images,
        "images_per_second": round(images / parts_s, 1) if parts_s else 0.0,
        "parent_run": work.selection.header.run,
    }


def _card(work: Labelling) -> TeacherCard:
    """The card of a teacher that did not score: top-1 and calibration are of view 0 of the kept samples."""
    calibration = Calibration()
    for part in ALONE.parts(work.selection.header.data.count):
        table = read_part(work.config.out / part_path(SCORE_TABLE, part))
        calibration.add(table.column("confidence").to_numpy(), table.column("correct").to_numpy())
    warn_about_teacher(calibration.top1, len(work.images.class_names))
    teacher = work.teacher
    return TeacherCard(
        spec=teacher.info.spec,
        weights_sha256=teacher.weights_sha256,
        parameters=teacher.parameters,
        preprocessing=teacher.preprocessing,
        output_map=teacher.outputs,
        train_top1=calibration.top1,
        train_ece=calibration.ece,
    )


def _score_specs() -> list[ScoreSpec]:
    return [
        ScoreSpec(set=SCORE_SET, name=s.name, formula=s.formula, source=s.source, harder=s.harder)
        for s in SCORES.values()
    ]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What `--dry-run` tells."""

    samples: int
    views: int
    targets: int
    """Stored a sample."""
    label_bytes: int
    images_per_second: float
    """Images the teacher sees a second; a sample is as many of them as it has views."""
    seconds_for_all: float


def trial(work: Labelling) -> Trial:
    """Label a few samples spread over the kept ones; writes nothing."""
    plan, samples = work.config.targets, int(work.keep_N.sum())
    rate = _trial_rate(work)
    targets, words = plan.shape
    return Trial(
        samples=samples,
        views=plan.read_views,
        targets=targets,
        label_bytes=samples * targets * words * 2,
        images_per_second=rate,
        seconds_for_all=samples * plan.read_views / rate,
    )


def _trial_rate(work: Labelling) -> float:
    """Images a second in about TRIAL_S, after a batch that warms up; of that batch where nothing else is kept."""
    views = work.config.targets.read_views
    first = samples_a_batch(min(work.config.batch_size, TRIAL_IMAGES), views)
    kept = np.flatnonzero(work.keep_N)
    most = min(len(kept), first + samples_a_batch(TRIAL_MOST, views))
    ids = kept[np.unique(np.linspace(0, len(kept) - 1, most).astype(np.int64))]
    reader = work.open_images()
    try:
        rate = _timed(work, reader, ids[:first])
        rest = ids[first:][: max(1, int(rate * TRIAL_S / views))]
        return _timed(work, reader, rest) if len(rest) else rate
    finally:
        reader.close()


def _timed(work: Labelling, reader: ImageReader, ids: NDArray[np.int64]) -> float:
    shown = len(ids) * work.config.targets.read_views
    with Progress(shown, "trial") as progress:
        work.logits(reader, ids, progress)
        return progress.rate()
