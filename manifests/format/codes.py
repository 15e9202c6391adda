"""All C logits of a vector in 8 or 4 bits each: whole steps below the largest, which is stored exactly.

z = offset - scale * code, in float32, where offset is the largest logit and scale a step. The product of a float16 and
a code is exact in float32, so numpy, torch and every device round once, and decode to the same bits.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.decoded import DecodedLabels
from manifests.format.soft_labels import FullLogits, Logits, row_blocks, scaled_rows

CodeName = Literal["int8", "int4"]
LEVELS: dict[CodeName, int] = {"int8": 255, "int4": 15}
"""The largest code of each codec."""
CODE_COLUMNS: dict[str, tuple[str, Any]] = {
    "code": ("code_nB", np.uint8),
    "scale": ("scale_n", np.float16),
    "offset": ("offset_n", np.float16),
}
"""Columns of a part with codes, as fields of Codes: vectors, or numbers if it ends in _n."""
_SCALE_WORDS = 2


@dataclass(frozen=True, eq=False)
class Codes(DecodedLabels):
    """n vectors of C logits as codes; raises ValueError for arrays that do not match or are not finite."""

    class_count: int
    code_nB: NDArray[np.uint8]
    """One code per byte, or two for int4: class 2j in the lower half of byte j, class 2j + 1 in the upper."""
    scale_n: NDArray[np.float16]
    """The step between codes; 0 if all logits are equal."""
    offset_n: NDArray[np.float16]
    """The largest logit."""

    def __post_init__(self) -> None:
        count, width = self.code_nB.shape
        if width not in (self.class_count, _bytes(self.class_count, "int4")):
            raise ValueError(f"{width} bytes of codes for {self.class_count} classes")
        if self.scale_n.shape != (count,) or self.offset_n.shape != (count,):
            raise ValueError(f"a scale and an offset for each of {count} rows expected")
        if not (np.isfinite(self.scale_n) & (self.scale_n >= 0) & np.isfinite(self.offset_n)).all():
            raise ValueError("a scale is negative or not finite, or an offset is not finite")

    @property
    def codec(self) -> CodeName:
        """How a code is stored."""
        return "int8" if self.code_nB.shape[1] == self.class_count else "int4"

    def __len__(self) -> int:
        return len(self.code_nB)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "Codes":
        return Codes(self.class_count, self.code_nB[rows], self.scale_n[rows], self.offset_n[rows])

    def logits(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return all C logits (n, C), at every temperature."""
        code_nC = self.code_nB if self.codec == "int8" else _unpacked(self.code_nB, self.class_count)
        scaled_nC = code_nC.astype(np.float32)
        scaled_nC *= self.scale_n.astype(np.float32)[:, None]
        return np.subtract(self.offset_n.astype(np.float32)[:, None], scaled_nC, out=scaled_nC)

    def scaled(self, scale_n: NDArray[np.floating[Any]]) -> FullLogits:
        """Return scale * z for scale (n,), decoded and rounded to float16: inf if it does not fit."""
        return FullLogits(scaled_rows(self.logits(), scale_n, np.dtype(np.float16)))

    def columns(self, name: str) -> dict[str, NDArray[Any]]:
        """Return CODE_COLUMNS; the `name` of a column of logits is not used."""
        return {column: getattr(self, field) for column, (field, _) in CODE_COLUMNS.items()}

    def words(self) -> NDArray[np.int16]:
        """Return (n, words) int16 as a beton stores them, bit by bit: scale, offset, the bytes of the codes, and 0 if
        their number is odd."""
        count, width = self.code_nB.shape
        words_nW = np.zeros((count, code_words(self.class_count, self.codec)), np.int16)
        words_nW[:, 0], words_nW[:, 1] = self.scale_n.view(np.int16), self.offset_n.view(np.int16)
        words_nW.view(np.uint8)[:, 2 * _SCALE_WORDS : 2 * _SCALE_WORDS + width] = self.code_nB
        return words_nW

    @classmethod
    def of_words(cls, words_nW: NDArray[np.int16], class_count: int, codec: CodeName) -> "Codes":
        """Return what `words` gave; raises ValueError like the class, and for another number of words."""
        if words_nW.shape[1] != code_words(class_count, codec):
            raise ValueError(f"{code_words(class_count, codec)} words expected, not {words_nW.shape[1]}")
        words_nW = np.ascontiguousarray(words_nW)
        code_nB = words_nW[:, _SCALE_WORDS:].view(np.uint8)[:, : _bytes(class_count, codec)]
        halves_n2 = words_nW[:, :_SCALE_WORDS].view(np.float16)
        return cls(class_count, code_nB, halves_n2[:, 0], halves_n2[:, 1])


def encode(logits_nC: Logits, codec: CodeName) -> Codes:
    """Return n vectors of C logits as codes, rounded to the nearest step, ties to the even code.

    The step is the smallest float16 at which LEVELS of them reach from the largest logit to the smallest. So no logit
    moves by more than half a step. The largest is exact in float16, like rows of equal logits, and stays the largest;
    logits up to half a step below become equal to it. Raises InputError for logits that are not finite in float16.
    """
    count, classes = logits_nC.shape
    levels, code_nC = LEVELS[codec], np.empty(logits_nC.shape, np.uint8)
    scale_n, offset_n = np.empty(count, np.float16), np.empty(count, np.float16)
    for block in row_blocks(count, classes):
        with np.errstate(over="ignore"):
            z_mC = logits_nC[block].astype(np.float16).astype(np.float64)
        if not (finite_m := np.isfinite(z_mC).all(axis=1)).all():
            raise InputError(
                f"row {block.start + int(np.argmin(finite_m))}: a logit is not finite in float16",
                hint="stored logits range from -65504 to 65504",
            )
        offset_m, least_m = z_mC.max(axis=1), z_mC.min(axis=1)
        scale_m = ((offset_m - least_m) / levels).astype(np.float16)
        is_short_m = scale_m.astype(np.float64) * levels < offset_m - least_m
        scale_m[is_short_m] = np.nextafter(scale_m[is_short_m], np.float16(np.inf))
        step_m = np.where(scale_m > 0, scale_m.astype(np.float64), 1.0)
        code_nC[block] = np.rint((offset_m[:, None] - z_mC) / step_m[:, None])
        scale_n[block], offset_n[block] = scale_m, offset_m
    return Codes(classes, code_nC if codec == "int8" else _packed(code_nC), scale_n, offset_n)


def code_words(class_count: int, codec: CodeName) -> int:
    """Return the number of int16 words per vector."""
    return _SCALE_WORDS + -(-_bytes(class_count, codec) // 2)


def _bytes(class_count: int, codec: CodeName) -> int:
    return class_count if codec == "int8" else -(-class_count // 2)


def _packed(code_nC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    even_nC = np.pad(code_nC, ((0, 0), (0, code_nC.shape[1] % 2)))
    return even_nC[:, ::2] | (even_nC[:, 1::2] << np.uint8(4))


def _unpacked(code_nB: NDArray[np.uint8], class_count: int) -> NDArray[np.uint8]:
    halves_nB2 = np.stack([code_nB & np.uint8(15), code_nB >> np.uint8(4)], axis=2)
    return halves_nB2.reshape(len(code_nB), -1)[:, :class_count]
