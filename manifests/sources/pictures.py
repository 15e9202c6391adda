"""The decoded images of chosen samples: from a source by their keys, from a beton by their sample_ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifests.betons.reader import Beton
from manifests.errors import InputError, MismatchError
from manifests.images.decode import ImageProblem, RawImage, decode_rgb
from manifests.images.identity import content_hash
from manifests.sources.base import ReadOptions, Source
from manifests.sources.betons import read_beton
from manifests.sources.open import open_split

Images = list[NDArray[np.uint8]]
T = TypeVar("T")


def pictures(
    local: Mapping[str, Any],
    beton: Path | None,
    keys: Sequence[str],
    hashes: Sequence[bytes],
    sample_ids: Sequence[int],
    where: str,
) -> Images:
    """The images (H, W, 3) of some samples, from the data that `local` names, else from a beton.

    MismatchError for one that is not there or was altered, InputError for one that cannot be decoded, and if `local`
    names no data and there is no beton.
    """
    beton = beton or _path(local.get("beton"))
    if "data" in local and not (beton and _is_gone(local["data"])):
        source = open_split(local["data"], ReadOptions.in_local(local))
        return _of_source(source, keys, None if local.get("is_copy") else hashes)
    if beton is None:
        raise InputError(
            f"{where} does not know where its images are on this machine",
            hint='name them: images(sample_ids, data="photos")',
        )
    return _of_beton(beton, sample_ids)


def _of_source(source: Source, keys: Sequence[str], hashes: Sequence[bytes] | None) -> Images:
    """Compare them with their content hashes where these are given."""
    rows = _rows(source.keys, keys, source.name, ", and split=NAME where there are several")
    images = source.read(rows)
    for key, image, digest in zip(keys, images, hashes or (), strict=hashes is not None):
        if not isinstance(image, ImageProblem) and content_hash(image) != digest:
            raise MismatchError(f"{key} was altered since it was indexed", hint="show it all the same: data=FOLDER")
    return [_decoded(key, image) for key, image in zip(keys, images, strict=True)]


def _of_beton(path: Path, sample_ids: Sequence[int]) -> Images:
    beton = Beton.open(path)
    held = beton.columns.get("sample_id", np.zeros(0, np.int64)).tolist()
    images = read_beton(beton, _rows(held, sample_ids, path, ""))
    return [_decoded(f"sample {sample_id}", image) for sample_id, image in zip(sample_ids, images, strict=True)]


def _rows(held: Sequence[T], wanted: Sequence[T], where: object, further: str) -> list[int]:
    row_of = {name: row for row, name in enumerate(held)}
    missing = [name for name in wanted if name not in row_of]
    if missing:
        raise MismatchError(
            f"{where} does not have {len(missing):,} of {len(wanted):,} samples; the first: {missing[0]}",
            hint=f"name the images that were scored: data=FOLDER{further}",
        )
    return [row_of[name] for name in wanted]


def _decoded(name: str, image: RawImage | ImageProblem) -> NDArray[np.uint8]:
    try:
        if isinstance(image, ImageProblem):
            raise image
        return decode_rgb(image)
    except ImageProblem as problem:
        raise InputError(f"{name} {problem}") from None


def _is_gone(data: str) -> bool:
    """Return whether a named folder or file no longer exists."""
    return ":" not in data and not Path(data).exists()


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
