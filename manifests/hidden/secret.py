"""Keys and hashes as HMACs: without the secret, no name or file can be looked up in a manifest.

All are HMAC-SHA256 with the secret: a key becomes the hexadecimal HMAC of its UTF-8 bytes, a content hash the first 16
bytes of the HMAC of its 16 bytes, an id the hexadecimal HMAC of its text. A view_id must be recoverable, because
the crops depend on it: it is XORed with the first 8 bytes (little-endian) of the HMAC of the hidden key.
"""

import hmac
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import Header, Hidden

METHOD: Final = "hmac-sha256"
LEAST_BYTES, MOST_BYTES = 16, 1 << 16
_CHECKED = b"prune-toolkit: hidden manifest"
_ID = re.compile(r"[0-9a-f]{64}")
Keys: TypeAlias = "pa.Array | pa.ChunkedArray | Iterable[str]"


def read_secret(path: Path) -> bytes:
    """Read the secret in a file, without the line end that editors add. Raises UsageError if it can be guessed."""
    try:
        with path.open("rb") as stream:
            secret = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the secret {path}: {error.strerror}") from None
    if len(secret) > MOST_BYTES:
        raise UsageError(f"{path} is too large for a secret", hint="make one: openssl rand -hex 32 > secret.txt")
    secret = secret.rstrip(b"\r\n")
    if len(secret) < LEAST_BYTES:
        raise UsageError(
            f"the secret in {path} has fewer than {LEAST_BYTES} bytes: keys could be guessed",
            hint="make one: openssl rand -hex 32 > secret.txt",
        )
    return secret


def hide_keys(secret: bytes, keys: Keys) -> pa.Array:
    """Return (N,) hidden keys, 64 hexadecimal digits each, as pyarrow strings."""
    return pa.array([digest.hex() for digest in _hmacs(secret, keys)], pa.string())


def hide_hashes(secret: bytes, hash_N16: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (N, 16) hidden content hashes of (N, 16)."""
    data = np.ascontiguousarray(hash_N16, np.uint8).tobytes()
    hidden = b"".join(_hmac(secret, data[at : at + 16])[:16] for at in range(0, len(data), 16))
    return np.frombuffer(hidden, np.uint8).reshape(-1, 16)


def hide_view_ids(secret: bytes, hidden_keys: Keys, view_id_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return (N,) hidden view_ids of (N,), or the reverse: XOR is its own inverse."""
    pads = b"".join(digest[:8] for digest in _hmacs(secret, hidden_keys))
    return np.asarray(view_id_N, np.uint64) ^ np.frombuffer(pads, "<u8").astype(np.uint64)


reveal_view_ids = hide_view_ids


def hide_ids(secret: bytes, value: Any) -> Any:
    """Return a JSON-able value in which every id of a manifest, or other sha256, is hidden."""
    if isinstance(value, dict):
        return {name: hide_ids(secret, content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [hide_ids(secret, content) for content in value]
    return hide_text(secret, value) if isinstance(value, str) and _ID.fullmatch(value) else value


def hide_text(secret: bytes, text: str) -> str:
    """Return the hexadecimal HMAC of a text, such as an id."""
    return _hmac(secret, text.encode()).hex()


def hidden_block(secret: bytes) -> Hidden:
    """Return the header's block on how the manifest was hidden."""
    return Hidden(method=METHOD, check=_hmac(secret, _CHECKED).hex())


def check_secret(header: Header, secret: bytes | None, where: str) -> None:
    """Raise MismatchError for a wrong secret, UsageError for one that is missing or not needed."""
    if header.hidden is None:
        if secret is not None:
            raise UsageError(f"{where} is not hidden", hint="leave out --secret")
        return
    if secret is None:
        raise UsageError(f"{where} is hidden: its keys are HMACs", hint="name the file with its secret: --secret FILE")
    if not hmac.compare_digest(header.hidden.check.encode(), hidden_block(secret).check.encode()):
        raise MismatchError(f"this is not the secret of {where}", hint="ask whoever pushed it for the right one")


def refuse_hidden(header: Header, where: str) -> None:
    """Raise UsageError for a hidden manifest in a command that finds images by key or view_id and takes no secret."""
    if header.hidden is not None:
        raise UsageError(
            f"{where} is hidden: its keys and view_ids are not those of the images",
            hint="prune verify, prune select, prune cut and train-student work with hidden manifests",
        )


def _hmacs(secret: bytes, keys: Keys) -> Iterator[bytes]:
    texts = keys.to_pylist() if isinstance(keys, pa.Array | pa.ChunkedArray) else keys
    return (_hmac(secret, key.encode()) for key in texts)


def _hmac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, "sha256")
