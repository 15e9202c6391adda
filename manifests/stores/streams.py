"""Reading streams in blocks, with bounds."""

import hashlib
import math
from typing import Protocol

from manifests.base.files import CHUNK_BYTES


class Readable(Protocol):
    """What is read in blocks."""

    def read(self, most_bytes: int, /) -> bytes:
        """Return up to `most_bytes`, none at the end."""


def read_up_to(stream: Readable, most_bytes: int) -> bytes:
    """Return the first bytes of a stream, all of them if it has fewer."""
    chunks, left_bytes = [], most_bytes
    while left_bytes and (chunk := stream.read(min(left_bytes, CHUNK_BYTES))):
        chunks.append(bytes(chunk))
        left_bytes -= len(chunk)
    return b"".join(chunks)


def sha256_of(stream: Readable, most_bytes: float = math.inf) -> str:
    """Return the hexadecimal sha256 of the rest of a stream, of at most `most_bytes` of it."""
    digest, left_bytes = hashlib.sha256(), most_bytes
    while left_bytes and (chunk := stream.read(int(min(left_bytes, CHUNK_BYTES)))):
        digest.update(chunk)
        left_bytes -= len(chunk)
    return digest.hexdigest()
