"""The preview of `prune score`: a sample of the scores, and estimates of time and size for all data."""

import time
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.errors import InputError
from manifests.format.top_k import words_count
from prune_toolkit.images.readers import ImageReader
from prune_toolkit.scoring.doubts import doubt_of
from prune_toolkit.scoring.exchanged import Confusion, exchanged_warning
from prune_toolkit.scoring.feature_scores import FeatureScore
from prune_toolkit.scoring.logit_scores import Calibration, LogitScore, mean_scores
from prune_toolkit.scoring.score_config import Scoring
from prune_toolkit.scoring.teacher_pass import TeacherPass, show_views

SAMPLE_BYTES = 120
"""Size of a row of `samples`, with the overhead of Parquet."""
TRIAL_S, TRIAL_SAMPLES, TRIAL_CPU_IMAGES = 2.0, 4096, 32


def preview(work: Scoring, limit: int) -> dict[str, Any]:
    """Score `limit` samples spread evenly over the data; return them, and estimates for all data; writes nothing.

    images_per_second: a sample counts as one image per view.
    """
    config, images = work.config, work.images
    work.resolved()
    ids = images.readable(spread(np.arange(images.count), limit))
    with closing(work.open()) as reader, Progress(len(ids) * config.view_count, "preview") as progress:
        found, logits_nVC, _ = show_views(work, reader, ids, progress, check=True)
        rate = progress.rate()
    if not len(found):
        raise InputError("none of the images of the preview could be read")
    label_n = None if images.unlabelled else images.label_N[found]
    calibration = Calibration()
    if label_n is not None:
        calibration.add_logits(logits_nVC[:, 0], label_n)
        confusion = Confusion(len(images.class_names))
        confusion.add(logits_nVC[:, 0], label_n)
        in_order = work.teacher.reading.outputs is None
        for warning in (
            exchanged_warning(confusion.count_CC, images.class_names, in_order=in_order),
            doubt_of(calibration.top1, len(found), len(images.class_names), work.teacher.claim),
        ):
            if warning is not None:
                note(f"warning: {warning}")
    by = "entropy" if label_n is None else "loss"
    hardness_n = mean_scores(logits_nVC, label_n, config.scored_views)[by]
    keys = images.source.keys if images.samples is None else images.samples.column("key").to_pylist()
    return {
        "samples": len(found),
        **({} if label_n is None else {"top1": calibration.top1, "ece": calibration.ece}),
        "hardest": [
            {
                "key": keys[int(found[row])],
                **({} if label_n is None else {"label": images.class_names[int(label_n[row])]}),
                "predicted": images.class_names[int(logits_nVC[row, 0].argmax())],
                by: round(float(hardness_n[row]), 4),
            }
            for row in np.argsort(-hardness_n, kind="stable")[:5]
        ],
        "preprocessing": work.teacher.preprocessing.model_dump(),
        "images_per_second": rate,
        "seconds_for_all": images.count * config.view_count / rate if rate else 0.0,
        "bytes_for_all": bytes_on_disk(work),
    }


def bytes_on_disk(work: Scoring) -> int:
    """Estimate the size of the manifest: logits of all views, features of view 0, scores, and `samples`."""
    config, images = work.config, work.images
    words = len(images.class_names) if config.top_k is None else words_count(config.top_k)
    scores = len(LogitScore.registered(unlabelled=images.unlabelled))
    size_bytes = config.view_count * words * 2 + 4 * scores + SAMPLE_BYTES
    if config.features:
        size_bytes += 2 * work.teacher.feature_layer.width + 4 * len(
            FeatureScore.registered(unlabelled=images.unlabelled)
        )
    return images.count * size_bytes


def costs(images: int, images_per_second: float, size_bytes: int) -> dict[str, float]:
    """Return the estimates that every dry run reports, under these keys; times are 0 if the rate is unknown."""
    seconds = images / images_per_second if images_per_second else 0.0
    return {
        "bytes": size_bytes,
        "images_per_second": round(images_per_second, 1),
        "seconds": round(seconds, 2),
        "hours": round(seconds / 3600, 4),
    }


def trial_rate(work: TeacherPass, reader: ImageReader, ids: NDArray[np.int64]) -> float:
    """Measure images per second over TRIAL_S seconds, after a warm-up batch; 0 if no image can be read.

    Batches on a CPU are small, so that the trial is short even for a slow teacher. Closes the reader.
    """
    batch_size = work.batch_size
    if work.teacher.device.type == "cpu":
        batch_size = min(batch_size, TRIAL_CPU_IMAGES)
    start, shown, rate = time.monotonic(), 0, 0.0
    with closing(reader), closing(reader.batches(spread(ids, TRIAL_SAMPLES), batch_size)) as batches:
        for number, (_, pixels) in enumerate(batches):
            work.teacher.logits(pixels)
            shown, now = shown + len(pixels), time.monotonic()
            rate = shown / (now - start)
            if number == 0:
                start, shown = now, 0
            elif now - start > TRIAL_S:
                break
    return rate


def spread(ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose at most `count` samples, spread evenly over `ids`."""
    chosen: NDArray[np.int64] = ids[np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(np.int64))]
    return chosen
