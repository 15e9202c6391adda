"""Which samples to keep and why, decided before anything is written."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.beton import Beton
from manifests.console import note
from manifests.errors import InputError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.materialise import beton_bytes
from prune_toolkit.selection.config import SelectConfig
from prune_toolkit.selection.quotas import parse_keep
from prune_toolkit.selection.selectors import UNREADABLE, Choice, Pool, choose
from prune_toolkit.selection.targets import TargetPlan


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decided selection, before anything is written."""

    parent: Manifest
    resolved: dict[str, Any]
    targets: TargetPlan
    samples: pa.Table
    readable_N: NDArray[np.bool_]
    keep_N: NDArray[np.bool_]
    reason_N: NDArray[np.object_]
    choice: Choice

    @property
    def count(self) -> int:
        """Samples kept."""
        return int(self.keep_N.sum())

    @property
    def keep_got(self) -> float:
        """Kept share of the readable samples."""
        return self.count / int(self.readable_N.sum())

    def per_class(self) -> list[dict[str, Any]]:
        """Readable and kept samples of every class."""
        label_N = self.samples.column("label").to_numpy()
        classes = len(self.parent.class_names)
        readable = np.bincount(label_N[self.readable_N], minlength=classes)
        kept = np.bincount(label_N[self.keep_N], minlength=classes)
        return [
            {"class": name, "samples": int(readable[c]), "kept": int(kept[c])}
            for c, name in enumerate(self.parent.class_names)
        ]

    def beton_bytes(self, beton: Beton | None) -> int:
        """About how large train.beton will be, in bytes."""
        return beton_bytes(self.samples.filter(pa.array(self.keep_N)), beton, self.targets.shape)


def plan_selection(config: SelectConfig, parent: Manifest) -> Plan:
    """Decide what to keep; UsageError for a manifest without what the selector needs."""
    if parent.kind != "scores":
        raise UsageError(
            f"{parent.path} is of kind {parent.kind}: selecting needs a scored manifest",
            hint="make one: prune score --data DATA --teacher TEACHER",
        )
    resolved = config.resolved(parent)
    samples = parent.samples()
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    pool_samples = samples.filter(pa.array(readable_N))
    ids = pool_samples.column("sample_id").to_numpy()
    score_n, harder = None, "high"
    if resolved["score"] is not None:
        score_n, harder = _score_column(parent, resolved["score"], ids)
    hashes = pool_samples.column("content_hash").combine_chunks()
    choice = choose(
        resolved["selector"],
        Pool(
            sample_id_N=ids,
            label_N=pool_samples.column("label").to_numpy(),
            content_hash_N16=_hash_matrix(hashes),
            class_count=len(parent.class_names),
            score_N=score_n,
            harder=harder,  # type: ignore[arg-type]
        ),
        keep=parse_keep(config.keep),
        quota=resolved["quota"],
        seed=config.seed,
        parameters=config.parameters,
    )
    keep_N = np.zeros(len(samples), np.bool_)
    keep_N[readable_N] = choice.keep_N
    reason_N = np.full(len(samples), choice.reasons[UNREADABLE], object)
    reason_N[readable_N] = np.array(choice.reasons, object)[choice.reason_N]
    targets = config.targets(parent)
    _check_same_pixels(config, resolved["max_side"], targets, samples.filter(pa.array(keep_N)))
    return Plan(
        parent=parent,
        resolved=resolved,
        targets=targets,
        samples=samples,
        readable_N=readable_N,
        keep_N=keep_N,
        reason_N=reason_N,
        choice=choice,
    )


def _check_same_pixels(config: SelectConfig, max_side: int | None, targets: TargetPlan, kept: pa.Table) -> None:
    """UsageError where labels of views would go with other pixels than the teacher saw; `max_side` is what shrinks."""
    if max_side is None:
        if config.max_side is not None and config.beton:
            note("--max-side shrinks nothing here: images of a beton are copied as they are")
        return
    large = sum((np.maximum(kept.column("width"), kept.column("height")) > max_side).tolist())
    if not large:
        return
    shrunk = f"--max-side {max_side} shrinks {large:,} images"
    if targets.policy == "replay":
        raise UsageError(
            f"{shrunk}, so the {targets.views} scored views would show other pixels than the teacher labelled",
            hint="shrink before scoring: prune index --beton --max-side; or store one label: --policy single",
        )
    note(f"{shrunk}; the teacher saw them whole")


def _hash_matrix(hashes: pa.Array) -> NDArray[np.uint8]:
    width = hashes.type.byte_width
    offset = hashes.offset * width
    return np.frombuffer(hashes.buffers()[1], np.uint8, len(hashes) * width, offset).reshape(-1, width)


def _score_column(parent: Manifest, name: str, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], str]:
    """A score by name, or SET/NAME, for the samples asked for, and which end of it is harder."""
    set_name, _, column = name.rpartition("/")
    set_name = set_name or "teacher"
    spec = next((s for s in parent.header.scores if s.set == set_name and s.name == column), None)
    if spec is None:
        known = ", ".join(f"{s.set}/{s.name}" for s in parent.header.scores)
        raise UsageError(f"{parent.path} has no score {name!r}", hint=f"it has: {known}")
    table = parent.scores(set_name)
    scored = table.column("sample_id").to_numpy()
    if not np.array_equal(scored, ids):
        raise InputError(f"{parent.path}: scores/{set_name} does not cover exactly the readable samples")
    return table.column(column).to_numpy(), spec.harder
