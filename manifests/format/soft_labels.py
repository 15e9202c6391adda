"""All logits of some samples, with the interface of `TopK` (manifests/format/top_k.py) and `Codes` (codes.py)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating[Any]]
# 512 KiB of float64 stays in cache: every score of an 8,192 x 1,000 part in 0.10 s, as one block in 0.86 s.
BLOCK_VALUES = 1 << 16


@dataclass(frozen=True, eq=False)
class FullLogits:
    """n vectors of which all C logits are stored."""

    logits_nC: NDArray[np.float16]
    top_k: None = None
    """All are stored."""

    @property
    def class_count(self) -> int:
        """C."""
        return int(self.logits_nC.shape[1])

    def __len__(self) -> int:
        return len(self.logits_nC)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "FullLogits":
        return FullLogits(self.logits_nC[rows])

    def logits(self, temperature: float = 1.0) -> NDArray[np.float16]:
        """Return the stored array itself, at every temperature."""
        return self.logits_nC

    def logits_with(self, label_n: NDArray[np.integer[Any]]) -> NDArray[np.float16]:
        """Return the stored array itself."""
        return self.logits_nC

    @property
    def top1_n(self) -> NDArray[np.int64]:
        """(n,) class of the largest logit, the first of equals."""
        return np.asarray(self.logits_nC.argmax(axis=1))

    @property
    def std_n(self) -> NDArray[np.float64]:
        """(n,) see `row_std`."""
        return row_std(self.logits_nC)

    @property
    def finite_n(self) -> NDArray[np.bool_]:
        """(n,) True if all logits are finite."""
        return np.asarray(np.isfinite(self.logits_nC).all(axis=1))

    def scaled(self, scale_n: NDArray[np.floating[Any]]) -> "FullLogits":
        """Return scale * z for scale (n,), rounded to float16: inf if it does not fit."""
        return FullLogits(scaled_rows(self.logits_nC, scale_n, np.dtype(np.float16)))

    def columns(self, name: str) -> dict[str, NDArray[Any]]:
        """Return all C logits as the column `name` of a part."""
        return {name: np.asarray(self.logits_nC, np.float16)}

    def words(self) -> NDArray[np.float16]:
        """Return the logits (n, C) themselves, as a beton stores them."""
        return self.logits_nC


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Return slices of rows with about BLOCK_VALUES values each."""
    step = max(1, BLOCK_VALUES // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def row_std(logits_nC: Logits) -> NDArray[np.float64]:
    """Return the unbiased standard deviation (division by C - 1) per row, (n,) float64, exactly 0 if constant."""
    std_n = np.empty(len(logits_nC), np.float64)
    for block in row_blocks(*logits_nC.shape):
        std_n[block] = np.array(logits_nC[block], np.float64, order="C").std(axis=1, ddof=1)
    return std_n


def scaled_rows(logits_nC: Logits, scale_n: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return scale * z (n, C), computed in float64 and rounded to the dtype once; inf if it does not fit."""
    scaled_nC: NDArray[Any] = np.empty(logits_nC.shape, dtype)
    with np.errstate(over="ignore"):
        for block in row_blocks(*logits_nC.shape):
            scaled_nC[block] = logits_nC[block].astype(np.float64) * scale_n[block, None]
    return scaled_nC
