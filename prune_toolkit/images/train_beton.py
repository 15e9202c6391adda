"""Write the beton of some samples: from a beton by copying regions, from a source by reading it again.

What is copied must be what was scored: bytes read from a source are hashed and compared with the samples table.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.betons.writer import Target
from manifests.errors import InputError, MismatchError
from manifests.format.header import Views
from manifests.images.decode import BetonImage, ImageProblem, RawImage, beton_form, shrunk_sizes
from manifests.images.identity import content_hash
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.reading import map_images
from manifests.tables.rows import places


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A source that is not the one a manifest was made of, and where it has the samples."""

    source: Source
    row_N: NDArray[np.int64]
    """Row of the source that holds each sample."""
    hash_of: Callable[[RawImage], bytes] | None = content_hash
    """What must be that of the samples table; None where the images may be encoded otherwise."""


IS_COPY = "is_copy"
"""In local.json: the images are not those that were scored, but a copy that was compared with them."""
ROW_BYTES = 120
"""What a beton holds of a sample beside its image and its target."""


def write_train_beton(
    path: Path,
    samples: pa.Table,
    *,
    images: Source | Beton | Copy,
    workers: int,
    max_side: int | None = None,
    views: Views | None = None,
    weight_n: NDArray[np.float32] | None = None,
    kd_weight_n: NDArray[np.float32] | None = None,
    targets: Iterable[Target] | None = None,
    target_shape: tuple[int, int] | None = None,
) -> int:
    """Write the readable rows of `samples` as a beton, in their order; returns how many.

    `views` are those that were scored: crops of images of other sizes are to be drawn as if they had theirs.
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
        scored_size_N2=_scored_sizes(images, samples, max_side, views),
    )
    if isinstance(images, Beton):
        found = _from_beton(images, samples)
    else:
        copy = images if isinstance(images, Copy) else _itself(images, samples)
        found = _from_source(copy, samples, workers, max_side)
    with Progress(count, f"writing {path.name}") as progress:
        write_beton(path, _counted(found, progress), columns, targets=targets, target_shape=target_shape)
    return count


def _scored_sizes(
    images: Source | Beton | Copy, samples: pa.Table, max_side: int | None, views: Views | None
) -> NDArray[np.int64] | None:
    """(n, 2) sizes of the images that were scored; None where those that are written have the same."""
    if isinstance(images, Beton):
        known_N2 = images.scored_size_N2
        return None if known_N2 is None else known_N2[beton_rows(images, samples)]
    if views is None:
        return None
    size_n2 = np.stack([samples.column(side).to_numpy().astype(np.int64) for side in ("width", "height")], axis=1)
    scored_n2 = size_n2 if views.max_side is None else shrunk_sizes(size_n2, views.max_side)
    if isinstance(images, Copy) and images.hash_of is None:
        return scored_n2
    written_n2 = size_n2 if max_side is None else shrunk_sizes(size_n2, max_side)
    return None if views.max_side is None or np.array_equal(written_n2, scored_n2) else scored_n2


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


def _itself(source: Source, samples: pa.Table) -> Copy:
    """The source a manifest was made of; MismatchError when a sample is not there any more."""
    keys = samples.column("key").combine_chunks()
    row_n = places(keys, pa.array(source.keys, pa.string()))
    missing_n = np.flatnonzero(row_n < 0)
    if len(missing_n):
        raise MismatchError(
            f"{len(missing_n):,} of {len(keys):,} samples are not in {source.name}; the first: {keys[missing_n[0]]}",
            hint="name the folder the manifest was made of with --data and --split",
        )
    row_N = np.full(int(samples.column("sample_id").to_numpy().max(initial=-1)) + 1, -1, np.int64)
    row_N[samples.column("sample_id").to_numpy()] = row_n
    return Copy(source=source, row_N=row_N)


def _from_source(copy: Copy, samples: pa.Table, workers: int, max_side: int | None) -> Iterator[BetonImage]:
    """Images read again and, where they must be the same, compared with the hashes of the samples table."""
    rows = copy.row_N[samples.column("sample_id").to_numpy()].tolist()
    hash_of_row = dict(zip(rows, samples.column("content_hash").to_pylist(), strict=True))

    def form(row: int, image: RawImage | ImageProblem) -> BetonImage | str:
        if isinstance(image, ImageProblem):
            return f"cannot be read any more ({image})"
        if copy.hash_of is not None and copy.hash_of(image) != hash_of_row[row]:
            return "was altered since it was indexed"
        try:
            return beton_form(image, max_side)
        except ImageProblem as problem:
            return f"cannot be decoded ({problem})"

    hint = "restore the image"
    if copy.hash_of is not None:
        hint += ", or leave out what differs: prune select --data DATA --check hashes, or prune cut"
    for row, result in zip(rows, map_images(copy.source, rows, form, workers), strict=True):
        if isinstance(result, str):
            raise MismatchError(f"{copy.source.keys[row]} {result}", hint=hint)
        yield result
