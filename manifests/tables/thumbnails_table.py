"""The `thumbnails` table of a manifest."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.header import Thumbnails
from manifests.format.parts import AGAIN, numbers_of, numbers_table
from manifests.images.thumbnails import SIDE_PX, THUMBNAIL_BYTES
from manifests.manifest import Manifest

TABLE = "thumbnails"
_COLUMN = "pixels"


def thumbnails_block() -> Thumbnails:
    """Return the header's block on stored thumbnails."""
    return Thumbnails(side_px=SIDE_PX)


def thumbnails_table(sample_id_n: NDArray[np.int64], thumbnail_nP: NDArray[np.uint8]) -> pa.Table:
    """Return the `thumbnails` rows of n readable samples; thumbnails are (n, 192)."""
    return numbers_table(sample_id_n, {_COLUMN: np.asarray(thumbnail_nP, np.uint8)})


def carried_tables(manifest: Manifest) -> list[str]:
    """Return the table of thumbnails if it is here: manifests made from this one carry it too."""
    return [TABLE] if manifest.has(TABLE) and TABLE not in manifest.not_pulled else []


def stored_thumbnails(manifest: Manifest, sample_id_n: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return (n, 192) thumbnails of some samples. Raises InputError if some are missing or the table is malformed."""
    thumbnail_nP = np.zeros((len(sample_id_n), THUMBNAIL_BYTES), np.uint8)
    found_n = np.zeros(len(sample_id_n), np.bool_)
    order_n = np.argsort(sample_id_n, kind="stable")
    sorted_n = sample_id_n[order_n]
    for entry in manifest.files(TABLE):
        part = manifest.part(entry, ["sample_id", _COLUMN])
        kind = part.schema.field(_COLUMN).type
        if not pa.types.is_fixed_size_list(kind) or (kind.list_size, kind.value_type) != (THUMBNAIL_BYTES, pa.uint8()):
            raise InputError(f"{manifest.where}: a part of {TABLE} does not hold {THUMBNAIL_BYTES} bytes per sample")
        id_m, thumbnail_mP = part.column("sample_id").to_numpy(), numbers_of(part, _COLUMN, pa.uint8(), 2)
        at_n = np.searchsorted(id_m, sorted_n)
        here_n = at_n < len(id_m)
        here_n[here_n] = id_m[at_n[here_n]] == sorted_n[here_n]
        thumbnail_nP[order_n[here_n]] = thumbnail_mP[at_n[here_n]]
        found_n[order_n[here_n]] = True
    if not found_n.all():
        raise InputError(
            f"{manifest.where}: sample {int(sample_id_n[np.argmin(found_n)])} has no thumbnail", hint=AGAIN
        )
    return thumbnail_nP
