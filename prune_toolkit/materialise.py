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
from manifests.manifest import Manifest
from manifests.sources.base import Source
from prune_toolkit.reading import map_images

ROW_BYTES = 120
"""What a beton holds of a sample beside its image and its target."""


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


def beton_at_hand(manifest: Manifest) -> Path | None:
    """A manifest's own beton, or the scored one that local.json remembers, if either is still there."""
    path = manifest.beton_path or manifest.local.get("beton")
    return Path(path) if path is not None and Path(path).is_file() else None


def beton_bytes(samples: pa.Table, beton: Beton | None, target_shape: tuple[int, int]) -> int:
    """About how large a train.beton of `samples` will be: from the beton that is copied, or from their source."""
    if beton is None:
        images = int(samples.column("size_bytes").to_numpy().sum())
    else:
        row_of_id = np.searchsorted(beton.columns["sample_id"], samples.column("sample_id").to_numpy())
        images = int(beton.image_size_N[np.minimum(row_of_id, beton.count - 1)].sum())
    return images + len(samples) * (2 * int(np.prod(target_shape)) + ROW_BYTES)


def _from_beton(beton: Beton, samples: pa.Table) -> Iterator[BetonImage]:
    """Stored regions as they are."""
    for row in beton_rows(beton, samples).tolist():
        yield beton.image(row)


def beton_rows(beton: Beton, samples: pa.Table) -> NDArray[np.int64]:
    """(n,) rows of a beton that hold these samples, found by sample_id.

    MismatchError when one is missing, or is another image by its view_id; InputError for a beton without these fields.
    """
    if not {"sample_id", "view_id"} <= beton.columns.keys():
        raise InputError(f"{beton.path} has no sample_id and view_id fields: it is not a beton of an index")
    ids_N = beton.columns["sample_id"]
    order_N = np.argsort(ids_N, kind="stable")
    wanted_n = samples.column("sample_id").to_numpy()
    position_n = np.minimum(np.searchsorted(ids_N[order_N], wanted_n), beton.count - 1)
    row_n: NDArray[np.int64] = order_N[position_n]
    missing = np.flatnonzero(ids_N[row_n] != wanted_n)
    view_ids_differ = np.flatnonzero(beton.columns["view_id"][row_n] != samples.column("view_id").to_numpy())
    for wrong, what in ((missing, "is not in"), (view_ids_differ, "is another image in")):
        if len(wrong):
            key = samples.column("key")[int(wrong[0])].as_py()
            raise MismatchError(
                f"{key} {what} {beton.path} ({len(wrong):,} such samples)", hint="name the images with --data"
            )
    return row_n


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
