"""`prune select --without-suspects`: the samples that are left out before anything is chosen."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.format.header import WithoutSuspects
from manifests.manifest import Manifest
from manifests.sources.base import Source
from prune_toolkit.suspecting.marks import DUPLICATE, LEAKED, MISLABELLED, TWO_CLASSES, Marks, mark_samples

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """The suspects of N samples that are left out, and why."""

    reason_N: NDArray[np.object_]
    """"" for the samples that stay."""
    block: WithoutSuspects

    @property
    def mask_N(self) -> Mask:
        """Whether a sample is left out."""
        return np.asarray(self.reason_N != "")

    def resolved(self) -> dict[str, Any]:
        """Return this for the configuration in the header, with a digest of the samples that are left out."""
        digest = hashlib.sha256(np.packbits(self.mask_N).tobytes()).hexdigest()[:16]
        return {**self.block.model_dump(exclude_none=True), "left_out": digest}


def suspects_left_out(
    parent: Manifest, samples: pa.Table, held_out_N: Mask, val: Source | None, *, secret: bytes | None, workers: int
) -> LeftOut:
    """Find the suspects among `samples` of a manifest, except those held out anyway; print a note on what is unknown.

    A sample has one reason: mislabelled, two classes, leaked, or duplicate. Of duplicates of one class that have none
    of the other reasons, the one that is held out stays, else the first.
    """
    marks = mark_samples(parent, samples, val, secret=secret, workers=workers)
    if marks.labels is None:
        note(f"--without-suspects: labels are not judged: {parent.where} stores no margin and no AUM")
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    reason_N = left_out_reasons(marks, readable_N, held_out_N)
    counts = {reason: int((reason_N == reason).sum()) for reason in (MISLABELLED, TWO_CLASSES, DUPLICATE, LEAKED)}
    block = WithoutSuspects(
        judged_by=None if marks.labels is None else marks.labels.by,
        mislabelled=counts[MISLABELLED],
        two_classes=counts[TWO_CLASSES],
        duplicates=counts[DUPLICATE],
        leaked=None if marks.there_N is None else counts[LEAKED],
    )
    return LeftOut(reason_N=reason_N, block=block)


def left_out_reasons(marks: Marks, readable_N: Mask, held_out_N: Mask) -> NDArray[np.object_]:
    """Return why each sample (N,) is left out, "" for those that stay and those held out anyway."""
    reason_N = np.full(len(readable_N), "", object)
    for reason, is_N in (
        (LEAKED, marks.leaked_N),
        (TWO_CLASSES, marks.two_classes_N),
        (MISLABELLED, marks.mislabelled_N),
    ):
        reason_N[is_N] = reason
    row_n = np.flatnonzero(readable_N & (reason_N == ""))
    # By content; within it, those held out come first.
    row_n = row_n[np.lexsort((row_n, ~held_out_N[row_n], marks.first_N[row_n]))]
    is_copy_n = np.append(False, marks.first_N[row_n[1:]] == marks.first_N[row_n[:-1]])[: len(row_n)]
    reason_N[row_n[is_copy_n]] = DUPLICATE
    reason_N[held_out_N] = ""
    return reason_N
