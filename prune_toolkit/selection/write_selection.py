"""`prune select`: write the samples to keep, their targets, and the beton a student trains from. Torch-free."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.errors import InputError
from manifests.format.child_header import Blocks
from manifests.format.header import Distill, Labels, Selection
from manifests.format.parts import SELECTION_SCHEMA, config_digest, part_count, part_path, part_rows, write_part
from manifests.format.top_k import SoftLabels
from manifests.manifest import Manifest
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.selection.choose_samples import SelectionPlan
from prune_toolkit.selection.cut_images import cut_from, write_cut
from prune_toolkit.selection.labels import LABELS, LabelTransform
from prune_toolkit.selection.select_config import SelectConfig
from prune_toolkit.selection.targets import carried_views, labels_block, targets_of, write_targets
from prune_toolkit.work.part_work import Outcome, PartWork, Totals


def write_selection(config: SelectConfig, plan: SelectionPlan) -> Manifest:
    """Write a decided selection: tables, targets, beton, then the header. Print what it loses without being asked to.

    If the images are not the scored ones, only matching samples are cut; see `cut_from`.
    """
    start = time.monotonic()
    out, parent, images = config.out, plan.parent, None
    if config.beton:
        plan, images = cut_from(config, plan)
    decisions, header = plan.decisions, parent.header

    def finish(_parts: Totals, _start: float) -> Outcome:
        labels = _write_tables(out, plan)
        files = []
        if images is not None:
            files.append(write_cut(config, plan, images))
        blocks: Blocks = {
            "kind": "selection",
            "views": None if header.views is None else carried_views(header.views, max(1, plan.targets.views)),
            "selection": Selection(
                method=decisions.selector,
                parameters=plan.parameters,
                score=decisions.score,
                quota=decisions.quota,
                keep_asked=str(config.keep),
                keep_got=plan.keep_got,
                count=plan.count,
                seed=config.seed,
                preset=config.preset,
                per_class_min=config.per_class_min or None,
                without=None if decisions.without is None else decisions.without.id,
                without_suspects=None if plan.suspects is None else plan.suspects.block,
                held_out=None if decisions.held_out is None else decisions.held_out.id,
                search=plan.search,
                distill=None if plan.distill is None else Distill(**plan.distill),
            ),
            "labels": labels,
            "run": {
                "command": decisions.command,
                "seconds": round(time.monotonic() - start, 3),
                "chosen_by": sorted(plan.chosen_by),
                **({"dynamics_seconds": header.run.get("training_seconds")} if "dynamics" in plan.chosen_by else {}),
                "parent_run": header.run,
            },
        }
        local = parent.local if images is None else images.local
        return Outcome(blocks, local, ["selection", *plan.targets.tables], files)

    selection = PartWork(
        out=out,
        config=plan.resolved,
        count=len(plan.samples),
        finish=finish,
        parents=[parent],
        linked=dict.fromkeys(["samples", *carried_tables(parent)], parent),
    ).run_alone()
    if plan.journal is not None:
        plan.journal.remove()
    for line in plan.losses():
        note(f"warning: {line}")
    return selection


def _write_tables(out: Path, plan: SelectionPlan) -> Labels | None:
    """Write the table of kept samples and their targets; return the header block of the targets, None without any."""
    decisions, targets = plan.decisions, plan.targets
    count, digest = len(plan.samples), config_digest(plan.resolved)
    for part in range(part_count(count)):
        ids = part_rows(part, count)
        rows = slice(ids.start, ids.stop)
        columns = [
            pa.array(ids, pa.int64()),
            pa.array(plan.keep_N[rows]),
            pa.array(plan.reason_N[rows].tolist(), pa.string()),
            pa.array(np.ones(len(ids), np.float32)),
            pa.array(plan.distilled_N[rows].astype(np.float32)),
        ]
        write_part(out / part_path("selection", part), pa.Table.from_arrays(columns, schema=SELECTION_SCHEMA), digest)
    if not targets.tables:
        return None
    transform, label_N = fitted_transform(plan), plan.samples.column("label").to_numpy()
    for part, (id_n, logits) in enumerate(_kept_logits(plan)):
        labels = targets_of(logits, label_N[id_n], id_n, transform, targets.policy, targets.top_k, targets.codec)
        write_targets(out, targets, part, id_n, labels, digest)
    return labels_block(
        out,
        targets,
        label_N,
        transform=decisions.labels,
        class_std_C=transform.class_std_C,
        parameters={
            **({"loss": dict(decisions.loss)} if decisions.loss else {}),
            **({} if decisions.revision is None else decisions.revision._asdict()),
            **decisions.softening,
        },
    )


def fitted_transform(plan: SelectionPlan) -> LabelTransform:
    """Return the label transform, fitted on the training views of all scored samples, or on view 0 without any.

    Held-out samples are not used for fitting.
    """
    method = LABELS[plan.decisions.labels]
    transform = method.make(len(plan.parent.class_names))
    transform.set(plan.decisions.softening)
    if method.needs_fit:
        label_N = plan.samples.column("label").to_numpy()
        scored = plan.parent.header.views
        for view in range(1, scored.count) if scored is not None and scored.count > 1 else (0,):
            for ids, logits in plan.parent.soft_labels("logits", view):
                seen_n = plan.pool_N[ids]
                transform.fit(logits[seen_n], label_N[ids[seen_n]], ids[seen_n])
        transform.finish()
    return transform


def _kept_logits(plan: SelectionPlan) -> Iterator[tuple[NDArray[np.int64], list[SoftLabels]]]:
    """Yield (sample_id (n,), logits of V views) of the kept samples, part by part."""
    streams = [plan.parent.soft_labels("logits", view) for view in range(plan.targets.read_views)]
    for views in zip(*streams, strict=True):
        ids = views[0][0]
        if any(not np.array_equal(ids, other) for other, _ in views):
            raise InputError(f"{plan.parent.where}: the views of a part do not hold the same samples")
        if len({logits.top_k for _, logits in views}) > 1:
            raise InputError(f"{plan.parent.where}: the views of a part do not hold the same number of logits")
        kept = plan.keep_N[ids]
        yield ids[kept], [logits[kept] for _, logits in views]
