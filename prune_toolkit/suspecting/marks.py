"""What is wrong with each sample of a manifest, by its tables and, if given, by the validation images."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.tables.rows import hash_matrix
from prune_toolkit.suspecting.copies import first_of_content, in_two_classes
from prune_toolkit.suspecting.leaked import rows_there
from prune_toolkit.suspecting.mislabelled import Judgement, judge_labels

Mask = NDArray[np.bool_]
MISLABELLED, TWO_CLASSES, DUPLICATE, LEAKED = "mislabelled", "two classes", "duplicate", "leaked"


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is wrong with each of N samples; nothing with those that cannot be read."""

    labels: Judgement | None
    """None if the manifest has nothing to judge labels by."""
    first_N: NDArray[np.int64]
    """The first sample with the same content: its own row unless there are copies before it."""
    two_classes_N: Mask
    """Whether the content lies in several classes."""
    there_N: NDArray[np.int64] | None
    """Row of the validation images with the same content, -1 if there is none; None if they were not given."""

    @property
    def mislabelled_N(self) -> Mask:
        """Whether a label is likely wrong."""
        return np.zeros(len(self.first_N), np.bool_) if self.labels is None else self.labels.mislabelled_N

    @property
    def duplicate_N(self) -> Mask:
        """Copies of a sample of the same class, except the first, where no copy lies in another class."""
        return np.asarray((self.first_N != np.arange(len(self.first_N))) & ~self.two_classes_N)

    @property
    def leaked_N(self) -> Mask:
        """Whether the content is among the validation images."""
        return np.zeros(len(self.first_N), np.bool_) if self.there_N is None else self.there_N >= 0


def mark_samples(
    manifest: Manifest, samples: pa.Table, val: Source | None = None, *, secret: bytes | None = None, workers: int = 1
) -> Marks:
    """Mark the `samples` of a manifest of any kind.

    `val`: validation images, all of which are read. `secret` is needed for them if the manifest is hidden.
    """
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    label_N, count = samples.column("label").to_numpy(), len(samples)
    first_N = np.arange(count)
    row_n = np.flatnonzero(readable_N)
    first_N[row_n] = row_n[first_of_content(hash_matrix(samples.column("content_hash"))[row_n])]
    there_N = None
    if val is not None:
        there_N = np.where(readable_N, rows_there(manifest, val, secret, workers), -1)
    return Marks(
        labels=judge_labels(manifest, label_N),
        first_N=first_N,
        two_classes_N=in_two_classes(first_N, label_N),
        there_N=there_N,
    )
