"""Accuracy and calibration of stored logits, part by part."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.format.parts import part_count, part_path, read_part, soft_labels_of
from prune_toolkit.scoring.logit_scores import Calibration


def calibration_of(folder: Path, table: str, label_N: NDArray[np.int64], class_count: int) -> Calibration:
    """Compute the calibration of a table of logits, all or the K largest, of samples with labels (N,).

    One part is in memory at a time.
    """
    calibration = Calibration()
    for part in range(part_count(len(label_N))):
        ids, stored = soft_labels_of(read_part(folder / part_path(table, part)), "logits", class_count)
        calibration.add_logits(stored.logits(), label_N[ids])
    return calibration
