"""Which sample each row of a file without keys stands for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.export.export import image_folder_rows

_OF_FILES = ("folder", "tar", "zip")
"""Sources of image files in class folders, which others list as torchvision's ImageFolder does."""


def sample_of_row(parent: Manifest, samples: pa.Table, order: str | None) -> NDArray[np.int64]:
    """Return the sample_id (N,) of each of N rows, which count in `order`: keys or imagefolder.

    Rows of CIFAR, idx, Parquet and arrays are in the order of keys. Raises UsageError if `order` is None where the
    order of keys is not certain to be that of the data set.
    """
    data, count = parent.header.data, len(samples)
    in_shards = data.source == "webdataset"
    if order == "keys" or not (in_shards or data.source in _OF_FILES):
        return np.arange(count)
    in_list = data.read_as is not None and data.read_as.labels.startswith("the list ")
    if order is None and (in_list or in_shards):
        other = f"{data.read_as.labels} may have" if in_list and data.read_as else "its shards may have"
        raise UsageError(
            f"rows of {parent.where} are ordered by keys; {other} another order",
            hint="if the file counts in the order of sorted keys: --order keys; else give it with the keys of its rows",
        )
    walked_N = image_folder_rows(samples.column("key").to_pylist(), data.split)
    if order is None and not np.array_equal(walked_N, np.arange(count)):
        raise UsageError(
            f"rows of {parent.where} are ordered by keys; torchvision's ImageFolder lists these files in another order",
            hint="say in which order the file counts: --order imagefolder or --order keys",
        )
    return walked_N


def rows_of_length(
    length: int, file: Path, parent: Manifest, samples: pa.Table, readable_N: NDArray[np.bool_], order: str | None
) -> NDArray[np.int64]:
    """Return the sample_id (length,) of each row of a file with one row per sample, or per readable sample.

    Raises MismatchError for any other number of rows.
    """
    count, readable = len(samples), int(readable_N.sum())
    if length not in (count, readable):
        raise MismatchError(
            f"{file} has rows of {length:,} samples, {parent.where} has {count:,}, of which {readable:,} are readable",
            hint="without keys, a file has one row per sample, in the order of their keys; with keys in any order",
        )
    sample_N = sample_of_row(parent, samples, order)
    return sample_N if length == count else sample_N[readable_N[sample_N]]
