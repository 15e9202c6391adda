"""Identity of samples: content hashes, view ids, the data set's fingerprint, and the one hash used for draws."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manifests.images.decode import Encoded, RawImage

HASH_BYTES = 16
NO_CLASS = "unlabelled"
"""In place of a class name, for images without labels: in an index of them, and in every fingerprint of theirs."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def content_hash(image: RawImage) -> bytes:
    """Return the first 16 bytes of the sha256 of the encoded bytes, or of "HxWxC" and the pixels as stored."""
    if isinstance(image, Encoded):
        return hashlib.sha256(image.data).digest()[:HASH_BYTES]
    array = np.ascontiguousarray(image.array)
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    return hashlib.sha256(f"{height}x{width}x{channels}".encode() + array.tobytes()).digest()[:HASH_BYTES]


def hash_words(hash_N16: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return both little-endian halves of (N, 16) content hashes, each (N,) uint64."""
    words_N2 = np.ascontiguousarray(hash_N16).view("<u8")
    return words_N2[:, 0], words_N2[:, 1]


def view_ids(hash_N16: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the numbers that fix the samples' crops: the first half of each content hash, (N,) uint64."""
    return hash_words(hash_N16)[0].copy()


def mix64(*words: ArrayLike) -> NDArray[np.uint64]:
    """Hash integers (broadcast against each other) into uint64 by chaining the splitmix64 finaliser.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 14.
    """
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ _as_uint64(word)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state, np.uint64)


def uniform(*words: ArrayLike) -> NDArray[np.float64]:
    """Hash integers into [0, 1): the upper 53 bits of `mix64`, float64."""
    return (mix64(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _as_uint64(word: ArrayLike) -> NDArray[np.uint64]:
    if isinstance(word, int):
        return np.asarray(word & _MASK, np.uint64)
    array = np.asarray(word)
    if array.dtype.kind not in "iub":
        raise TypeError(f"integers expected, not {array.dtype}")
    return array.view(np.uint64) if array.dtype == np.int64 else array.astype(np.uint64)


def fingerprint(keys: Iterable[str], class_names: Iterable[str], hashes: Iterable[bytes]) -> str:
    """Return the hexadecimal sha256 over the sorted 16-byte digests of (key, class name, content hash) of every row."""
    rows = bytearray()
    for key, name, digest in zip(keys, class_names, hashes, strict=True):
        rows += hashlib.sha256(b"\0".join((key.encode(), name.encode(), digest))).digest()[:HASH_BYTES]
    # Numpy ignores NULs at the end of texts, which all have one length here: their order is that of the bytes.
    np.frombuffer(rows, f"S{HASH_BYTES}").sort()
    return hashlib.sha256(rows).hexdigest()
