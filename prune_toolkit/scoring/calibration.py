"""Accuracy and calibration of stored logits, part by part."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.parts import part_count, part_path, read_part, soft_labels_of
from prune_toolkit.scoring.exchanged import Confusion
from prune_toolkit.scoring.logit_scores import Calibration


def calibration_of(
    folder: Path, table: str, label_N: NDArray[np.int64], class_count: int
) -> tuple[Calibration, Confusion]:
    """Compute calibration and confusions of a table of logits, all or the K largest, of samples with labels (N,).

    One part is in memory at a time. Raises InputError if there are none.
    """
    calibration, confusion = Calibration(), Confusion(class_count)
    for part in range(part_count(len(label_N))):
        ids, stored = soft_labels_of(read_part(folder / part_path(table, part)), "logits", class_count)
        logits = stored.logits()
        calibration.add_logits(logits, label_N[ids])
        confusion.add(logits, label_N[ids])
    if not calibration.count:
        raise InputError(f"none of {len(label_N):,} images could be read: there is nothing to score")
    return calibration, confusion
