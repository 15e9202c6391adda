"""Run the teacher over samples, batch by batch: logits of all views, and features of view 0 if requested."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.errors import InputError
from prune_toolkit.images.readers import ImageReader
from prune_toolkit.scoring.logit_scores import FLOAT16_MAX, check_float16
from trainer.models.teacher import Teacher


class TeacherOutput(NamedTuple):
    """The output of a teacher for n readable samples, in order."""

    ids: NDArray[np.int64]
    logits_nVC: NDArray[np.float16]
    features_nD: NDArray[np.float16] | None = None
    """Features of view 0."""


def score_views(
    teacher: Teacher,
    reader: ImageReader,
    ids: NDArray[np.int64],
    batch_size: int,
    progress: Progress,
    view_count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return sample_ids (n,) and logits (n, V, C) float16 of the samples that can be read; see `show_views`."""
    shown = show_views(teacher, reader, ids, batch_size, progress, view_count)
    return shown.ids, shown.logits_nVC


def show_views(
    teacher: Teacher,
    reader: ImageReader,
    ids: NDArray[np.int64],
    batch_size: int,
    progress: Progress,
    view_count: int,
    *,
    with_features: bool = False,
) -> TeacherOutput:
    """Run the teacher over the samples that can be read.

    The reader gives `view_count` views of each sample; progress counts images, n * V of them. Raises InputError naming
    the first sample whose logits or features are not finite or do not fit float16.
    """
    done, seen, found = 0, np.empty(len(ids), np.int64), np.empty((len(ids), view_count, 0), np.float16)
    width = teacher.feature_layer.width if with_features else 0
    features = np.empty((len(ids), width), np.float16)
    for batch_ids, images in reader.batches(ids, batch_size):
        rows = slice(done, done + len(batch_ids))
        if with_features:
            logits, all_features = teacher.logits_and_features(images)
            features[rows] = _checked_features(all_features[::view_count].cpu().numpy(), batch_ids)
        else:
            logits = teacher.logits(images)
        check_float16(
            logits,
            np.repeat(batch_ids, view_count),
            hint="check that the checkpoint is not damaged and the preprocessing is the teacher's own",
        )
        if not done:
            found = np.empty((len(ids), view_count, logits.shape[1]), np.float16)
        seen[rows], found[rows] = batch_ids, logits.reshape(len(batch_ids), view_count, -1)
        done = rows.stop
        progress.advance(len(images))
    return TeacherOutput(seen[:done], found[:done], features[:done] if with_features else None)


def _checked_features(features_nD: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float16]:
    # Not "> FLOAT16_MAX": that is false for nan.
    fits_n = (np.abs(features_nD) <= FLOAT16_MAX).all(axis=1)
    if not fits_n.all():
        row = int(np.argmin(fits_n))
        worst = features_nD[row][int(np.argmin(np.abs(features_nD[row]) <= FLOAT16_MAX))]
        raise InputError(
            f"sample {ids[row]}: a feature of {worst:.3g} does not fit float16",
            hint="check that the checkpoint is not damaged and the preprocessing is the teacher's own; or leave out "
            "--features, then none are stored",
        )
    return features_nD.astype(np.float16)
