"""How often stored logits are right, and how sure they are of it, part by part."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.format.parts import part_count, part_path, read_part, soft_labels_of
from prune_toolkit.scoring.logit_scores import Calibration, compute_scores


def calibration_of(folder: Path, table: str, label_N: NDArray[np.int64], class_count: int) -> Calibration:
    """Of one table of logits of samples with labels (N,), or of what its K largest stand for; one part in memory."""
    calibration = Calibration()
    for part in range(part_count(len(label_N))):
        ids, stored = soft_labels_of(read_part(folder / part_path(table, part)), "logits", class_count)
        scores = compute_scores(stored.logits(), label_N[ids], ["confidence", "correct"])
        calibration.add(scores["confidence"], scores["correct"])
    return calibration
