"""`prune label`: run the teacher over many views of the kept samples only, part by part, into a new selection.

Parts follow the canonical order, as in scoring: a killed run loses at most one part, and ranks do not communicate.
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.layout import BETON_NAME
from manifests.base.progress import Progress
from manifests.betons.labelled_views import Bits, labels_each
from manifests.betons.reader import Beton
from manifests.format.child_header import Blocks
from manifests.format.header import FileEntry
from manifests.format.last_layer import LAST_LAYER, LastLayer
from manifests.format.parts import (
    config_digest,
    layer_table,
    part_count,
    part_path,
    read_part,
    soft_labels_table,
    write_part,
)
from manifests.format.soft_labels import FullLogits
from manifests.manifest import Manifest, file_entry
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.images.readers import ImageReader
from prune_toolkit.images.train_beton import beton_bytes, write_train_beton
from prune_toolkit.images.where import find_images
from prune_toolkit.labelling.chosen_labels import chosen_targets, label_part
from prune_toolkit.labelling.feature_labels import feature_targets
from prune_toolkit.labelling.label_config import Labelling
from prune_toolkit.labelling.view_rules import VIEW_RULES
from prune_toolkit.scoring.logit_scores import Calibration, LogitScore, compute_scores
from prune_toolkit.scoring.preview import costs, trial_rate
from prune_toolkit.scoring.score_config import SCORE_TABLE
from prune_toolkit.scoring.score_pass import run_facts, teacher_card, training_hits
from prune_toolkit.selection.targets import (
    beton_targets,
    counted,
    labelled_views,
    labels_block,
    targets_of,
    write_targets,
)
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, note_time


def write_labels(work: Labelling) -> Manifest | None:
    """Write a labelled selection; return None if other ranks have not finished their parts."""
    config = work.config

    def make(parts: list[int], digest: str) -> None:
        shown = config.shown(sum(len(work.kept(part)) for part in parts))
        with (
            closing(work.open_views(config.seen_views, trust_beton=config.trust_beton)) as reader,
            Progress(shown, f"labelling with {work.teacher.info.spec}") as progress,
        ):
            for part in parts:
                _label_part(work, reader, part, digest, progress)

    return PartWork(
        out=config.out,
        config=work.resolved(),
        count=work.selection.header.data.count,
        # Scores of another teacher are stored too, for its accuracy.
        tables=[*config.targets.tables, *([SCORE_TABLE] if work.is_other else [])],
        make=make,
        finish=lambda parts, start: _finish(work, parts, start),
        parents=[work.selection],
        linked=dict.fromkeys(["samples", *carried_tables(work.selection), "selection"], work.selection),
        ranks=config.ranks,
        finish_only=config.finish_only,
    ).run()


def _label_part(work: Labelling, reader: ImageReader, part: int, digest: str, progress: Progress) -> None:
    start, out, targets, ids = time.monotonic(), work.config.out, work.config.targets, work.kept(part)
    if work.config.budget is not None:
        said = label_part(work, reader, part, work.config.budget, progress)
        if work.is_other:
            _write_scores(work, part, ids, said.first_nFC[:, 0], digest)
        chosen = chosen_targets(work, said)
        note_time(out, part, time.monotonic() - start, said.hits)
        for table, (id_r, labels_r) in zip(targets.tables, chosen, strict=True):
            write_part(out / part_path(table, part), soft_labels_table(id_r, "target", labels_r), digest)
        return
    label_n, (logits_nVC, features_nVD) = work.images.label_N[ids], work.shown(reader, ids, progress)
    if work.is_other:
        _write_scores(work, part, ids, logits_nVC[:, 0], digest)
    logits = [FullLogits(logits_nVC[:, view]) for view in range(logits_nVC.shape[1])]
    codec = None if targets.codec == "features" else targets.codec
    labels = targets_of(logits, label_n, ids, work.transform, targets.policy, targets.top_k, codec)
    if targets.codec == "features":
        labels = feature_targets(labels, features_nVD, label_n, ids, work.transform, targets)
    # Before the tables that make the part valid: so every finished part has its time.
    note_time(out, part, time.monotonic() - start, training_hits(logits_nVC, label_n))
    write_targets(out, targets, part, ids, labels, digest)


def _write_scores(
    work: Labelling, part: int, ids: NDArray[np.int64], logits_nC: NDArray[np.float16], digest: str
) -> None:
    """Write another teacher's scores of view 0."""
    label_or_none = None if work.images.unlabelled else work.images.label_N[ids]
    table = pa.table({"sample_id": ids, **compute_scores(logits_nC, label_or_none)})
    write_part(work.config.out / part_path(SCORE_TABLE, part), table, digest)


def _finish(work: Labelling, parts: Totals, start: float) -> Outcome:
    """Write train.beton and return the new blocks: views, labels, and another teacher."""
    began = time.monotonic()
    config, selection, parent = work.config, work.selection, work.selection.header
    views = work.views()
    out, targets, count, files = config.out, config.targets, parent.data.count, list[FileEntry]()
    samples, bits_N = int(work.keep_N.sum()), labelled_views(out, targets, count)
    if targets.layer is not None:
        files += _write_layer(out, targets.layer, config_digest(work.resolved()))
    if config.beton:
        kept = selection.selection().filter(pa.array(work.keep_N))
        rows = write_train_beton(
            out / BETON_NAME,
            selection.samples().filter(pa.array(work.keep_N)),
            images=find_images(selection, config.data, trust_beton=config.trust_beton),
            workers=config.workers,
            max_side=work.images.max_side,
            views=views,
            weight_n=kept.column("weight").to_numpy(),
            kd_weight_n=kept.column("kd_weight").to_numpy(),
            targets=beton_targets(out, targets, count),
            target_shape=targets.shape,
            labelled_views_N=bits_N,
        )
        files.append(file_entry(out, BETON_NAME, rows))
    labels = labels_block(
        out,
        targets,
        work.images.label_N,
        transform=config.labels,
        class_std_C=work.transform.class_std_C,
        parameters={} if parent.labels is None else parent.labels.parameters,
    )
    if config.budget is not None:
        block = config.budget.block(samples)
        block = block if bits_N is None else counted(block, labels_each(bits_N[work.keep_N]))
        labels = labels.model_copy(update={"budget": block})
    blocks: Blocks = {
        "kind": "selection",
        "compute": work.teacher.compute(work.batch_size),
        "views": views,
        "labels": labels,
    }
    run = run_facts(parts, samples, _images(work, bits_N), start, time.monotonic() - began)
    blocks["run"] = {"command": "label", **run, "parent_run": parent.run}
    if work.is_other:
        # Of a teacher that did not score, top-1 and calibration are those on view 0 of the kept samples.
        calibration, unlabelled = Calibration(), work.images.unlabelled
        for part in () if unlabelled else range(part_count(count)):
            table = read_part(out / part_path(SCORE_TABLE, part))
            calibration.add(table.column("confidence").to_numpy(), table.column("correct").to_numpy())
        specs = [entry.spec() for entry in LogitScore.registered(unlabelled=unlabelled)]
        blocks |= {"teacher": teacher_card(work, None if unlabelled else calibration), "scores": specs}
    local = selection.local if config.data is None else config.data.local()
    return Outcome(blocks=blocks, local={**local, **work.teacher.place}, files=files)


def _images(work: Labelling, bits_N: Bits | None) -> int:
    """Return how many images of the kept samples the teacher saw."""
    samples, budget = int(work.keep_N.sum()), work.config.budget
    if budget is None or bits_N is None or VIEW_RULES[budget.rule].sees_all:
        return work.config.shown(samples)
    return int(np.maximum(labels_each(bits_N[work.keep_N]), budget.first_views).sum())


def _write_layer(out: Path, layer: LastLayer, digest: str) -> list[FileEntry]:
    """Write the table of the teacher's last layer; return its files."""
    files = []
    for part, columns in enumerate(layer.parts()):
        path = part_path(LAST_LAYER, part)
        write_part(out / path, layer_table(columns), digest)
        files.append(file_entry(out, path, len(columns["bias"])))
    return files


def label_preview(work: Labelling) -> dict[str, Any]:
    """Return the estimate of `--dry-run`, after labelling a few samples spread over the kept ones; writes nothing."""
    plan, samples, budget = work.config.targets, int(work.keep_N.sum()), work.config.budget
    rate = trial_rate(work, work.open_views(work.config.seen_views), np.flatnonzero(work.keep_N))
    size_bytes = int(samples * 2 * np.prod(plan.mean_shape))
    if work.is_other:
        size_bytes += samples * 4 * len(LogitScore.registered())
    if work.config.beton:
        kept, path = work.selection.samples().filter(pa.array(work.keep_N)), work.images.beton_path
        size_bytes += beton_bytes(kept, None if path is None else Beton.open(path), plan.mean_shape)
    return {
        "samples": samples,
        "views": plan.read_views,
        "targets": len(plan.tables),
        **({} if budget is None else {"labels": budget.total(samples), "images": budget.shown(samples)}),
        **costs(work.config.shown(samples), rate, size_bytes),
    }
