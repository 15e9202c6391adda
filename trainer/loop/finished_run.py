"""A run that ended, as Python sees it: its numbers, its history, and the student."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.batches import EvaluationTransform
from trainer.loop.run_folder import JSONL_NAME, LAST_NAME, Row, student_in
from trainer.models.build import build_model
from trainer.models.trained_student import TrainedStudent
from trainer.models.weights import read_student_info


@dataclass(frozen=True, kw_only=True)
class Run:
    """A student's training, finished."""

    path: Path
    """Its folder."""
    report: Mapping[str, Any] = field(repr=False)
    """The content of its run.json."""
    named: str | None = field(default=None, repr=False)
    """The student's spec, where one's own code or a hub is needed to build it: its file does not decide that."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The last epoch: epoch, top1, top5 and loss on the validation images, train_loss and train_top1."""
        return dict(self.report["last"])

    @property
    def history(self) -> list[Row]:
        """Every epoch, as metrics.jsonl holds them."""
        return [json.loads(line) for line in (self.path / JSONL_NAME).read_text("utf-8").splitlines()]

    def student(self) -> TrainedStudent:
        """The student of the last epoch, on the CPU in evaluation mode."""
        return load_student(self.path / LAST_NAME, student=self.named)

    def __repr__(self) -> str:
        last = self.metrics
        trained = "agrees with the teacher" if "labels_from" in self.report["manifest"] else "train top-1"
        name, share = (trained, "train_top1") if last["top1"] is None else ("top-1", "top1")
        return (
            f"<Run {self.report['student']['spec']}: {self.report['samples']:,} samples, {last['epoch']} epochs, "
            f"{name} {100 * last[share]:.2f} %, at {self.path}>"
        )


def load_student(path: str | Path, *, student: str | None = None) -> TrainedStudent:
    """A student that `train-student` wrote, as an nn.Module with its preprocessing, on the CPU in evaluation mode.

    path: its file, or the folder of its run. It takes uint8 images (n, 3, S, S) as they are, and float ones that are
    normalised; `transform` makes these of PIL images. student: the network, where it is of your own code: a file may
    not say which code to run.
    """
    path = student_in(Path(path))
    info = read_student_info(path)
    classes = len(info.class_names or ()) or 1
    if student is None:
        network, _ = build_model(str(path), class_count=classes)
    else:
        network, _ = build_model(student, class_count=classes, checkpoint=path, image_px=info.preprocessing.image_px)
    return TrainedStudent(network.eval(), info, EvaluationTransform(info.preprocessing)).eval()
