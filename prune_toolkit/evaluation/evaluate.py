"""Show a network labelled images and measure its answers; nothing is kept per image but what is written to a file."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.errors import InputError, UsageError
from manifests.format.parts import part_count, part_rows
from prune_toolkit.evaluation.figures import Figures
from prune_toolkit.evaluation.result import Evaluation
from prune_toolkit.evaluation.tables import predictions_file, write_tables
from prune_toolkit.export.export import refuse_existing
from prune_toolkit.images.readers import ImageReader, ImagesAtHand
from prune_toolkit.scoring.exchanged import MOST_CLASSES, exchanged_warning
from prune_toolkit.scoring.preview import TRIAL_CPU_IMAGES, spread
from trainer.models.info import usual_batch_size
from trainer.teachers.teacher import Teacher

TRIAL_S = 0.5
"""How long the network alone is measured."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How images are read and shown, and which files are written."""

    batch_size: int | None = None
    workers: int = 1
    loader: str = "auto"
    limit: int | None = None
    """Evaluate that many images, spread over the data."""
    predictions: Path | None = None
    classes: Path | None = None
    confusion: Path | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: at least 1")
        files = [path for path in (self.predictions, self.classes, self.confusion) if path is not None]
        for path in files:
            refuse_existing(path)
        if len({path.resolve() for path in files}) < len(files):
            raise UsageError("two of the files to write have the same name", hint="name each differently")


@dataclass
class _Unreadable:
    """The images that could not be read."""

    count: int = 0
    first: str = ""

    def add(self, key: str, problem: str) -> None:
        self.count += 1
        self.first = self.first or f"{key}: {problem}"


class _Clock:
    """Images per second; the first batch, which waits for threads and compilers, counts only if there is no other."""

    def __init__(self) -> None:
        self._start, self._count, self._batches, self.rate = time.monotonic(), 0, 0, 0.0

    def add(self, count: int) -> None:
        """Report that a batch of so many images is done."""
        now = time.monotonic()
        self._count += count
        self.rate = self._count / max(now - self._start, 1e-9)
        self._batches += 1
        if self._batches == 1:
            self._start, self._count = now, 0


def evaluate(model: Teacher, images: ImagesAtHand, config: EvaluationConfig) -> Evaluation:
    """Return the figures of a network on images, and write the files that are asked for.

    Raises InputError if no image can be read, or for logits that are not finite.
    """
    names = tuple(images.class_names)
    if len(names) < 2:
        raise InputError(f"the data has {len(names)} class: there is nothing to tell apart")
    _tell_outputs(model, len(names))
    chosen = np.arange(images.count)
    chosen = chosen if config.limit is None else spread(chosen, config.limit)
    figures, broken, clock, shown = Figures(len(names)), _Unreadable(), _Clock(), None
    reader = images.open(model.preprocessing, device=model.device, workers=config.workers, loader=config.loader)
    batch_size = config.batch_size or usual_batch_size(model.preprocessing.image_px)
    # The tables are written while that of the predictions is still open: all are there at last, or none.
    with predictions_file(config.predictions, names) as predictions:
        with closing(reader), Progress(len(chosen), f"evaluating {model.info.spec}") as progress:
            for ids, keys, pixels in _batches(images, reader, chosen, batch_size, broken):
                logits_nC, label_n = model.logits(pixels), images.label_N[ids]
                _check_finite(logits_nC, keys)
                answers = figures.add(logits_nC, label_n)
                if predictions is not None:
                    predictions.add(keys, label_n.tolist(), answers)
                if shown is None:
                    shown = pixels[: TRIAL_CPU_IMAGES if model.device.type == "cpu" else None].clone()
                progress.advance(len(ids))
                clock.add(len(ids))
        if shown is None:
            raise InputError(f"none of the {len(chosen):,} images can be read; the first: {broken.first}")
        if broken.count:
            note(
                f"{broken.count:,} of {len(chosen):,} images cannot be read and are left out; the first: {broken.first}"
            )
        split = images.source.split if images.index is None else images.index.header.data.split
        evaluation = Evaluation(
            model=model.info.spec,
            data=images.source.name if images.index is None else images.index.header.data.name,
            split=split,
            of=images.count,
            unreadable=broken.count,
            figures=figures,
            class_names=names,
            preprocessing=model.preprocessing,
            device=str(model.device),
            dtype=model.dtype,
            network_images_per_second=network_rate(model, shown),
            images_per_second=clock.rate,
        )
        if len(names) <= MOST_CLASSES and (warning := exchanged_warning(evaluation.confusion_CC, list(names))):
            note(f"warning: {warning}")
        if predictions is not None:
            predictions.flush()
        write_tables(evaluation, classes=config.classes, confusion=config.confusion)
    return evaluation


def network_rate(model: Teacher, images: torch.Tensor) -> float:
    """Return the images per second of the network alone, normalisation included, on a batch that is in memory."""
    model.logits(images)
    start, shown = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < TRIAL_S or not shown:
        model.logits(images)
        shown += len(images)
    return shown / elapsed


def _batches(
    images: ImagesAtHand, reader: ImageReader, chosen: NDArray[np.int64], batch_size: int, broken: _Unreadable
) -> Iterator[tuple[NDArray[np.int64], list[str], torch.Tensor]]:
    """Yield (sample_ids, keys, uint8 images) of what can be read; the facts about images go part by part."""
    for part in range(part_count(images.count)):
        rows = part_rows(part, images.count)
        ids = chosen[(chosen >= rows.start) & (chosen < rows.stop)]
        if not len(ids):
            continue
        keys = _keys(images, rows)
        if images.samples is not None:
            problems = images.samples.column("problem").slice(rows.start, len(rows)).to_pylist()
            for row in ids.tolist():
                if problems[row - rows.start] is not None:
                    broken.add(keys[row - rows.start], problems[row - rows.start])
        with closing(reader.batches(images.readable(ids), batch_size)) as batches:
            for found, pixels in batches:
                yield found, [keys[row - rows.start] for row in found.tolist()], pixels
        for row in ids.tolist():
            facts = images.facts.pop(row, None)
            if facts is not None and facts.problem is not None:
                broken.add(keys[row - rows.start], facts.problem)


def _keys(images: ImagesAtHand, rows: range) -> list[str]:
    if images.samples is None:
        return images.source.keys[rows.start : rows.stop]
    keys: list[str] = images.samples.column("key").slice(rows.start, len(rows)).to_pylist()
    return keys


def _tell_outputs(model: Teacher, class_count: int) -> None:
    if model.reading.outputs is None or model.info.class_names is None:
        return
    others = len(model.info.class_names or ()) - class_count
    only = f"; its {others:,} other outputs are not compared" if others > 0 else ""
    note(f"the outputs of {model.info.spec} are matched to the classes of the data by name{only}")


def _check_finite(logits_nC: NDArray[np.float32], keys: list[str]) -> None:
    finite_n = np.isfinite(logits_nC).all(axis=1)
    if not finite_n.all():
        raise InputError(
            f"{keys[int(np.argmin(finite_n))]}: the network's logits are not finite",
            hint="check that its weights are not damaged and the preprocessing is its own; or use --dtype float32",
        )
