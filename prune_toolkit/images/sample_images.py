"""The images of a manifest's samples, wherever they are: in a beton, in the scored source, or in a copy."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.layout import PART_ROWS
from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError
from manifests.format.header import Views
from manifests.images.decode import BetonImage, ImageProblem, RawImage, beton_form, shrunk_sizes
from manifests.images.identity import content_hash
from manifests.sources.base import Source, map_images
from manifests.tables.rows import places
from prune_toolkit.images.beton_check import CheckRows

Sizes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BetonImages:
    """Images of a manifest's beton, copied unchanged: `max_side` has no effect."""

    beton: Beton
    local: dict[str, Any]
    """The entries for local.json that name the place of the images."""
    check: CheckRows
    source: None = None
    """There is none to compare with the manifest: a beton holds the scored images."""

    def scored_sizes(self, samples: pa.Table, max_side: int | None, views: Views | None) -> Sizes | None:
        """Return (n, 2) sizes of the images scored in these views; None if the beton holds images of the same sizes."""
        known_N2 = self.beton.scored_size_N2
        return None if known_N2 is None else known_N2[beton_rows(self.beton, samples)]

    def stored(self, samples: pa.Table, workers: int, max_side: int | None) -> Iterator[BetonImage]:
        """Return the stored images unchanged; raises like `beton_rows`, and InputError for damaged ones."""
        row_n = beton_rows(self.beton, samples)
        for start in range(0, len(row_n), PART_ROWS):
            part_n = row_n[start : start + PART_ROWS]
            self.check(part_n, samples.slice(start, PART_ROWS))
            yield from map(self.beton.image, part_n.tolist())
        # What was written into the file between the comparison and the copy is in the copy.
        self.beton.state.check()


@dataclass(frozen=True, kw_only=True)
class SourceImages:
    """Images of a source: the one a manifest was made from, or a copy that was compared with it."""

    source: Source
    """The source to compare with the manifest before use."""
    local: dict[str, Any]
    """The entries for local.json that name the place of the images."""
    row_N: NDArray[np.int64] | None = None
    """Row of the source that holds each sample; None to find them by key."""
    hash_of: Callable[[RawImage], bytes] | None = content_hash
    """The hash that must match the samples table; None if the images may be encoded differently."""

    def rows(self, samples: pa.Table) -> NDArray[np.int64]:
        """(n,) rows of the source that hold these samples; raises MismatchError like `rows_by_key`."""
        if self.row_N is None:
            return rows_by_key(self.source, samples.column("key"))
        row_n: NDArray[np.int64] = self.row_N[samples.column("sample_id").to_numpy()]
        return row_n

    def scored_sizes(self, samples: pa.Table, max_side: int | None, views: Views | None) -> Sizes | None:
        """Return (n, 2) sizes of the images scored in these views; None if `stored` gives the same sizes."""
        if views is None:
            return None
        size_n2 = np.stack([samples.column(side).to_numpy().astype(np.int64) for side in ("width", "height")], axis=1)
        scored_n2 = size_n2 if views.max_side is None else shrunk_sizes(size_n2, views.max_side)
        if self.hash_of is None:
            return scored_n2
        written_n2 = size_n2 if max_side is None else shrunk_sizes(size_n2, max_side)
        return None if views.max_side is None or np.array_equal(written_n2, scored_n2) else scored_n2

    def stored(self, samples: pa.Table, workers: int, max_side: int | None) -> Iterator[BetonImage]:
        """Read each image as a beton stores it, in order; `samples` are rows of a manifest's table of that name.

        Raises MismatchError if one is missing or, unless encodings may differ, was altered since it was indexed.
        """
        rows = self.rows(samples).tolist()
        hash_of_row = dict(zip(rows, samples.column("content_hash").to_pylist(), strict=True))

        def form(row: int, image: RawImage | ImageProblem) -> BetonImage | str:
            if isinstance(image, ImageProblem):
                return f"cannot be read any more ({image})"
            if self.hash_of is not None and self.hash_of(image) != hash_of_row[row]:
                return "was altered since it was indexed"
            try:
                return beton_form(image, max_side)
            except ImageProblem as problem:
                return f"cannot be decoded ({problem})"

        hint = "restore the image"
        if self.hash_of is not None:
            hint += ", or leave out altered ones: prune select --data DATA --check hashes, or prune cut"

        def read() -> Iterator[BetonImage]:
            with closing(map_images(self.source, rows, form, workers)) as results:
                for row, result in zip(rows, results, strict=True):
                    if isinstance(result, str):
                        raise MismatchError(f"{self.source.keys[row]} {result}", hint=hint)
                    yield result

        return read()


SampleImages = BetonImages | SourceImages
"""The images of a manifest's samples, wherever they are."""


def rows_by_key(source: Source, keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """(n,) rows of a source that hold the samples with these keys; raises MismatchError if one is missing."""
    row_n = places(keys, pa.array(source.keys, pa.string()))
    missing_n = np.flatnonzero(row_n < 0)
    if len(missing_n):
        raise MismatchError(
            f"{len(missing_n):,} of {len(keys):,} samples are not in {source.name}; the first: {keys[missing_n[0]]}",
            hint="name the folder the manifest was made from with --data and --split",
        )
    return row_n


def beton_rows(beton: Beton, samples: pa.Table) -> NDArray[np.int64]:
    """(n,) rows of a beton that hold these samples, found by sample_id.

    Raises MismatchError if one is missing or, by its view_id, another image; InputError if the fields are missing.
    """
    if not {"sample_id", "view_id"} <= beton.columns.keys():
        raise InputError(f"{beton.path} lacks the fields sample_id and view_id: it is not the beton of an index")
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
                f"{key} {what} {beton.path} ({len(wrong):,} such samples)",
                hint="name the images themselves with --data",
            )
    return row_n
