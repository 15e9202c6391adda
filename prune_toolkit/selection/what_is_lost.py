"""What a selection loses without being asked to, one line each, with the flag that mends it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.sources.read_as import listed_names
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.quotas.quotas import QUOTAS, total_count

Counts = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def classes_line(class_names: Sequence[str], size_C: Counts, kept_C: Counts) -> str | None:
    """Return one line that names the classes with samples of which none is kept; None if there are none."""
    lost = [class_names[c] for c in np.flatnonzero((size_C > 0) & (kept_C == 0)).tolist()]
    if not lost:
        return None
    verb = "keeps" if len(lost) == 1 else "keep"
    return f"{len(lost)} of {len(class_names)} classes {verb} nothing: {listed_names(lost)}; see --per-class-min 1"


def quota_line(quota: str, keep: Keep, size_C: Counts) -> str | None:
    """Return one line if a quota gives less than `keep` of the samples to choose from; None if it does not."""
    if QUOTAS[quota].by_recall is not None:
        return None
    keep_C = QUOTAS[quota](size_C, keep.fraction)
    samples = int(size_C.sum())
    wanted = total_count(keep.fraction, samples)
    if keep_C is None or keep_C.sum() >= wanted:
        return None
    got, most = int(keep_C.sum()), int(keep_C.max())
    small = int((size_C < most).sum())
    fewer = f", and {small:,} of {len(size_C):,} classes have fewer samples" if small else ""
    return (
        f"quota {quota} keeps {got:,} of {samples:,} samples ({100 * got / samples:.2f} %), not "
        f"{100 * float(keep.fraction):g} %: no class keeps more than {most:,}{fewer}; --quota proportional keeps "
        f"{wanted:,}"
    )


def copies_lines(keep_N: Mask, dropped_N: Mask, first_N: NDArray[np.int64]) -> list[str]:
    """Return one line if kept samples have a dropped exact duplicate, and one if they are duplicates of one another.

    `first_N`: the first row with the content of each; `dropped_N`: samples that could have been kept.
    """
    kept_G = np.bincount(first_N[keep_N], minlength=len(first_N))
    dropped_G = np.bincount(first_N[dropped_N], minlength=len(first_N))
    split, twice = int(kept_G[dropped_G > 0].sum()), int(kept_G[kept_G > 1].sum())
    found = []
    if split:
        found.append(f"kept samples with a dropped exact duplicate: {split:,}; see --without-suspects")
    if twice:
        found.append(f"kept samples that are exact duplicates of one another: {twice:,}; see --without-suspects")
    return found
