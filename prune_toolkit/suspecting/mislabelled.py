"""Likely mislabelled samples: outliers below their class in the margin of a network, on the wrong side of zero."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.manifest import Manifest

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
LARGEST_Z = 3.5
"""Modified z-scores beyond it are outliers: Iglewicz and Hoaglin 1993."""
MARGINS = (("dynamics", "aum"), ("teacher", "margin"))
"""Scores z_y - max_{c != y} z_c, as set and name: over the epochs of a training run, and of the teacher."""


class Judgement(NamedTuple):
    """What is known of the labels of N samples."""

    by: str
    """The score, as SET/NAME."""
    z_N: Floats
    """Modified z-score of that score within the class; nan where it is unknown."""
    mislabelled_N: Mask


def judge_labels(manifest: Manifest, label_N: Integers) -> Judgement | None:
    """Judge labels by the first of MARGINS that is stored here; None if there is none."""
    specs = {(spec.set, spec.name) for spec in manifest.header.scores}
    for set_name, column in MARGINS:
        if (set_name, column) not in specs or "scores" in manifest.not_pulled or not manifest.has(f"scores/{set_name}"):
            continue
        scores = manifest.scores(set_name)
        id_n, margin_n = scores.column("sample_id").to_numpy(), scores.column(column).to_numpy().astype(np.float64)
        z_N, is_N = np.full(len(label_N), np.nan), np.zeros(len(label_N), np.bool_)
        z_N[id_n] = modified_z(margin_n, label_N[id_n])
        is_N[id_n] = is_mislabelled(margin_n, z_N[id_n])
        return Judgement(f"{set_name}/{column}", z_N, is_N)
    return None


def modified_z(value_n: Floats, label_n: Integers) -> Floats:
    """Return modified z-scores (n,) within the class: 0.6745 (x - median) / MAD; nan for a value that is nan.

    If more than half of a class has the same value, MAD is 0, and 1.2533 times the mean absolute deviation takes the
    place of MAD / 0.6745; if all have, z is 0. Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993.
    """
    z_n = np.full(len(value_n), np.nan)
    known_n = np.flatnonzero(~np.isnan(value_n))
    known_n = known_n[np.argsort(label_n[known_n], kind="stable")]
    for row_m in np.split(known_n, np.flatnonzero(np.diff(label_n[known_n])) + 1) if len(known_n) else ():
        apart_m = value_n[row_m] - np.median(value_n[row_m])
        away_m = np.abs(apart_m)
        spread = float(np.median(away_m)) / 0.6745 or 1.253314 * float(away_m.mean())
        z_n[row_m] = apart_m / spread if spread else 0.0
    return z_n


def is_mislabelled(margin_n: Floats, z_n: Floats) -> Mask:
    """Return (n,) whether a margin is an outlier below its class, and another class is ahead."""
    return np.asarray((z_n < -LARGEST_Z) & (margin_n < 0))


def preferred_classes(manifest: Manifest, is_wanted_N: Mask, label_N: Integers) -> Ids:
    """Return the class (N,) that the teacher prefers to the label in view 0; -1 where not wanted or not stored here."""
    class_N = np.full(len(label_N), -1)
    if not is_wanted_N.any() or not manifest.has("logits/view-000") or "logits" in manifest.not_pulled:
        return class_N
    for ids, logits_nC in manifest.logits():
        row_m = np.flatnonzero(is_wanted_N[ids])
        others_mC = logits_nC[row_m].astype(np.float32)
        others_mC[np.arange(len(row_m)), label_N[ids[row_m]]] = -np.inf
        class_N[ids[row_m]] = others_mC.argmax(axis=1)
    return class_N
