"""Compute the table `scores/features` from stored features, in the process that finds all parts complete."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.errors import InputError
from manifests.format.parts import PART_ROWS, part_count, part_path, read_part, soft_labels_of, vectors_of
from manifests.format.soft_labels import FullLogits, Logits
from manifests.format.top_k import SoftLabels
from manifests.tables.rows import hash_matrix
from prune_toolkit.images.readers import ImagesAtHand
from prune_toolkit.scoring.feature_scores import BLOCK_ROWS, FeatureRows, FeatureScore, FeatureTable, held_out_split
from prune_toolkit.scoring.score_config import FEATURE_SCORE_TABLE, FEATURE_TABLE, Scoring, logits_table
from prune_toolkit.scoring.teacher_pass import show_views
from prune_toolkit.work.score_set import write_score_set


def write_feature_scores(work: Scoring, samples: pa.Table, digest: str) -> None:
    """Write the feature scores of all readable samples, part by part, from the parts of logits and features."""
    held_out, out, class_count = work.held_out, work.config.out, len(work.images.class_names)
    readable = samples.filter(samples.column("problem").is_null())
    ids = readable.column("sample_id").to_numpy()
    label_N = readable.column("label").to_numpy().astype(np.int64)
    stored = partial(_stored, out, samples.column("label").to_numpy(), class_count)
    held_N = held_out_split(label_N, hash_matrix(readable.column("content_hash")), class_count)

    def held_out_rows() -> Iterator[FeatureRows]:
        if held_out is not None:
            yield from _shown(work, held_out)
            return
        done = 0
        for rows in stored():
            yield rows.only(held_N[done : done + len(rows.label_n)])
            done += len(rows.label_n)

    def copies() -> NDArray[np.int64]:
        content = list(zip(readable.column("content_hash").to_pylist(), label_N.tolist(), strict=True))
        count = Counter(compress(content, held_N) if held_out is None else _content_of(held_out))
        return np.array([count[one] for one in content], np.int64)

    entries = FeatureScore.registered(unlabelled=work.images.unlabelled)
    columns: dict[str, NDArray[np.float32]] = {}
    with Progress(len(entries) * len(ids), "scores of features") as progress:
        table = FeatureTable(
            label_N=label_N,
            class_count=class_count,
            width=work.teacher.feature_layer.width,
            blocks=lambda: _told(stored(), progress),
            held_out=held_out_rows,
            copies=copies,
        )
        for entry in entries:
            columns[entry.name] = entry(table)
            _check_column(entry.name, columns[entry.name], ids)
            progress.shorten(len(ids))
    write_score_set(out, FEATURE_SCORE_TABLE, ids, columns, count=len(samples), digest=digest)


def _check_column(name: str, value_N: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    if value_N.shape != ids.shape:
        raise InputError(
            f"score {name}: its function returned shape {value_N.shape} for {len(ids):,} samples",
            hint="correct the plug-in that registers it",
        )
    finite_N = np.isfinite(value_N)
    if not finite_N.all():
        row = int(np.argmin(finite_N))
        raise InputError(
            f"sample {ids[row]}: score {name} is {value_N[row]}", hint="check whether the checkpoint is damaged"
        )


def _stored(out: Path, label_N: NDArray[np.int32], class_count: int) -> Iterator[FeatureRows]:
    for part in range(part_count(len(label_N))):
        ids, features_nD = vectors_of(read_part(out / part_path(FEATURE_TABLE, part)), "features")
        logits = cache(partial(_logits_of, out, part, ids, class_count))
        yield from _blocks(features_nD, logits, label_N[ids].astype(np.int64))


def _logits_of(out: Path, part: int, ids: NDArray[np.int64], class_count: int) -> SoftLabels:
    also, logits = soft_labels_of(read_part(out / part_path(logits_table(0), part)), "logits", class_count)
    if not np.array_equal(ids, also):
        raise InputError(f"{out}: features and logits of part {part} have different samples", hint="score again")
    return logits


def _told(blocks: Iterator[FeatureRows], progress: Progress) -> Iterator[FeatureRows]:
    """Pass blocks on and report progress; the number of passes of a score is not known in advance."""
    for rows in blocks:
        yield rows
        progress.shorten(-len(rows.label_n))
        progress.advance(len(rows.label_n))


def _shown(work: Scoring, images: ImagesAtHand) -> Iterator[FeatureRows]:
    """Run the teacher over the held-out images, a part of them at a time."""
    all_ids = images.readable(np.arange(images.count))
    with (
        closing(work.open_view_0(images)) as reader,
        Progress(len(all_ids), "the held-out images") as progress,
    ):
        for start in range(0, len(all_ids), PART_ROWS):
            ids = all_ids[start : start + PART_ROWS]
            shown, logits_nVC, features_n1D = show_views(work, reader, ids, progress, feature_views=1)
            yield from _blocks(features_n1D[:, 0], partial(FullLogits, logits_nVC[:, 0]), images.label_N[shown])


def _content_of(images: ImagesAtHand) -> list[tuple[bytes, int]]:
    """Return content hash and label of the images that were shown, including unreadable ones."""
    if images.samples is not None:
        hashes: list[bytes] = images.samples.column("content_hash").to_pylist()
        return list(zip(hashes, images.label_N.tolist(), strict=True))
    return [(facts.content_hash, int(images.label_N[row])) for row, facts in images.facts.items()]


def _blocks(
    features_nD: NDArray[np.float16], logits: Callable[[], SoftLabels], label_n: NDArray[np.int64]
) -> Iterator[FeatureRows]:
    for start in range(0, len(label_n), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        yield FeatureRows(features_nD[rows], partial(_dense, logits, rows, label_n[rows]), label_n[rows])


def _dense(logits: Callable[[], SoftLabels], rows: slice, label_n: NDArray[np.int64]) -> Logits:
    return logits()[rows].logits_with(label_n)
