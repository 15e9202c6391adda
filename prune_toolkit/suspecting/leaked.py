"""Samples whose content is among other images, such as the validation images."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.hidden.secret import check_secret, hide_hashes
from manifests.images.decode import Encoded, ImageProblem
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.facts import SourceFacts
from manifests.tables.rows import hash_matrix
from prune_toolkit.suspecting.copies import first_of_content


def rows_there(manifest: Manifest, others: Source, secret: bytes | None, workers: int) -> NDArray[np.int64]:
    """Return the first row (N,) of `others` with the content of each sample, -1 if there is none. Reads all of them.

    Content is compared as stored; a note says if one side has files and the other pixels, so that nothing can match.
    Raises UsageError or MismatchError if the manifest is hidden and `secret` is missing or wrong.
    """
    check_secret(manifest.header, secret, manifest.where)
    samples = manifest.samples(["content_hash", "size_bytes", "width", "height"])
    if (forms := _other_form(samples, others)) is not None:
        note(f"leaked: {manifest.where} was made of {forms[0]}, {others.name} of {forms[1]}: equal images do not match")
    hash_M16 = SourceFacts(others, workers).hashes(np.arange(len(others.keys)))
    is_read_M = hash_M16.any(axis=1)
    if secret is not None:
        hash_M16 = hide_hashes(secret, hash_M16)
    row_M = np.flatnonzero(is_read_M)
    ours_N16 = hash_matrix(samples.column("content_hash"))
    first_N = first_of_content(np.concatenate([hash_M16[row_M], ours_N16]))[len(row_M) :]
    return np.where(first_N < len(row_M), np.append(row_M, -1)[np.minimum(first_N, len(row_M))], -1)


def _other_form(samples: pa.Table, others: Source) -> tuple[str, str] | None:
    """Return the forms of both sides, files or pixels, if they differ; None if they agree or are not known."""
    [theirs] = others.read([0])
    size_N, width_N, height_N = (samples.column(name).to_numpy() for name in ("size_bytes", "width", "height"))
    area_n = (width_N.astype(np.int64) * height_N)[width_N > 0]
    if not len(area_n) or isinstance(theirs, ImageProblem):
        return None
    is_raw = any(bool((size_N[width_N > 0] == channels * area_n).all()) for channels in (1, 3))
    if is_raw != isinstance(theirs, Encoded):
        return None
    return ("pixels", "files") if is_raw else ("files", "pixels")
