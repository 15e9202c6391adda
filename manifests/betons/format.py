"""FFCV's file format, version 2, redeclared in numpy so that no reader or writer here imports torch.

    header | field descriptors | metadata, one row per sample | regions (images, targets) | allocation table

A test in a subprocess compares every dtype with FFCV's own.
"""

import json
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VERSION = 2
MIN_PAGE_BYTES = 1 << 21
MAX_PAGE_BYTES = 1 << 31
MAX_SIDE_PX = 65_535
FLOAT, INT, IMAGE, BYTES, NDARRAY, JSON, TENSOR = range(7)
NAME_BYTES, ARGUMENT_BYTES = 16, 1024

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", ("<u1", NAME_BYTES)), ("arguments", ("<u1", (ARGUMENT_BYTES,)))], align=True
)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE_METADATA = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
BYTES_METADATA = np.dtype([("ptr", "<u8"), ("size", "<u8")])
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
METADATA = {
    FLOAT: np.dtype("<f8"),
    INT: np.dtype("<i8"),
    IMAGE: IMAGE_METADATA,
    BYTES: BYTES_METADATA,
    NDARRAY: np.dtype("<u8"),
    JSON: BYTES_METADATA,
    TENSOR: np.dtype("<u8"),
}
"""Dtype of a field in a metadata row, by the type of the field."""
_PLAIN_DTYPE = re.compile(r"[<>|][biufc][0-9]{1,2}")


@dataclass(frozen=True)
class Field:
    """One field of a beton; shape and dtype for arrays only."""

    name: str
    type_id: int
    shape: tuple[int, ...] = ()
    dtype: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample's array region."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def metadata_dtype(fields: list[Field]) -> np.dtype[np.void]:
    """Return the dtype of a metadata row: unnamed (f0, f1, ...) and aligned, as FFCV builds it."""
    return np.dtype([("", METADATA[field.type_id]) for field in fields], align=True)


def encode_field(field: Field) -> NDArray[np.void]:
    """Return the descriptor of a field. Raises ValueError for a name that FFCV would cut silently."""
    name = field.name.encode("ascii")
    if not 0 < len(name) <= NAME_BYTES or b"\0" in name:
        raise ValueError(f"field name {field.name!r} must have 1 to {NAME_BYTES} ASCII characters")
    row = np.zeros((), FIELD)
    row["type_id"] = field.type_id
    row["name"][: len(name)] = np.frombuffer(name, "<u1")
    if field.type_id == NDARRAY:
        text = json.dumps(np.dtype(field.dtype).descr).encode("ascii")
        arguments = np.zeros(1, ARRAY_ARGUMENTS)
        arguments["shape"][0][: len(field.shape)] = field.shape
        arguments["type_length"] = len(text)
        packed = arguments.tobytes() + text
        row["arguments"][: len(packed)] = np.frombuffer(packed, "<u1")
    return row


def decode_field(row: np.void) -> Field:
    """Return the field a descriptor names. Raises ValueError for an unknown type or a broken description."""
    type_id = int(row["type_id"])
    name = row["name"].tobytes().partition(b"\0")[0].decode("ascii")
    if type_id not in METADATA:
        raise ValueError(f"field {name!r} has type {type_id}, which this reader does not know")
    if type_id not in (NDARRAY, TENSOR):
        return Field(name, type_id)
    packed = row["arguments"].tobytes()
    arguments = np.frombuffer(packed[: ARRAY_ARGUMENTS.itemsize], ARRAY_ARGUMENTS)[0]
    text = packed[ARRAY_ARGUMENTS.itemsize :][: int(arguments["type_length"])]
    try:
        ((_, description),) = json.loads(text)
        dtype = np.dtype(description) if _PLAIN_DTYPE.fullmatch(description) else None
    except (ValueError, TypeError, RecursionError):
        dtype = None
    if dtype is None:
        raise ValueError(f"field {name!r} has a broken array description")
    shape = [int(side) for side in arguments["shape"]]
    while shape and not shape[-1]:
        shape.pop()
    return Field(name, type_id, tuple(shape), dtype.str)
