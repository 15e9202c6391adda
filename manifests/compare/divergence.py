"""Mean KL divergence between the labels of two manifests, view by view, with one part per side in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.compare.pairing import Pairs, Side, labels_in
from manifests.format.columns import tables_of
from manifests.format.parts import PART_ROWS, part_count, soft_labels_of
from manifests.format.soft_labels import Logits, row_blocks
from manifests.manifest import Manifest
from manifests.tables.rows import ScatteredRows, Share, SharedTable, TableRows

COLUMNS = {"logits": "logits", "targets": "target"}
"""Kinds of labels, and the column of each."""


def compare_labels(a: Side, b: Side, pairs: Pairs) -> dict[str, Any] | None:
    """Return the mean KL divergence at T = 1 of targets or logits that both store, per view and both ways, in nats.

    None if neither stores any. If they cannot be compared, `views` is empty and `why` gives the reason.
    """
    stored = [{kind: _views(side.manifest, kind) for kind in COLUMNS} for side in (a, b)]
    if not any(views for side in stored for views in side.values()):
        return None
    to_b_C = labels_in(a.manifest.class_names, b.manifest.class_names)
    kinds = [kind for kind in COLUMNS if stored[0][kind] and stored[1][kind]]
    has = ["/".join(kind for kind, views in side.items() if views) or "no labels" for side in stored]
    if not kinds:
        return {"views": [], "why": f"one has {has[0]}, the other {has[1]}"}
    if sorted(to_b_C.tolist()) != list(range(len(b.manifest.class_names))):
        return {"views": [], "why": "the classes differ"}
    blocks = [side.manifest.header.views for side in (a, b)]
    crops = [None if block is None else block.model_dump(exclude={"count", "top_k"}) for block in blocks]
    view_names = {kind: [view for view in stored[0][kind] if view in stored[1][kind]] for kind in kinds}
    total = len(pairs.a_n) * sum(len(views) for views in view_names.values())
    with Progress(total, "comparing labels", "labels") as progress:
        return {
            "views": [
                {"table": f"{kind}/view-{view:03d}", **_divergence(a, b, pairs, kind, view, to_b_C, progress)}
                for kind, views in view_names.items()
                for view in views
            ],
            "why": None,
            "same_crops": crops[0] == crops[1],
        }


def _views(manifest: Manifest, kind: str) -> list[int]:
    if kind in manifest.not_pulled:
        return []
    tables = tables_of(manifest.header)
    return [view for view in range(len(tables)) if f"{kind}/view-{view:03d}" in tables]


def _divergence(
    a: Side, b: Side, pairs: Pairs, kind: str, view: int, to_b_C: NDArray[np.int64], progress: Progress
) -> dict[str, Any]:
    """Return the count of common labels and their mean KL both ways; `not_finite` counts those that are not finite."""
    table, column = f"{kind}/view-{view:03d}", COLUMNS[kind]
    layer_a, layer_b = (side.manifest.last_layer if kind == "targets" else None for side in (a, b))
    ours, count, wrong, sums = TableRows(a.manifest, table), 0, 0, np.zeros(2)
    with _rows_of_b(a, b, pairs, table) as theirs:
        for number in range(part_count(len(a))):
            id_n = pairs.a_n[slice(*np.searchsorted(pairs.a_n, [number * PART_ROWS, (number + 1) * PART_ROWS]))]
            if not len(id_n):
                continue
            mine, other = ours.take(id_n), theirs.part(number)
            ids_a, ids_b = (rows.column("sample_id").to_numpy() for rows in (mine, other))
            _, in_mine, in_other = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
            _, labels_a = soft_labels_of(mine.take(in_mine), column, len(a.manifest.class_names), layer_a)
            _, labels_b = soft_labels_of(other.take(in_other), column, len(b.manifest.class_names), layer_b)
            # Contiguous, as sums over another layout round otherwise: equal labels are 0 apart.
            a_nC: Logits = labels_a.logits()
            b_nC: Logits = np.ascontiguousarray(labels_b.logits()[:, to_b_C])
            finite_n = np.asarray(np.isfinite(a_nC).all(axis=1) & np.isfinite(b_nC).all(axis=1))
            sums += divergences(a_nC[finite_n], b_nC[finite_n])
            count, wrong = count + int(finite_n.sum()), wrong + int((~finite_n).sum())
            progress.advance(len(id_n))
    means = [float(value) / count if count else None for value in sums]
    found = {"samples": count, "kl_a_b": means[0], "kl_b_a": means[1]}
    return {**found, "not_finite": wrong} if wrong else found


@contextmanager
def _rows_of_b(a: Side, b: Side, pairs: Pairs, table: str) -> Iterator[SharedTable | ScatteredRows]:
    """Yield a table of B by the sample_ids of A: as stored if both have the same order, else reordered on disk."""
    if (np.diff(pairs.b_n) > 0).all():
        share = Share(manifest=b.manifest, old_n=pairs.b_n, new_n=pairs.a_n)
        yield SharedTable([share], table, len(a))
        return
    a_of_b_N = np.full(len(b), -1)
    a_of_b_N[pairs.b_n] = pairs.a_n
    with TemporaryDirectory(prefix="prune-") as folder:
        parts = (b.manifest.part(entry) for entry in b.manifest.files(table))
        yield ScatteredRows(parts, a_of_b_N, len(a), Path(folder), b.manifest.where)


def divergences(logits_a_nC: Logits, logits_b_nC: Logits) -> NDArray[np.float64]:
    """Return (2,) sums over n samples of KL(A || B) and KL(B || A) of softmax at T = 1, in nats; float64."""
    sums = np.zeros(2)
    for block in row_blocks(*logits_a_nC.shape):
        log_p_mC, log_q_mC = (_log_softmax(each[block]) for each in (logits_a_nC, logits_b_nC))
        gap_mC = log_p_mC - log_q_mC
        sums += (np.exp(log_p_mC) * gap_mC).sum(), -(np.exp(log_q_mC) * gap_mC).sum()
    return sums


def _log_softmax(logits_nC: Logits) -> NDArray[np.float64]:
    gap_nC = logits_nC.astype(np.float64)
    gap_nC -= gap_nC.max(axis=1, keepdims=True)
    gap_nC -= np.log(np.exp(gap_nC).sum(axis=1, keepdims=True))
    return gap_nC
