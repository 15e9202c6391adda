"""Find the images from which a selection is cut, and the samples that these images lack.

The choice depends on the manifest alone, so everyone with the manifest chooses the same samples. A copy that differs
from the scored images is first compared with the manifest, and only matching samples are cut.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from manifests.base.layout import BETON_NAME
from manifests.base.progress import note
from manifests.copies.check import EXACT, DataCheck, check_data
from manifests.copies.data_report import KINDS, DataReport
from manifests.errors import MismatchError, UsageError
from manifests.format.header import FileEntry
from manifests.format.parts import part_count, part_path, read_part
from manifests.hidden.secret import check_secret, hide_hashes, reveal_view_ids
from manifests.images.decode import RawImage
from manifests.images.identity import content_hash
from manifests.manifest import file_entry
from manifests.sources.base import Source
from manifests.sources.facts import SourceFacts
from prune_toolkit.images.beton_check import IS_COPY
from prune_toolkit.images.sample_images import SampleImages, SourceImages
from prune_toolkit.images.scored_thumbnails import thumbnails_at_hand
from prune_toolkit.images.train_beton import write_train_beton
from prune_toolkit.images.where import find_images, place_of
from prune_toolkit.selection.choose_samples import Plan, SelectionPlan, check_same_pixels
from prune_toolkit.selection.select_config import CutConfig, SelectConfig
from prune_toolkit.selection.targets import beton_targets, labelled_views

P = TypeVar("P", bound=Plan)


def planned_cut(config: SelectConfig, plan: SelectionPlan) -> SelectionPlan:
    """Return the plan as `cut_from` returns it; unchanged if no images are available or requested."""
    return cut_from(config, plan)[0] if config.beton and place_of(plan.parent, config.data).is_known else plan


def cut_from(config: CutConfig, plan: P) -> tuple[P, SampleImages]:
    """Return the plan without the samples that the images lack, and the images to cut it from.

    The plan does not change if the images are the scored ones: the same listing and sizes and, if other encodings
    would pass or hashes are requested, the same bytes. Raises MismatchError if no samples are left.
    """
    images = find_images(plan.parent, config.data, trust_beton=config.trust_beton)
    if (source := images.source) is None:
        return plan, images
    check_secret(plan.parent.header, config.check.secret, plan.parent.where)
    check, facts, is_scored = config.check, SourceFacts(source, config.check.workers), False
    if _is_listed(source, plan):
        # Reading a table gives the sizes, and cut images are hashed anyway.
        if config.data is None and check.level == "sizes" and source.root is None:
            return plan, images
        # Match each sample by path: by content, equal images would be interchangeable.
        level = check.level if check.level in EXACT else "hashes"
        report = _compared(replace(check, level=level, stages=("path",)), plan, facts)
        is_scored = not report.unmatched
    if not is_scored:
        report = _compared(check, plan, facts)
        plan = _without(plan, report)
    header = plan.parent.header
    # The size to which a selection was shrunk earlier was checked then.
    if config.judges_copy and config.max_side != header.config.get("max_side"):
        width_n, height_n = report.side_N2[plan.keep_N].T
        cut = pa.table({"width": width_n, "height": height_n})
        check_same_pixels(config.max_side, plan.targets, cut, header.views)
    _check_hidden_crops(plan, check)
    if is_scored:
        return plan, images
    local = {**images.local, IS_COPY: True}
    return plan, SourceImages(source=source, local=local, row_N=report.row_N, hash_of=_hash_of(check))


def _check_hidden_crops(plan: Plan, check: DataCheck) -> None:
    """Raise UsageError if views depend on image sizes that a hidden manifest omits, and the images may differ."""
    header, asked = plan.parent.header, plan.max_side
    if header.hidden is None or plan.targets.policy != "replay":
        return
    scored = None if header.views is None else header.views.max_side
    where = f"{plan.parent.where} is hidden and does not store image sizes"
    if check.level not in EXACT:
        raise UsageError(f"{where}: crops of a copy with other sizes could differ", hint="use --check hashes")
    if asked != scored and scored is not None:
        raise UsageError(f"{where}: it was scored on images shrunk to {scored} px", hint=f"use --max-side {scored}")
    if asked != scored:
        raise UsageError(f"{where}: --max-side {asked} could show other pixels than were scored", hint="leave it out")


def write_cut(config: CutConfig, plan: Plan, images: SampleImages) -> FileEntry:
    """Write train.beton from the result of `cut_from`, once its selection and targets are written."""
    keep_N, count, secret = pa.array(plan.keep_N), len(plan.samples), config.check.secret
    samples = plan.samples.filter(keep_N)
    if secret is not None and images.source is not None:
        # A hidden manifest hides the view_ids, which determine the crops.
        view_id_n = reveal_view_ids(secret, samples.column("key"), samples.column("view_id").to_numpy())
        at = samples.column_names.index("view_id")
        samples = samples.set_column(at, samples.schema.field(at), pa.array(view_id_n, pa.uint64()))
    paths = [config.out / part_path("selection", part) for part in range(part_count(count))]
    kept = pa.concat_tables([read_part(path, columns=["weight", "kd_weight"]) for path in paths]).filter(keep_N)
    rows = write_train_beton(
        config.out / BETON_NAME,
        samples,
        images=images,
        workers=config.workers,
        max_side=plan.max_side,
        views=plan.parent.header.views,
        weight_n=kept.column("weight").to_numpy(),
        kd_weight_n=kept.column("kd_weight").to_numpy(),
        targets=beton_targets(config.out, plan.targets, count) if plan.targets.tables else None,
        target_shape=plan.targets.shape,
        labelled_views_N=labelled_views(config.out, plan.targets, count),
    )
    return file_entry(config.out, BETON_NAME, rows)


def _hash_of(check: DataCheck) -> Callable[[RawImage], bytes] | None:
    """Return the hash by which an image must match its row of `samples`, for `SourceImages`."""
    secret = check.secret
    if check.level not in EXACT:
        return None
    if secret is None:
        return content_hash
    return lambda image: hide_hashes(secret, np.frombuffer(content_hash(image), np.uint8)).tobytes()


def _is_listed(source: Source, plan: Plan) -> bool:
    """Return whether a source lists the samples of the manifest: the same keys and, if it has any, labels in order."""
    samples = plan.samples
    same_labels = source.is_unlabelled or (
        list(source.class_names) == plan.parent.class_names
        and np.array_equal(source.labels_N, samples.column("label").to_numpy())
    )
    return same_labels and samples.column("key").combine_chunks().equals(pa.array(source.keys, pa.string()))


def _compared(check: DataCheck, plan: Plan, facts: SourceFacts) -> DataReport:
    has_pixels = check.level == "pixels"
    thumbnails = thumbnails_at_hand(plan.parent, check.workers, plan.keep_N) if has_pixels else None
    return check_data(plan.parent, facts.source, check, wanted_N=plan.keep_N, thumbnails=thumbnails, facts=facts)


def _without(plan: P, report: DataReport) -> P:
    """Return the plan without the samples that do not match, with the reason of each; print one note."""
    gone_N = report.what_N >= 0
    keep_N = plan.keep_N & ~gone_N
    counts = {kind: count for kind, count in report.counts.items() if count}
    text = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    if not keep_N.any():
        looser = ""
        if report.level in EXACT:
            has_thumbnails = thumbnails_at_hand(plan.parent, 1, plan.keep_N) is not None
            level = "pixels" if has_thumbnails else "names: there are no thumbnails to compare it with"
            looser = f"; a re-encoded copy passes with --check {level}"
        raise MismatchError(
            f"{report.data} has none of the {plan.count:,} samples chosen from {plan.parent.where}: {text}",
            hint=f"see the details: prune verify MANIFEST --data DATA{looser}",
        )
    if counts:
        note(f"{gone_N.sum():,} of {plan.count:,} chosen samples do not match {report.data} and are left out: {text}")
    reason_N = plan.reason_N.copy()
    reason_N[gone_N] = np.array(KINDS, object)[report.what_N[gone_N]]
    facts = {
        "check": report.level,
        "left_out": counts,
        "kept": hashlib.sha256(np.packbits(keep_N).tobytes()).hexdigest()[:16],
        **({} if report.content is None else {"content": report.content}),
    }
    distill = plan.distill
    if distill is not None:
        distill = {**distill, "count": int((keep_N & plan.distilled_N).sum())}
    return replace(plan, keep_N=keep_N, reason_N=reason_N, distill=distill, resolved={**plan.resolved, "copy": facts})
