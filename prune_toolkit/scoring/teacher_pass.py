"""Run the teacher over samples, batch by batch: logits of all views, and features of view 0 if requested."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manifests.base.progress import Progress, note
from manifests.errors import InputError, UsageError
from prune_toolkit.images.readers import ImageReader, ImagesAtHand
from prune_toolkit.scoring.logit_scores import FLOAT16_MAX, check_float16
from prune_toolkit.work.part_work import ALONE, WorkShare
from trainer.data.views import EVALUATION, ViewRecipe
from trainer.models.images_said import numbers_text
from trainer.models.info import usual_batch_size
from trainer.teachers.normalisation_check import better_normalisation
from trainer.teachers.teacher import Teacher

CHECKED_IMAGES = 128
_CHECK = "check that the checkpoint is not damaged and the preprocessing is the teacher's own"


@dataclass(frozen=True, kw_only=True)
class PassConfig:
    """The options of a pass of the teacher over images, without the teacher and the images."""

    out: Path
    recipe: ViewRecipe = EVALUATION
    """The augmentation of views 1 and above; view 0 is the evaluation view."""
    batch_size: int | None = None
    """Images per forward pass; all views of a sample are in one pass. None: `usual_batch_size`."""
    workers: int = 1
    loader: str = "auto"
    trust_beton: bool = False
    """True if images that are read from a beton are not compared with the manifest."""
    ranks: WorkShare = ALONE
    finish_only: bool = False
    teacher_licence: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1")


@dataclass(frozen=True, kw_only=True)
class TeacherPass:
    """A teacher, and the images it is shown."""

    config: PassConfig
    teacher: Teacher
    images: ImagesAtHand

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self.config.batch_size or usual_batch_size(self.teacher.preprocessing.image_px)

    def facts(self) -> dict[str, Any]:
        """Return everything about the teacher and its precision that the result depends on."""
        return {
            "teacher": self.teacher.info.spec,
            "weights_sha256": self.teacher.weights_sha256,
            "preprocessing": self.teacher.preprocessing.model_dump(),
            **self.teacher.reading.card(),
            "compute": self.teacher.compute(self.batch_size).model_dump(),
        }

    def open_views(self, view_count: int, *, with_thumbnails: bool = False, trust_beton: bool = True) -> ImageReader:
        """Open a reader of views 0 .. view_count - 1; see `ImagesAtHand.open`."""
        return self.images.open(
            self.teacher.preprocessing,
            device=self.teacher.device,
            workers=self.config.workers,
            loader=self.config.loader,
            recipe=self.config.recipe,
            view_count=view_count,
            with_thumbnails=with_thumbnails,
            trust_beton=trust_beton,
        )


def show_views(
    work: TeacherPass,
    reader: ImageReader,
    ids: NDArray[np.int64],
    progress: Progress,
    *,
    feature_views: int = 0,
    check: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.float16]]:
    """Run the teacher over the samples that can be read; return their ids, logits (n, V, C), and features (n, F, D).

    The features are those of the first F = `feature_views` views; D is 0 without any. check: warn if the first batch
    looks wrongly normalised. Progress counts images, n * V of them. Raises InputError naming the first sample whose
    logits or features are not finite or do not fit float16.
    """
    done, views, seen = 0, reader.view_count, np.empty(len(ids), np.int64)
    found = np.empty((len(ids), views, len(work.images.class_names)), np.float16)
    width = work.teacher.feature_layer.width if feature_views else 0
    features = np.empty((len(ids), feature_views, width), np.float16)
    # Closed here, also on Ctrl-C: a reader's threads would otherwise run until the interpreter ends.
    with closing(reader.batches(ids, work.batch_size)) as batches:
        for batch_ids, images in batches:
            rows = slice(done, done + len(batch_ids))
            if check and done == 0:
                warn_of_normalisation(work.teacher, images[::views])
            if feature_views:
                logits, all_features = work.teacher.logits_and_features(images)
                some_features = all_features.view(-1, views, width)[:, :feature_views].flatten(0, 1)
                checked = _checked_features(some_features.cpu().numpy(), np.repeat(batch_ids, feature_views))
                features[rows] = checked.reshape(len(batch_ids), feature_views, width)
            else:
                logits = work.teacher.logits(images)
            check_float16(logits, np.repeat(batch_ids, views), hint=_CHECK)
            seen[rows], found[rows] = batch_ids, logits.reshape(len(batch_ids), views, -1)
            done = rows.stop
            progress.advance(len(images))
    return seen[:done], found[:done], features[:done]


def show_chosen(
    work: TeacherPass,
    reader: ImageReader,
    ids: NDArray[np.int64],
    views: NDArray[np.int64],
    progress: Progress,
    *,
    features: bool = False,
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Run the teacher over view `views[i]` of sample `ids[i]`, ascending; return logits (n, C) and features (n, D).

    Of samples that cannot be read any more, and all after them, there are none. Raises InputError like `show_views`.
    """
    done = 0
    found = np.empty((len(ids), len(work.images.class_names)), np.float16)
    kept = np.empty((len(ids), work.teacher.feature_layer.width if features else 0), np.float16)
    if not len(ids):
        return found, kept
    with closing(reader.chosen(ids, views, work.batch_size)) as batches:
        for images in batches:
            rows = slice(done, done + len(images))
            if features:
                logits, some_features = work.teacher.logits_and_features(images)
                kept[rows] = _checked_features(some_features.cpu().numpy(), ids[rows])
            else:
                logits = work.teacher.logits(images)
            check_float16(logits, ids[rows], hint=_CHECK)
            found[rows] = logits
            done = rows.stop
            progress.advance(len(images))
    return found[:done], kept[:done]


def warn_of_normalisation(teacher: Teacher, images_n3SS: Tensor) -> None:
    """Warn if another of the usual normalisations fits the teacher's first batch normalisation far better."""
    shown = teacher.preprocessing
    better = better_normalisation(teacher.module, images_n3SS[:CHECKED_IMAGES], shown)
    if better is not None:
        note(
            f"warning: {teacher.info.spec} is shown images with mean {numbers_text(shown.mean)} and std "
            f"{numbers_text(shown.std)}, but its first batch normalisation remembers {better.name}\n"
            f"  if these are what it was trained on, give {better.flags}"
        )


def _checked_features(features_nD: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float16]:
    # Not "> FLOAT16_MAX": that is false for nan.
    fits_n = (np.abs(features_nD) <= FLOAT16_MAX).all(axis=1)
    if not fits_n.all():
        row = int(np.argmin(fits_n))
        worst = features_nD[row][int(np.argmin(np.abs(features_nD[row]) <= FLOAT16_MAX))]
        raise InputError(
            f"sample {ids[row]}: a feature of {worst:.3g} does not fit float16",
            hint="check that the checkpoint is not damaged and the preprocessing is the teacher's own; or leave out "
            "--features, or --codec features, then none are stored",
        )
    return features_nD.astype(np.float16)
