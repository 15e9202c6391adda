"""The decoded images of chosen samples: from a source by their keys, from a beton by their sample_ids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError
from manifests.images.decode import ImageProblem, RawImage, decode_rgb
from manifests.images.identity import content_hash
from manifests.sources.base import Source
from manifests.sources.betons import open_beton

Images = list[NDArray[np.uint8]]


def pictures_of_source(source: Source, keys: Sequence[str], hashes: Sequence[bytes] | None) -> Images:
    """The images (H, W, 3) of some keys, compared with their content hashes where these are given.

    MismatchError for one that is not there or was altered, InputError for one that cannot be decoded.
    """
    row_of = {key: row for row, key in enumerate(source.keys)}
    missing = [key for key in keys if key not in row_of]
    if missing:
        raise MismatchError(
            f"{source.name} does not have {len(missing):,} of {len(keys):,} samples; the first: {missing[0]}",
            hint="name the images that were scored: data=FOLDER, and split=NAME where there are several",
        )
    images = source.read([row_of[key] for key in keys])
    for key, image, digest in zip(keys, images, hashes or (), strict=hashes is not None):
        if not isinstance(image, ImageProblem) and content_hash(image) != digest:
            raise MismatchError(f"{key} was altered since it was indexed", hint="show it all the same: data=FOLDER")
    return [_decoded(key, image) for key, image in zip(keys, images, strict=True)]


def pictures_of_beton(path: Path, sample_ids: Sequence[int]) -> Images:
    """The images (H, W, 3) of some samples; MismatchError for one that this beton does not have."""
    source = open_beton(path)
    row_of = {int(sample_id): row for row, sample_id in enumerate(_sample_ids(source.beton))}
    missing = [sample_id for sample_id in sample_ids if sample_id not in row_of]
    if missing:
        raise MismatchError(
            f"{path} does not have {len(missing):,} of {len(sample_ids):,} samples; the first: {missing[0]}",
            hint="name the images that were scored: data=FOLDER",
        )
    images = source.read([row_of[sample_id] for sample_id in sample_ids])
    return [_decoded(f"sample {sample_id}", image) for sample_id, image in zip(sample_ids, images, strict=True)]


def _sample_ids(beton: Beton) -> NDArray[np.int64]:
    none = np.zeros(0, np.int64)
    return beton.columns.get("sample_id", none)


def _decoded(name: str, image: RawImage | ImageProblem) -> NDArray[np.uint8]:
    try:
        if isinstance(image, ImageProblem):
            raise image
        return decode_rgb(image)
    except ImageProblem as problem:
        raise InputError(f"{name} {problem}") from None
