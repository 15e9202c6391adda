"""Hand-made manifests: samples, logits and scores as given, so that every number in them is known."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.format.header import (
    DataSet,
    Features,
    Header,
    Preprocessing,
    ScoreSpec,
    Selection,
    TeacherCard,
    Tool,
    Views,
)
from manifests.format.parts import (
    SAMPLES_SCHEMA,
    SELECTION_SCHEMA,
    part_count,
    part_path,
    part_rows,
    soft_labels_table,
    vectors_table,
    write_part,
)
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import keep_largest
from manifests.images.identity import fingerprint, view_ids
from manifests.manifest import Manifest, commit, part_entries
from prune_toolkit.scoring.logit_scores import LogitScore, compute_scores

TEACHER = {
    "spec": "net",
    "weights_sha256": "aa",
    "parameters": 1000,
    "preprocessing": Preprocessing(image_px=8, resize_px=8, mean=[0.5], std=[0.5]),
    "train_top1": 0.5,
    "train_ece": 0.1,
}


def content(key: str) -> bytes:
    """The content hash of the image of a key, unless a test says otherwise."""
    return hashlib.sha256(key.encode()).digest()[:16]


def make(
    folder: Path,
    keys: Sequence[str],
    labels: Sequence[int],
    logits_VNC: Any = None,
    *,
    classes: Sequence[str] = ("cat", "dog", "eel"),
    contents: Mapping[str, bytes] | None = None,
    unreadable: Sequence[str] = (),
    sets: Mapping[str, Mapping[str, Any]] | None = None,
    features: Any = None,
    kept: Sequence[str] | None = None,
    keep_k: int | None = None,
    **blocks: Mapping[str, Any],
) -> Manifest:
    """A manifest of keys in order: an index, or scores where there are logits (V, N, C), or a selection of the kept.

    `sets` are further scores by set and name, (N,) each; `blocks` update data, teacher, views, config and run of the
    header.
    """
    count, contents = len(keys), dict(contents or {})
    label_N = np.asarray(labels, np.int64)
    digests = [contents.get(key, content(key)) for key in keys]
    readable_N = np.array([key not in unreadable for key in keys])
    keep_N = np.array([kept is None or key in kept for key in keys]) & readable_N
    column = "logits" if kept is None else "target"
    table_of = "logits" if kept is None else "targets"
    view_id_N = view_ids(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16))
    samples = pa.table(
        {
            "sample_id": np.arange(count),
            "key": list(keys),
            "label": label_N,
            "size_bytes": np.full(count, 64),
            "content_hash": digests,
            "view_id": view_id_N,
            "width": np.full(count, 8),
            "height": np.full(count, 8),
            "problem": [None if readable else "torn" for readable in readable_N],
        }
    ).cast(SAMPLES_SCHEMA)
    tables = {"samples": samples}
    specs = []
    ids = np.flatnonzero(keep_N)
    if logits_VNC is not None:
        logits_VNC = np.asarray(logits_VNC, np.float16)
        for view, logits_NC in enumerate(logits_VNC):
            stored = keep_largest(FullLogits(logits_NC[ids]), label_N[ids], keep_k)
            tables[f"{table_of}/view-{view:03d}"] = soft_labels_table(ids, column, stored)
        if kept is None:
            scores = compute_scores(logits_VNC[0][ids], label_N[ids])
            tables["scores/teacher"] = pa.table({"sample_id": ids, **scores})
            specs += [entry.spec() for entry in LogitScore.registered()]
    for name, columns in (sets or {}).items():
        values = {column: np.asarray(each, np.float32)[ids] for column, each in columns.items()}
        tables[f"scores/{name}"] = pa.table({"sample_id": ids, **values})
        specs += [ScoreSpec(set=name, name=column, formula="f", source="s", harder="high") for column in columns]
    if features is not None:
        tables["features/view-000"] = vectors_table(ids, "features", np.asarray(features, np.float16)[ids])
    if kept is not None:
        ones = np.ones(count, np.float32)
        reasons = ["kept" if keep else "not chosen" for keep in keep_N]
        arrays = [np.arange(count), keep_N, reasons, ones, ones]
        tables["selection"] = pa.table(dict(zip(SELECTION_SCHEMA.names, arrays, strict=True))).cast(SELECTION_SCHEMA)
    for name, table in tables.items():
        held_n = table.column("sample_id").to_numpy()
        for part in range(part_count(count)):
            span = part_rows(part, count)
            first, end = np.searchsorted(held_n, [span.start, span.stop])
            write_part(folder / part_path(name, part), table.slice(first, end - first), "d")
    names = [classes[label] for label in label_N]
    data = {
        "name": "squares",
        "source": "folder",
        "count": count,
        "readable": int(readable_N.sum()),
        "class_names": list(classes),
        "fingerprint": fingerprint(keys, names, digests),
    }
    has_teacher = logits_VNC is not None
    views = {"recipe": "pad_crop_flip", "version": 1, "seed": 0, "image_px": 8, "top_k": keep_k}
    chosen = {"method": "medium", "parameters": {}, "quota": "none", "keep_asked": "?", "keep_got": 0.5, "seed": 0}
    header = Header(
        kind="selection" if kept is not None else "scores" if specs else "index",
        data=DataSet(**(data | dict(blocks.get("data", {})))),
        teacher=TeacherCard(**(TEACHER | dict(blocks.get("teacher", {})))) if has_teacher else None,
        views=Views(**(views | {"count": len(logits_VNC)} | dict(blocks.get("views", {})))) if has_teacher else None,
        features=None if features is None else Features(layer="fc", width=np.shape(features)[1]),
        selection=None if kept is None else Selection(**chosen, count=int(keep_N.sum())),
        scores=specs,
        tool=Tool(name="prune-toolkit", version="0"),
        config=dict(blocks.get("config", {})),
        files=part_entries(folder, list(tables), count),
        run=dict(blocks.get("run", {"command": "score", "seconds": 10.0})),
    )
    return commit(folder, header)


def some_logits(seed: int, *shape: int) -> np.ndarray:
    """Random float16 logits of a shape."""
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float16)


def content_of(manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """Every table as rows by key, without sample_ids: what must not depend on how a manifest came about."""
    keys = manifest.samples().column("key").to_pylist()
    found = {}
    for table in sorted({entry.path.rpartition("/")[0] for entry in manifest.header.files}):
        rows = pa.concat_tables([manifest.part(entry) for entry in manifest.files(table)]).to_pylist()
        found[table] = [{**row, "sample_id": keys[row["sample_id"]]} for row in rows]
    return found


def logits_of(manifest: Manifest, view: int = 0) -> list[list[float]]:
    """The logits of one view, a list a sample."""
    return [row for _, logits in manifest.logits(view) for row in logits.tolist()]
