"""Write a beton of some samples, wherever their images are."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.betons.writer import Target
from manifests.format.header import Views
from manifests.images.decode import BetonImage
from prune_toolkit.images.sample_images import SampleImages

ROW_BYTES = 120
"""Bytes a beton stores per sample besides its image and target."""


def write_train_beton(
    path: Path,
    samples: pa.Table,
    *,
    images: SampleImages,
    workers: int,
    max_side: int | None = None,
    views: Views | None = None,
    weight_n: NDArray[np.float32] | None = None,
    kd_weight_n: NDArray[np.float32] | None = None,
    targets: Iterable[Target] | None = None,
    target_shape: tuple[int, int] | None = None,
    labelled_views_N: NDArray[np.uint64] | None = None,
) -> int:
    """Write the readable rows of `samples` as a beton, in order; return their number.

    `views` are the scored ones: crops of images of other sizes are drawn as if they had the scored sizes.
    labelled_views_N: which views of each sample_id have a target, if samples differ in it.
    Raises MismatchError if an image is missing from the source or beton, or differs there.
    """
    samples = samples.filter(samples.column("problem").is_null())
    count = len(samples)
    ones = np.ones(count, np.float64)
    columns = BetonColumns(
        label_N=samples.column("label").to_numpy().astype(np.int64),
        sample_id_N=samples.column("sample_id").to_numpy(),
        view_id_N=samples.column("view_id").to_numpy(),
        weight_N=ones if weight_n is None else weight_n.astype(np.float64),
        kd_weight_N=ones if kd_weight_n is None else kd_weight_n.astype(np.float64),
        scored_size_N2=images.scored_sizes(samples, max_side, views),
        labelled_views_N=None if labelled_views_N is None else labelled_views_N[samples.column("sample_id").to_numpy()],
    )
    found = images.stored(samples, workers, max_side)
    with Progress(count, f"writing {path.name}") as progress:
        write_beton(path, _counted(found, progress), columns, targets=targets, target_shape=target_shape)
    return count


def beton_bytes(samples: pa.Table, beton: Beton | None, target_shape: tuple[float, int]) -> int:
    """Estimate the bytes of a train.beton of `samples`: from the beton that is copied, or from their source.

    target_shape: (targets per sample on average, words).
    """
    if beton is None:
        images = int(samples.column("size_bytes").to_numpy().sum())
    else:
        row_of_id = np.searchsorted(beton.columns["sample_id"], samples.column("sample_id").to_numpy())
        images = int(beton.image_size_N[np.minimum(row_of_id, beton.count - 1)].sum())
    return images + int(len(samples) * (2 * np.prod(target_shape) + ROW_BYTES))


def _counted(images: Iterator[BetonImage], progress: Progress) -> Iterator[BetonImage]:
    for image in images:
        yield image
        progress.advance(1)
