"""Find a manifest's images on this machine: where the caller says, in its beton, or where local.json says."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests.base.files import sha256_file
from manifests.base.layout import BETON_NAME
from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.betons import beton_images
from manifests.sources.splits import NoSplitsError
from prune_toolkit.images.beton_check import check_of
from prune_toolkit.images.data_spec import DataSpec
from prune_toolkit.images.sample_images import BetonImages, SampleImages, SourceImages


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """The place to read images from: a beton, which takes precedence, or a source; none if both are None."""

    beton: Path | None
    spec: DataSpec | None

    @property
    def is_known(self) -> bool:
        """True if there is a place to read from."""
        return self.beton is not None or self.spec is not None


def place_of(manifest: Manifest, data: DataSpec | None = None) -> ImagePlace:
    """Return `data` alone if given; else a beton, the manifest's or local.json's, and the source in local.json."""
    if data is not None:
        return ImagePlace(beton=None, spec=read_alike(data, manifest))
    path = manifest.beton_path or manifest.local.get("beton")
    beton = Path(path) if path is not None and Path(path).is_file() else None
    spec = DataSpec.from_local(manifest.local)
    return ImagePlace(beton=beton, spec=None if spec is None else read_alike(spec, manifest))


def read_alike(spec: DataSpec, manifest: Manifest) -> DataSpec:
    """Return the spec of other images of a manifest: without labels, if its own have none."""
    return replace(spec, unlabelled=True) if manifest.header.data.is_unlabelled else spec


def not_known(manifest: Manifest, hint: str) -> InputError:
    """Return the error for a manifest whose images are not known; `hint` says how to name them."""
    return InputError(f"{manifest.where} does not know where its images are on this machine", hint=hint)


def find_images(manifest: Manifest, data: DataSpec | None = None, *, trust_beton: bool = False) -> SampleImages:
    """Return the images in `data`, else in the manifest's beton, else in its source; InputError if none is known.

    trust_beton: do not compare the beton's images with the manifest.
    """
    path = place_of(manifest, data).beton
    if path is not None:
        beton = Beton.open(path)
        return BetonImages(beton=beton, local=manifest.local, check=check_of(beton, manifest, trusted=trust_beton))
    images = source_images(manifest, data)
    if images is None:
        raise not_known(manifest, "name them with --data DIR, or write the selection without images with --no-beton")
    return images


def source_images(manifest: Manifest, data: DataSpec | None = None) -> SourceImages | None:
    """Return the images in `data`, else in the source that local.json names; None if it names none.

    They are found by key, and must be the scored ones.
    """
    spec = data or DataSpec.from_local(manifest.local)
    if spec is None:
        return None
    source = open_copy(spec, manifest)
    local = manifest.local if data is None else replace(data, split=data.split or source.split).local()
    return SourceImages(source=source, local=local)


def open_copy(spec: DataSpec, manifest: Manifest) -> Source:
    """Open the images that `spec` names; if it names no split and the data has splits, use the manifest's."""
    split, spec = manifest.header.data.split, read_alike(spec, manifest)
    if spec.split is not None or split is None or manifest.header.data.source == "beton":
        return spec.open()
    try:
        return replace(spec, split=split).open()
    except NoSplitsError:
        return spec.open()


def own_beton(manifest: Manifest, path: Path, samples: pa.Table) -> SourceImages:
    """Return the kept `samples` of a selection in its own beton, as a source; its images may be encoded differently.

    Raises InputError if the beton was altered, MismatchError if it holds other samples.
    """
    entry = manifest.header.file(BETON_NAME)
    if entry is None or sha256_file(path) != entry.sha256:
        raise InputError(f"{path} was altered: its sha256 is not the one the header names", hint="see: prune verify")
    beton = Beton.open(path)
    for column in ("sample_id", "view_id"):
        if not np.array_equal(beton.columns.get(column, ()), samples.column(column).to_numpy()):
            raise MismatchError(f"{path} does not hold the samples that {manifest.where} keeps: {column} differs")
    row_N = np.full(manifest.header.data.count, -1, np.int64)
    row_N[samples.column("sample_id").to_numpy()] = np.arange(beton.count)
    return SourceImages(
        source=beton_images(beton),
        local=manifest.local,
        row_N=row_N,
        hash_of=None,
    )
