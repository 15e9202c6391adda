"""Where the images of an exported selection are read: from where they were, elsewhere, or from its beton."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.files import sha256_file
from manifests.base.layout import BETON_NAME
from manifests.base.progress import note
from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.betons import BetonSource
from prune_toolkit.images.copies import open_copy
from prune_toolkit.images.data_spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where the images of n samples are read, and what their bytes must be."""

    source: Source
    rows: list[int]
    hashes: list[bytes] | None
    """Content hashes; None for the selection's own beton, whose sha256 was compared as a whole."""


def images_at_hand(manifest: Manifest, samples: pa.Table, data: DataSpec | None) -> Images:
    """The images in `data`, else where local.json says they are, else in the selection's own beton.

    MismatchError when some are not there, InputError when there is nothing to read or the beton was altered.
    """
    if data is not None:
        return _in_source(open_copy(data, manifest), samples)
    spec, beton = DataSpec.from_local(manifest.local), manifest.beton_path
    if spec is not None:
        try:
            return _in_source(open_copy(spec, manifest), samples)
        except InputError as error:
            if beton is None:
                raise
            note(f"{error.message}\n  taking the images from {beton}")
    if beton is None:
        there = manifest.pulled_from if manifest.store.is_local else manifest.where
        has_beton = there is not None and manifest.header.file(BETON_NAME) is not None
        bring = f", or bring its {BETON_NAME}, if it was sent: prune pull {there} DIR --with-images"
        raise InputError(
            f"{manifest.where} does not know where its images are on this machine",
            hint=f"name them with --data DIR{bring if has_beton else ''}",
        )
    return in_beton(manifest, beton, samples)


def _in_source(source: Source, samples: pa.Table) -> Images:
    row_of_key = {key: row for row, key in enumerate(source.keys)}
    keys = samples.column("key").to_pylist()
    missing = [key for key in keys if key not in row_of_key]
    if missing:
        raise MismatchError(
            f"{len(missing):,} of {len(keys):,} samples are not in {source.name}; the first: {missing[0]}",
            hint="name the folder the manifest was made of with --data and --split",
        )
    hashes = samples.column("content_hash").to_pylist()
    return Images(source=source, rows=[row_of_key[key] for key in keys], hashes=hashes)


def in_beton(manifest: Manifest, path: Path, samples: pa.Table) -> Images:
    """The images in a selection's own beton; InputError when it was altered, MismatchError when it holds others."""
    entry = manifest.header.file(BETON_NAME)
    if entry is None or sha256_file(path) != entry.sha256:
        raise InputError(f"{path} was altered: its sha256 is not the one the header names", hint="see: prune verify")
    beton = Beton.open(path)
    for column in ("sample_id", "view_id"):
        if not np.array_equal(beton.columns.get(column, ()), samples.column(column).to_numpy()):
            raise MismatchError(f"{path} does not hold the samples that {manifest.where} keeps: {column} differs")
    nothing: NDArray[np.int32] = np.zeros(0, np.int32)
    source = BetonSource(name=path.name, class_names=(), keys=[], labels_N=nothing, beton=beton)
    return Images(source=source, rows=list(range(beton.count)), hashes=None)
