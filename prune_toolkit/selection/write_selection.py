"""`prune select`: which samples to keep, their targets, and the beton a student trains from. Torch-free."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.card.readme import write_card
from manifests.errors import InputError
from manifests.format.header import Distill, Header, Labels, Selection
from manifests.format.parts import SELECTION_SCHEMA, config_digest, part_count, part_path, part_rows, write_part
from manifests.format.top_k import SoftLabels, TopK
from manifests.manifest import Manifest, commit, part_entries, write_local
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.selection.choose_samples import Plan, SelectionPlan, plan_selection
from prune_toolkit.selection.cut_images import cut_from, local_of, write_cut
from prune_toolkit.selection.labels import LABELS, LabelTransform
from prune_toolkit.selection.presets import PRESETS, Preset
from prune_toolkit.selection.revision import RevisionCount
from prune_toolkit.selection.select_config import SelectConfig
from prune_toolkit.selection.targets import carried_views, targets_of, write_targets
from prune_toolkit.work.part_work import finished, tool

__all__ = ["PRESETS", "Preset", "SelectConfig", "SelectionPlan", "plan_selection", "write_selection"]


def write_selection(config: SelectConfig, plan: SelectionPlan) -> Manifest:
    """Write a decided selection: tables, targets, beton, then the header.

    Of images that are not those scored, what matches is cut; see `cut_from`.
    """
    start = time.monotonic()
    out, parent, images = config.out, plan.parent, None
    if config.beton:
        plan, images = cut_from(config, plan)
    if done := finished(out, plan.resolved):
        note(f"{out} is finished already")
        return done
    out.mkdir(parents=True, exist_ok=True)
    decisions, count = plan.decisions, len(plan.samples)
    digest = config_digest(plan.resolved)
    linked = ["samples", *carried_tables(parent)]
    for table in linked:
        parent.link_table(table, out)
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        write_part(out / part_path("selection", part), _selection_table(plan, rows), digest)
    transform = fitted_transform(plan) if plan.targets.tables else None
    revised = None if decisions.revision is None else RevisionCount(decisions.revision)
    if transform is not None:
        _write_targets(out, plan, transform, digest, revised)
    files = part_entries(out, [*linked, "selection", *plan.targets.tables], count)
    if images is not None:
        kd_weight_N = None if plan.distill is None else plan.distilled_N.astype(np.float32)
        files.append(write_cut(config, plan, images, kd_weight_N=kd_weight_N))
    header = parent.header
    class_std = None if transform is None else transform.class_std_C
    selection_header = Header(
        kind="selection",
        data=header.data,
        teacher=header.teacher,
        compute=header.compute,
        views=None if header.views is None else carried_views(header.views, max(1, plan.targets.views)),
        thumbnails=header.thumbnails if carried_tables(parent) else None,
        hidden=header.hidden,
        selection=Selection(
            method=decisions.selector,
            parameters=plan.parameters,
            score=decisions.score,
            quota=decisions.quota,
            keep_asked=str(config.keep),
            keep_got=plan.keep_got,
            count=plan.count,
            seed=config.seed,
            preset=config.preset,
            per_class_min=decisions.per_class_min or None,
            without=decisions.without,
            distill=None if plan.distill is None else Distill(**plan.distill),
        ),
        labels=None
        if transform is None
        else Labels(
            transform=decisions.labels,
            parameters={
                **({"loss": dict(decisions.loss)} if decisions.loss else {}),
                **({} if revised is None else revised.parameters()),
            },
            views=len(plan.targets.tables),
            policy=plan.targets.policy,
            top_k=plan.targets.top_k,
            class_std=None if class_std is None else [float(value) for value in class_std],
        ),
        parents=[parent.id],
        tool=tool(),
        config=plan.resolved,
        files=files,
        run={
            "command": decisions.command,
            "seconds": round(time.monotonic() - start, 3),
            "chosen_by": sorted(plan.chosen_by),
            **({"dynamics_seconds": header.run.get("training_seconds")} if "dynamics" in plan.chosen_by else {}),
            "parent_run": header.run,
        },
    )
    write_local(out, local_of(config, parent, images))
    write_card(out, selection_header)
    return commit(out, selection_header)


def _selection_table(plan: Plan, rows: range) -> pa.Table:
    part = slice(rows.start, rows.stop)
    columns = [
        pa.array(rows, pa.int64()),
        pa.array(plan.keep_N[part]),
        pa.array(plan.reason_N[part].tolist(), pa.string()),
        pa.array(np.ones(len(rows), np.float32)),
        pa.array(plan.distilled_N[part].astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=SELECTION_SCHEMA)


def fitted_transform(plan: SelectionPlan) -> LabelTransform:
    """The label transform, having seen the training views, or view 0 where there are none, of all scored samples.

    Of those that are held out it sees nothing.
    """
    method = LABELS[plan.decisions.labels]
    transform = method.make(len(plan.parent.class_names))
    if method.needs_fit:
        label_N = plan.samples.column("label").to_numpy()
        scored = plan.parent.header.views
        for view in range(1, scored.count) if scored is not None and scored.count > 1 else (0,):
            for ids, logits in plan.parent.soft_labels("logits", view):
                seen_n = plan.pool_N[ids]
                transform.fit(logits[seen_n], label_N[ids[seen_n]], ids[seen_n])
    transform.finish()
    return transform


def _write_targets(
    out: Path, plan: Plan, transform: LabelTransform, digest: str, revised: RevisionCount | None
) -> None:
    """Targets of the kept samples; of all views, one part of logits is in memory at a time."""
    label_N = plan.samples.column("label").to_numpy()
    targets = plan.targets
    for part, (ids, logits) in enumerate(_kept_logits(plan)):
        labels = targets_of(logits, label_N[ids], ids, transform, targets.policy, targets.top_k)
        if revised is not None:
            revised.add(labels, label_N[ids])
        write_targets(out, targets, part, ids, labels, digest)


def _kept_logits(plan: Plan) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16] | list[TopK]]]:
    """(sample_id (n,), logits (n, V, C) float16 or V times the K largest) of the kept samples, part by part."""
    streams = [plan.parent.soft_labels("logits", view) for view in range(plan.targets.read_views)]
    for views in zip(*streams, strict=True):
        ids = views[0][0]
        if any(not np.array_equal(ids, other) for other, _ in views):
            raise InputError(f"{plan.parent.where}: the views of one part are of other samples")
        kept = plan.keep_N[ids]
        yield ids[kept], _joined([logits[kept] for _, logits in views])


def _joined(views: list[SoftLabels]) -> NDArray[np.float16] | list[TopK]:
    top = [logits for logits in views if isinstance(logits, TopK)]
    dense = [logits for logits in views if not isinstance(logits, TopK)]
    if top and dense:
        raise InputError("some views hold all logits, others the largest")
    return top or np.stack(dense, axis=1)
