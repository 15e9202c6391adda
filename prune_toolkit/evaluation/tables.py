"""The CSV files of an evaluation: the answer to every image, the classes, the confusion matrix."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from manifests.base.files import atomic_file, write_together
from prune_toolkit.evaluation.figures import Answers
from prune_toolkit.evaluation.result import Evaluation

PREDICTION_COLUMNS = ("key", "label", "predicted", "confidence", "margin")


class Predictions:
    """Writes a row per image; classes by their names."""

    def __init__(self, stream: io.TextIOBase, class_names: Sequence[str]) -> None:
        self._rows, self._names, self.flush = csv.writer(stream, lineterminator="\n"), class_names, stream.flush
        self._rows.writerow(PREDICTION_COLUMNS)

    def add(self, keys: Iterable[str], labels: Iterable[int], answers: Answers) -> None:
        """Write the answers to some images."""
        for key, label, predicted, confidence, margin in zip(
            keys, labels, answers.predicted_n, answers.confidence_n, answers.margin_n, strict=True
        ):
            self._rows.writerow((key, self._names[label], self._names[predicted], f"{confidence:.6g}", f"{margin:.6g}"))


@contextmanager
def predictions_file(path: Path | None, class_names: Sequence[str]) -> Iterator[Predictions | None]:
    """Open the table of predictions, which is there as a whole or not at all; None without a path."""
    if path is None:
        yield None
        return
    with atomic_file(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        yield Predictions(text, class_names)
        text.detach()


def write_tables(evaluation: Evaluation, *, classes: Path | None, confusion: Path | None) -> None:
    """Write the tables that are asked for, all or none.

    The classes in label order: class, samples, top1. The confusion matrix: a row per class, a column per answer.
    """
    tables = {}
    if classes is not None:
        rows = ((row.name, row.samples, "" if row.top1 is None else f"{row.top1:.6g}") for row in evaluation.classes)
        tables[classes] = _csv([("class", "samples", "top1"), *rows])
    if confusion is not None:
        names, counts = evaluation.class_names, evaluation.confusion_CC
        named = ((name, *row) for name, row in zip(names, counts.tolist(), strict=True))
        tables[confusion] = _csv([("label", *names), *named])
    write_together(tables)


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
