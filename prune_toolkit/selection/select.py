"""`prune select`: which samples to keep, their targets, and the beton a student trains from. Torch-free."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.beton import Beton
from manifests.card import write_card
from manifests.console import note
from manifests.errors import InputError, UsageError
from manifests.header import Header, Labels, Selection
from manifests.manifest import BETON_NAME, Manifest, commit, file_entry, part_entries, write_local
from manifests.parts import (
    SELECTION_SCHEMA,
    config_digest,
    part_count,
    part_path,
    part_rows,
    read_part,
    vectors_of,
    vectors_table,
    write_part,
)
from manifests.sources.base import Source
from prune_toolkit.indexing import DataSpec
from prune_toolkit.materialise import write_train_beton
from prune_toolkit.runs import finished, tool
from prune_toolkit.selection.labels import LABELS, LabelTransform
from prune_toolkit.selection.quotas import QUOTAS, parse_keep
from prune_toolkit.selection.selectors import SELECTORS, UNREADABLE, Choice, Pool, choose

TARGETS = "targets/view-000"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published combination of selector, quota, labels and loss."""

    selector: str
    score: str
    quota: str
    labels: str
    source: str
    loss: Mapping[str, float] = field(default_factory=dict)
    """What the trainer takes from the header unless told otherwise."""


PRESETS = {
    "mdslr": Preset(
        selector="medium",
        score="loss",
        quota="published",
        labels="reshape",
        source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe)",
        loss={"kd_weight": 0.9, "temperature": 4.0},
    )
}


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """What `prune select` was asked to do; None takes the preset's or the selector's own choice."""

    keep: str
    out: Path
    selector: str | None = None
    score: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    quota: str | None = None
    labels: str | None = None
    preset: str | None = None
    seed: int = 0
    beton: bool = True
    data: DataSpec | None = None
    max_side: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        parse_keep(self.keep)
        if self.preset is None:
            return
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}", hint=f"known: {', '.join(PRESETS)}")
        for name in ("selector", "score", "quota", "labels"):
            asked = getattr(self, name)
            if asked is not None and asked != getattr(PRESETS[self.preset], name):
                raise UsageError(
                    f"--preset {self.preset} sets {name} to {getattr(PRESETS[self.preset], name)}, not {asked}",
                    hint="leave out one of the two",
                )

    def resolved(self, parent: Manifest) -> dict[str, Any]:
        """Every choice made, without paths."""
        preset = PRESETS.get(self.preset or "")
        method = SELECTORS[self.selector or (preset.selector if preset else "medium")]
        parameters = {name: str(value) for name, value in method.resolve(self.parameters).items()}
        score = self.score or method.score
        if method.score is None and self.score is not None:
            raise UsageError(f"selector {method.name} ranks by no score", hint="leave out --score")
        return {
            "command": "select",
            "parent": parent.id,
            "keep": self.keep,
            "selector": method.name,
            "parameters": parameters,
            "score": score,
            "quota": QUOTAS[self.quota or (preset.quota if preset else "proportional")].name,
            "labels": LABELS[self.labels or (preset.labels if preset else "reshape")].name,
            "preset": self.preset,
            "loss": dict(preset.loss) if preset else {},
            "seed": self.seed,
            "beton": self.beton,
            "max_side": self.max_side,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decided selection, before anything is written."""

    parent: Manifest
    resolved: dict[str, Any]
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
        kept = self.samples.filter(pa.array(self.keep_N))
        if beton is None:
            images = int(kept.column("size_bytes").to_numpy().sum())
        else:
            row_of_id = np.searchsorted(beton.columns["sample_id"], kept.column("sample_id").to_numpy())
            images = int(beton.image_size_N[np.minimum(row_of_id, beton.count - 1)].sum())
        return images + self.count * (2 * len(self.parent.class_names) + 120)


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
    return Plan(
        parent=parent,
        resolved=resolved,
        samples=samples,
        readable_N=readable_N,
        keep_N=keep_N,
        reason_N=reason_N,
        choice=choice,
    )


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


def write_selection(config: SelectConfig, plan: Plan) -> Manifest:
    """Write a decided selection: tables, targets, beton, then the header."""
    out, parent = config.out, plan.parent
    if done := finished(out, plan.resolved):
        note(f"{out} is finished already")
        return done
    start = time.monotonic()
    images = images_of(config, parent) if config.beton else None
    out.mkdir(parents=True, exist_ok=True)
    digest, count = config_digest(plan.resolved), len(plan.samples)
    parent.link_table("samples", out)
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        write_part(out / part_path("selection", part), _selection_table(plan, rows), digest)
    transform = LABELS[plan.resolved["labels"]].make(len(parent.class_names))
    _write_targets(out, plan, transform, digest)
    files = part_entries(out, ["samples", "selection", TARGETS], count)
    if images is not None:
        rows_written = write_train_beton(
            out / BETON_NAME,
            plan.samples.filter(pa.array(plan.keep_N)),
            images=images,
            workers=config.workers,
            max_side=config.max_side,
            targets=_targets(out, count),
            target_shape=(1, len(parent.class_names)),
        )
        files.append(file_entry(out, BETON_NAME, rows_written))
    header = parent.header
    resolved = plan.resolved
    class_std = transform.class_std_C
    selection_header = Header(
        kind="selection",
        data=header.data,
        teacher=header.teacher,
        compute=header.compute,
        views=header.views,
        selection=Selection(
            method=resolved["selector"],
            parameters=resolved["parameters"],
            score=resolved["score"],
            quota=resolved["quota"],
            keep_asked=config.keep,
            keep_got=plan.keep_got,
            count=plan.count,
            seed=config.seed,
            preset=config.preset,
        ),
        labels=Labels(
            transform=resolved["labels"],
            parameters={"loss": resolved["loss"]} if resolved["loss"] else {},
            views=1,
            class_std=None if class_std is None else [float(value) for value in class_std],
        ),
        parents=[parent.id],
        tool=tool(),
        config=resolved,
        files=files,
        run={
            "seconds": round(time.monotonic() - start, 3),
            "parent_run": header.run,
        },
    )
    write_local(out, parent.local if config.data is None else config.data.local())
    write_card(out, selection_header)
    return commit(out, selection_header)


def images_of(config: SelectConfig, parent: Manifest) -> Source | Beton:
    """The images to cut the beton from: --data, the beton that was scored, or the source that was."""
    if config.data is not None:
        return config.data.open()
    beton = parent.beton_path or parent.local.get("beton")
    if beton is not None and Path(beton).is_file():
        return Beton.open(beton)
    spec = DataSpec.from_local(parent.local)
    if spec is None:
        raise InputError(
            f"{parent.path} does not know where its images are on this machine",
            hint="name them with --data DIR, or write the selection alone with --no-beton",
        )
    return spec.open()


def _selection_table(plan: Plan, rows: range) -> pa.Table:
    part = slice(rows.start, rows.stop)
    ones = np.ones(len(rows), np.float32)
    columns = [
        pa.array(rows, pa.int64()),
        pa.array(plan.keep_N[part]),
        pa.array(plan.reason_N[part].tolist(), pa.string()),
        pa.array(ones),
        pa.array(ones),
    ]
    return pa.Table.from_arrays(columns, schema=SELECTION_SCHEMA)


def _write_targets(out: Path, plan: Plan, transform: LabelTransform, digest: str) -> None:
    """Targets of the kept samples, part by part: at most one part of logits is in memory."""
    label_N = plan.samples.column("label").to_numpy()
    if LABELS[plan.resolved["labels"]].needs_fit:
        for ids, logits in plan.parent.logits():
            transform.fit(logits, label_N[ids], ids)
    transform.finish()
    for part, (ids, logits) in enumerate(plan.parent.logits()):
        kept = plan.keep_N[ids]
        targets = transform.apply(logits[kept], label_N[ids][kept], ids[kept])
        write_part(out / part_path(TARGETS, part), vectors_table(ids[kept], "target", targets), digest)


def _targets(out: Path, count: int) -> Iterator[NDArray[np.float16]]:
    for part in range(part_count(count)):
        _, targets = vectors_of(read_part(out / part_path(TARGETS, part)), "target")
        yield from targets[:, None, :]
