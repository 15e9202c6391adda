"""Compare the images of a beton with the manifest they belong to: a mapped file has no checksum of its own.

Where a manifest has the content hash of an image as its beton stores it, that is compared: JPEGs of the indexed size,
which are copied byte for byte, and pixels of sources that store pixels. For all others, such as decoded PNGs, the
sha256 of the whole file is compared once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.cores import core_count
from manifests.base.files import sha256_file
from manifests.base.layout import BETON_NAME
from manifests.betons.reader import Beton
from manifests.errors import InputError, PruneError
from manifests.images.decode import MODE_JPEG, Encoded, Pixels
from manifests.images.identity import content_hash
from manifests.manifest import Manifest

IS_COPY = "is_copy"
"""In local.json: true if the images are not the scored ones, but a copy that was compared with them."""
CheckRows = Callable[[NDArray[np.int64], pa.Table], None]
"""(rows of a beton (n,), their n samples) -> None; InputError if one of them is damaged."""
_PIXEL_SOURCES = ("idx", "cifar", "npz", "npy", "svhn", "stl10", "digits")
_ROWS_A_TASK = 512


def check_of(beton: Beton, manifest: Manifest, *, trusted: bool = False) -> CheckRows:
    """Return the check of a beton's rows against a manifest; one that does nothing if the beton is trusted."""
    return _trust if trusted else _BetonCheck.of(beton, manifest)


def _trust(row_n: NDArray[np.int64], samples: pa.Table) -> None:
    pass


@dataclass
class _BetonCheck:
    beton: Beton
    of_pixels: bool
    """True if the content hashes are those of pixels, not of encoded files."""
    has_hashes: bool
    """False if the images may be encoded differently from the hashed ones."""
    sha256: str | None
    """Of the whole file, as a header names it; None if no header does, or once it was compared."""

    @classmethod
    def of(cls, beton: Beton, manifest: Manifest) -> "_BetonCheck":
        header = manifest.header
        is_other = bool(manifest.local.get(IS_COPY)) or header.hidden is not None or beton.scored_size_N2 is not None
        return cls(beton, header.data.source in _PIXEL_SOURCES, not is_other, _named_sha256(beton.path, manifest))

    def __call__(self, row_n: NDArray[np.int64], samples: pa.Table) -> None:
        self.beton.state.check()
        comparable_n = self._comparable(row_n, samples) if self.has_hashes else np.zeros(len(row_n), bool)
        if self.sha256 is not None and not comparable_n.all():
            if sha256_file(self.beton.path) != self.sha256:
                raise self._damaged("its sha256 is not the one that the header names")
            self.sha256 = None
        places = np.flatnonzero(comparable_n)
        tasks = [places[start : start + _ROWS_A_TASK] for start in range(0, len(places), _ROWS_A_TASK)]
        with ThreadPoolExecutor(core_count()) as pool:
            found = pool.map(lambda task: self._first_wrong(task, row_n, samples), tasks)
            wrong = next((place for place in found if place is not None), None)
        if wrong is not None:
            raise self._damaged(f"the image of {samples.column('key')[wrong].as_py()} is not the one that was indexed")

    def _comparable(self, row_n: NDArray[np.int64], samples: pa.Table) -> NDArray[np.bool_]:
        is_jpeg_n = self.beton.modes_N[row_n] == MODE_JPEG
        width_n, height_n = (samples.column(side).to_numpy() for side in ("width", "height"))
        is_whole_n = (self.beton.widths_N[row_n] == width_n) & (self.beton.heights_N[row_n] == height_n)
        is_copied_n = self.beton.image_size_N[row_n] == samples.column("size_bytes").to_numpy()
        comparable_n: NDArray[np.bool_] = ~is_jpeg_n & is_whole_n if self.of_pixels else is_jpeg_n & is_copied_n
        return comparable_n

    def _first_wrong(self, places: NDArray[np.int64], row_n: NDArray[np.int64], samples: pa.Table) -> int | None:
        hashes, size_n = samples.column("content_hash").take(pa.array(places)), samples.column("size_bytes").to_numpy()
        for place, expected in zip(places.tolist(), hashes.to_pylist(), strict=True):
            row = int(row_n[place])
            if self.of_pixels:
                pixels = self.beton.pixels(row)
                is_grey = size_n[place] == pixels.shape[0] * pixels.shape[1]
                # The hash of a grey image is that of one channel; the other two must be the same.
                if is_grey and (pixels != pixels[..., :1]).any():
                    return int(place)
                image: Encoded | Pixels = Pixels(pixels[..., 0] if is_grey else pixels)
            else:
                image = Encoded(self.beton.image_bytes(row).tobytes())
            if content_hash(image) != expected:
                return int(place)
        return None

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self.beton.path} is damaged: {why}",
            hint="write it again: prune index DATA --beton; or name the images with --data",
        )


def _named_sha256(path: Path, manifest: Manifest) -> str | None:
    """Return the sha256 of a beton that its own manifest names: this one, or one that it was made from."""
    named = manifest
    if manifest.beton_path != path:
        try:
            named = Manifest.open(path.parent)
        except (PruneError, OSError):
            return None
        if path.name != BETON_NAME or _samples_of(named) != _samples_of(manifest):
            return None
    entry = named.header.file(BETON_NAME)
    return None if entry is None else entry.sha256


def _samples_of(manifest: Manifest) -> list[tuple[str, str]]:
    return [(entry.path, entry.sha256) for entry in manifest.header.files if entry.table == "samples"]
