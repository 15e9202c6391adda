"""Thumbnails of the scored images, to compare a copy with them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.betons.reader import Beton
from manifests.copies.check import EXACT, ThumbnailsOf
from manifests.errors import InputError
from manifests.images.thumbnails import THUMBNAIL_BYTES
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.betons import beton_images
from manifests.sources.facts import SourceFacts
from manifests.tables.rows import hash_matrix, places
from manifests.tables.thumbnails_table import carried_tables, stored_thumbnails
from prune_toolkit.images.beton_check import IS_COPY
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.sample_images import beton_rows


def thumbnails_at_hand(
    manifest: Manifest, workers: int, wanted_N: NDArray[np.bool_] | None = None
) -> ThumbnailsOf | None:
    """Return thumbnails of a manifest's readable samples, or the `wanted_N` ones; None if unavailable here.

    They are stored, else made from a beton with all these samples, else from the source; always from the scored
    images, so that a copy is not compared with itself.
    """
    if carried_tables(manifest):
        return partial(stored_thumbnails, manifest)
    samples = manifest.samples()
    asked_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    asked_n = np.flatnonzero(asked_N if wanted_N is None else asked_N & wanted_N)
    for path in _scored_betons(manifest):
        beton = Beton.open(path)
        if np.isin(asked_n, beton.columns.get("sample_id", ())).all():
            return partial(_of_beton, samples, beton, workers)
    spec = DataSpec.from_local(manifest.local)
    return None if spec is None or manifest.local.get(IS_COPY) else partial(_of_source, samples, spec, workers)


def _scored_betons(manifest: Manifest) -> Iterator[Path]:
    """Yield betons of the scored images: a manifest's own, and the one that local.json names."""
    copy = manifest.header.config.get("copy")
    if copy is None:
        # A selection that was cut from a copy and then labelled records the copy only here.
        is_scored = not manifest.local.get(IS_COPY)
    else:
        is_scored = isinstance(copy, dict) and copy.get("check") in EXACT
    if manifest.beton_path is not None and is_scored:
        yield manifest.beton_path
    if "beton" in manifest.local and Path(manifest.local["beton"]).is_file():
        yield Path(manifest.local["beton"])


def _of_beton(samples: pa.Table, beton: Beton, workers: int, sample_id_n: NDArray[np.int64]) -> NDArray[np.uint8]:
    asked = samples.take(pa.array(sample_id_n))
    return _thumbnails(beton_images(beton), beton_rows(beton, asked), asked, workers)


def _of_source(samples: pa.Table, spec: DataSpec, workers: int, sample_id_n: NDArray[np.int64]) -> NDArray[np.uint8]:
    asked, images = samples.take(pa.array(sample_id_n)), spec.open()
    row_n = places(asked.column("key"), pa.array(images.keys, pa.string()))
    return _thumbnails(images, row_n, asked, workers, check=True)


def _thumbnails(
    source: Source, row_n: NDArray[np.int64], samples: pa.Table, workers: int, *, check: bool = False
) -> NDArray[np.uint8]:
    """(n, 192) thumbnails of some samples; raises InputError naming the first altered or undecodable image."""
    facts, wrong_n = SourceFacts(source, workers), row_n < 0
    if check and not wrong_n.any():
        wrong_n = (facts.hashes(row_n) != hash_matrix(samples.column("content_hash"))).any(axis=1)
    found = [] if wrong_n.any() else list(facts.seen(row_n))
    if wrong_n.any() or None in found:
        row = int(np.argmax(wrong_n)) if wrong_n.any() else found.index(None)
        raise InputError(
            f"{samples.column('key')[row].as_py()} was altered since it was indexed: a copy cannot be compared with it",
            hint="restore the scored images, or compare less: --check hashes",
        )
    return np.frombuffer(b"".join(seen.thumbnail for seen in found if seen is not None), np.uint8).reshape(
        -1, THUMBNAIL_BYTES
    )
