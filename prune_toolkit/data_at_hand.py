"""A copy of a manifest's images: how it is opened, and what it is compared with."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.checking import ThumbnailsOf
from manifests.errors import InputError
from manifests.manifest import Manifest
from manifests.rows import hash_matrix, places
from manifests.sources.base import Source
from manifests.sources.betons import open_beton
from manifests.sources.facts import SourceFacts
from manifests.sources.names import NoSplitsError
from manifests.thumbnails import THUMBNAIL_BYTES, carried_tables, stored_thumbnails
from prune_toolkit.indexing import DataSpec
from prune_toolkit.materialise import beton_at_hand, beton_rows


def open_copy(spec: DataSpec, manifest: Manifest) -> Source:
    """The images that `spec` names; of data with splits, unless it names one, the split the manifest is of."""
    split = manifest.header.data.split
    if spec.split is not None or split is None or manifest.header.data.source == "beton":
        return spec.open()
    try:
        return replace(spec, split=split).open()
    except NoSplitsError:
        return spec.open()


def thumbnails_at_hand(manifest: Manifest, workers: int) -> ThumbnailsOf | None:
    """Thumbnails of a manifest's samples: stored ones, else made of its images; None where neither is here."""
    if carried_tables(manifest):
        return partial(stored_thumbnails, manifest)
    beton, spec = beton_at_hand(manifest), DataSpec.from_local(manifest.local)
    if beton is None and spec is None:
        return None

    def of_images(sample_id_n: NDArray[np.int64]) -> NDArray[np.uint8]:
        samples = manifest.samples().take(pa.array(sample_id_n))
        if beton is not None:
            source = open_beton(beton)
            return _thumbnails(source, beton_rows(source.beton, samples), samples, workers)
        assert spec is not None
        images = spec.open()
        row_n = places(samples.column("key"), pa.array(images.keys, pa.string()))
        return _thumbnails(images, row_n, samples, workers, check=True)

    return of_images


def _thumbnails(
    source: Source, row_n: NDArray[np.int64], samples: pa.Table, workers: int, *, check: bool = False
) -> NDArray[np.uint8]:
    """(n, 192) of some samples; InputError naming the first whose image is not what it was, or cannot be decoded."""
    facts, wrong_n = SourceFacts(source, workers), row_n < 0
    if check and not wrong_n.any():
        wrong_n = (facts.hashes(row_n) != hash_matrix(samples.column("content_hash"))).any(axis=1)
    found = [] if wrong_n.any() else list(facts.seen(row_n))
    if wrong_n.any() or None in found:
        row = int(np.argmax(wrong_n)) if wrong_n.any() else found.index(None)
        raise InputError(
            f"{samples.column('key')[row].as_py()} is not what it was when it was indexed: it is to be compared with",
            hint="restore the images that were scored, or compare less: --check hashes",
        )
    return np.frombuffer(b"".join(seen.thumbnail for seen in found if seen is not None), np.uint8).reshape(
        -1, THUMBNAIL_BYTES
    )
