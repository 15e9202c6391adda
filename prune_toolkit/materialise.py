"""Write the beton of some samples: from a beton by copying regions, from a source by reading it again.

What is copied must be what was scored: bytes read from a source are hashed and compared with the samples table.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.beton import Beton, BetonColumns, write_beton
from manifests.beton_writer import Target
from manifests.console import Progress
from manifests.errors import InputError, MismatchError
from manifests.identity import content_hash
from manifests.images import BetonImage, ImageProblem, RawImage, beton_form
from manifests.sources.base import Source
from prune_toolkit.reading import map_images


def write_train_beton(
    path: Path,
    samples: pa.Table,
    *,
    images: Source | Beton,
    workers: int,
    max_side: int | None = None,
    weight_n: NDArray[np.float32] | None = None,
    kd_weight_n: NDArray[np.float32] | None = None,
    targets: Iterable[Target] | None = None,
    target_shape: tuple[int, int] | None = None,
) -> int:
    """Write the readable rows of `samples` as a beton, in their order; returns how many.

    MismatchError when an image is missing from, or differs in, the source or beton at hand.
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
    )
    found = (
        _from_beton(images, samples) if isinstance(images, Beton) else _from_source(images, samples, workers, max_side)
    )
    with Progress(count, f"writing {path.name}") as progress:
        write_beton(path, _counted(found, progress), columns, targets=targets, target_shape=target_shape)
    return count


def _counted(images: Iterator[BetonImage], progress: Progress) -> Iterator[BetonImage]:
    for image in images:
        yield image
        progress.advance(1)


def _from_beton(beton: Beton, samples: pa.Table) -> Iterator[BetonImage]:
    """Stored regions as they are; rows are found by sample_id."""
    if "sample_id" not in beton.columns:
        raise InputError(f"{beton.path} has no sample_id field: it is not a beton of an index")
    ids_N = beton.columns["sample_id"]
    order_N = np.argsort(ids_N, kind="stable")
    wanted_n = samples.column("sample_id").to_numpy()
    position_n = np.minimum(np.searchsorted(ids_N[order_N], wanted_n), beton.count - 1)
    row_n = order_N[position_n]
    missing = np.flatnonzero(ids_N[row_n] != wanted_n)
    view_ids_differ = np.flatnonzero(beton.columns["view_id"][row_n] != samples.column("view_id").to_numpy())
    for wrong, what in ((missing, "is not in"), (view_ids_differ, "is another image in")):
        if len(wrong):
            key = samples.column("key")[int(wrong[0])].as_py()
            raise MismatchError(
                f"{key} {what} {beton.path} ({len(wrong):,} such samples)", hint="name the images with --data"
            )
    for row in row_n.tolist():
        yield beton.image(row)


def _from_source(source: Source, samples: pa.Table, workers: int, max_side: int | None) -> Iterator[BetonImage]:
    """Images read again and compared with the hashes of the samples table."""
    row_of_key = {key: row for row, key in enumerate(source.keys)}
    keys = samples.column("key").to_pylist()
    missing = [key for key in keys if key not in row_of_key]
    if missing:
        raise MismatchError(
            f"{len(missing):,} of {len(keys):,} samples are not in {source.name}; the first: {missing[0]}",
            hint="name the folder the manifest was made of with --data and --split",
        )
    rows = [row_of_key[key] for key in keys]
    hash_of_row = dict(zip(rows, samples.column("content_hash").to_pylist(), strict=True))

    def form(row: int, image: RawImage | ImageProblem) -> BetonImage | str:
        if isinstance(image, ImageProblem):
            return f"cannot be read any more ({image})"
        if content_hash(image) != hash_of_row[row]:
            return "was altered since it was indexed"
        try:
            return beton_form(image, max_side)
        except ImageProblem as problem:
            return f"cannot be decoded ({problem})"

    for key, result in zip(keys, map_images(source, rows, form, workers), strict=True):
        if isinstance(result, str):
            raise MismatchError(f"{key} {result}", hint="index and score the data again, or restore the image")
        yield result
