"""Labels of unlabelled images: the classes that a teacher answers for view 0."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.format.parts import SAMPLES_SCHEMA


def answers(logits_nC: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the class of the largest of the logits (n, C) as stored, (n,); the lowest of equal ones."""
    return np.asarray(logits_nC.argmax(axis=1), np.int64)


def part_labels(count: int, row_n: NDArray[np.int64], label_n: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the labels of `count` samples, (count,): those at some rows, and 0 for unreadable images."""
    label_N = np.zeros(count, np.int32)
    label_N[row_n] = label_n
    return label_N


def relabelled(samples: pa.Table, label_N: NDArray[np.int32]) -> pa.Table:
    """Return rows of `samples` with other labels (N,)."""
    samples = samples.select(SAMPLES_SCHEMA.names)
    return samples.set_column(
        samples.column_names.index("label"), SAMPLES_SCHEMA.field("label"), pa.array(label_N, pa.int32())
    ).cast(SAMPLES_SCHEMA)
