"""`prune cut`: cut the beton of a selection that came without images from another copy of them. Torch-free.

Nothing is chosen again: samples, targets and weights stay those of the selection, except samples the copy lacks.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.betons.labelled_views import labels_each
from manifests.errors import InputError, UsageError
from manifests.format.child_header import Blocks
from manifests.format.header import Distill
from manifests.format.last_layer import LAST_LAYER
from manifests.format.parts import (
    config_digest,
    part_count,
    part_path,
    part_rows,
    soft_labels_of,
    soft_labels_table,
    write_part,
)
from manifests.manifest import Manifest
from manifests.tables.thumbnails_table import carried_tables
from prune_toolkit.images.where import not_known, place_of
from prune_toolkit.selection.choose_samples import SHRINKS_NOTHING, Plan, check_same_pixels
from prune_toolkit.selection.cut_images import cut_from, write_cut
from prune_toolkit.selection.pool import HELD_OUT, REASONS
from prune_toolkit.selection.select_config import CutConfig
from prune_toolkit.selection.targets import TargetPlan, counted, label_parameters, labelled_views
from prune_toolkit.work.part_work import Outcome, PartWork, Totals

_AGAIN = "the manifest is incomplete or damaged: fetch or make it again"
_INSTEAD = {
    "scores": "choose from it: prune select --data DATA",
    "index": "prune index DATA --beton writes all of them",
}


def plan_cut(config: CutConfig, parent: Manifest) -> Plan:
    """Return what a selection keeps, before any image is read.

    Raises UsageError if the manifest is not a selection or already has its beton, InputError if its targets are
    missing or no images are known.
    """
    if parent.kind != "selection":
        raise UsageError(
            f"{parent.where} is of kind {parent.kind}: only a selection can be cut", hint=_INSTEAD[parent.kind]
        )
    chosen, targets = parent.header.selection, _targets(parent)
    if chosen is None:
        raise InputError(f"{parent.where}: its header has no block on how it was selected", hint=_AGAIN)
    if config.data is None and parent.beton_path is not None:
        raise UsageError(f"{parent.where} already has its train.beton", hint="name other images to cut: --data DATA")
    if not place_of(parent, config.data).is_known:
        raise not_known(parent, "name a copy of them: --data DATA")
    config.check_out(parent)
    samples, table = parent.samples(), parent.selection()
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    keep_N = table.column("keep").to_numpy(zero_copy_only=False)
    if not keep_N.any():
        raise InputError(f"{parent.where} keeps no samples: nothing to cut", hint="select with a larger --keep")
    if (keep_N & ~readable_N).any():
        raise InputError(f"{parent.where} keeps samples that are marked unreadable", hint=_AGAIN)
    reason_N = table.column("reason").to_numpy()
    max_side = _max_side(config, parent, targets, samples.filter(pa.array(keep_N)))
    return Plan(
        parent=parent,
        resolved={"command": "cut", "parent": parent.id, "beton": True, "max_side": max_side},
        max_side=max_side,
        targets=targets,
        samples=samples,
        pool_N=keep_N | (readable_N & (reason_N != REASONS[HELD_OUT])),
        keep_N=keep_N,
        reason_N=reason_N,
        distilled_N=table.column("kd_weight").to_numpy() > 0,
        distill=None if chosen.distill is None else chosen.distill.model_dump(),
    )


def write_cut_selection(config: CutConfig, plan: Plan) -> Manifest:
    """Write the selection of the samples that the images have, with its beton, then the header; see `cut_from`."""
    start = time.monotonic()
    before_N, parent, out = plan.keep_N, plan.parent, config.out
    plan, images = cut_from(config, plan)

    def finish(_parts: Totals, _start: float) -> Outcome:
        rewritten = _leave_out(out, plan, before_N)
        beton = write_cut(config, plan, images)
        blocks: Blocks = {} if np.array_equal(plan.keep_N, before_N) else _counted_again(out, plan)
        run = {"command": "cut", "seconds": round(time.monotonic() - start, 3), "parent_run": parent.header.run}
        blocks = {**blocks, "kind": "selection", "run": run}
        # Its parts are of classes, not of samples.
        layer = parent.files(LAST_LAYER)
        if layer:
            parent.link_table(LAST_LAYER, out)
        return Outcome(blocks=blocks, local=images.local, files=[beton, *layer], rewritten=rewritten)

    return PartWork(
        out=out,
        config=plan.resolved,
        count=len(plan.samples),
        finish=finish,
        parents=[parent],
        linked=dict.fromkeys(["samples", *carried_tables(parent), "selection", *plan.targets.tables], parent),
    ).run_alone()


def _targets(parent: Manifest) -> TargetPlan:
    """Return the stored targets of a selection; raises InputError if they were left out or not pulled."""
    labels, chosen, classes = parent.header.labels, parent.header.selection, len(parent.class_names)
    if labels is None or labels.views == 0:
        return TargetPlan.nothing(classes)
    for view in range(labels.views):
        parent.soft_labels("targets", view)
    policy = "replay" if labels.views > 1 else labels.policy or "single"
    return TargetPlan(
        policy=policy,
        views=labels.views,
        top_k=labels.top_k,
        class_count=classes,
        codec=labels.codec,
        layer=parent.last_layer,
        each=labels.budget.labels / max(1, chosen.count) if labels.is_ragged and labels.budget and chosen else None,
    )


def _max_side(config: CutConfig, parent: Manifest, targets: TargetPlan, kept: pa.Table) -> int | None:
    """Return the longer side to which images are shrunk: the requested one, else that of the original selection."""
    own, asked = parent.header.config.get("max_side"), config.max_side
    own = own if isinstance(own, int) and own > 0 else None
    if asked is None:
        return own
    if place_of(parent, config.data).beton is not None:
        note(SHRINKS_NOTHING)
        return own
    if not config.judges_copy and asked != own:
        check_same_pixels(asked, targets, kept, parent.header.views)
    return asked


def _leave_out(out: Path, plan: Plan, before_N: NDArray[np.bool_]) -> list[str]:
    """Rewrite the parts with samples that were dropped; return their paths.

    Raises InputError for a part whose targets are not those of exactly the kept samples.
    """
    digest, count, rewritten = config_digest(plan.resolved), len(plan.samples), list[str]()
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        kept_n = rows.start + np.flatnonzero(before_N[rows.start : rows.stop])
        stay_n = plan.keep_N[kept_n]
        if not stay_n.all():
            rewritten += [part_path(name, part) for name in ("selection", *plan.targets.tables)]
        for name in plan.targets.tables:
            path = part_path(name, part)
            table = _read(plan.parent, path)
            id_n = table.column("sample_id").to_numpy()
            if not (np.isin(id_n, kept_n).all() if plan.targets.is_ragged else np.array_equal(id_n, kept_n)):
                raise InputError(f"{out / path} does not hold the targets of the kept samples", hint=_AGAIN)
            if not stay_n.all():
                _, labels = soft_labels_of(table, "target", plan.targets.class_count)
                stays = plan.keep_N[id_n]
                write_part(out / path, soft_labels_table(id_n[stays], "target", labels[stays]), digest)
        if not stay_n.all():
            path = part_path("selection", part)
            table = _read(plan.parent, path)
            for name, values_N in (("keep", plan.keep_N), ("reason", plan.reason_N)):
                at, values = table.column_names.index(name), values_N[rows.start : rows.stop].tolist()
                table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
            write_part(out / path, table, digest)
    return rewritten


def _read(parent: Manifest, path: str) -> pa.Table:
    """Read a part from the manifest itself, which compares it with its digest; the linked one may be rewritten."""
    entry = parent.header.file(path)
    if entry is None:
        raise InputError(f"{parent.where} has no {path}", hint=_AGAIN)
    return parent.part(entry)


def _counted_again(out: Path, plan: Plan) -> Blocks:
    """Return the header blocks of a selection and its labels, counted over the remaining samples."""
    parent, label_N = plan.parent.header, plan.samples.column("label").to_numpy()
    assert parent.selection is not None
    fewer: dict[str, Any] = {"count": plan.count, "keep_got": plan.keep_got}
    if plan.distill is not None:
        fewer["distill"] = Distill(**plan.distill)
    blocks: Blocks = {"selection": parent.selection.model_copy(update=fewer)}
    if (old := parent.labels) is not None:
        new = label_parameters(out, plan.targets, label_N, transform=old.transform, parameters=old.parameters)
        bits_N = labelled_views(out, plan.targets, len(plan.samples))
        budget = (
            old.budget
            if old.budget is None or bits_N is None
            else counted(old.budget, labels_each(bits_N[plan.keep_N]))
        )
        blocks["labels"] = old.model_copy(update={"parameters": new, "budget": budget})
    return blocks
