"""Bounds on the values of a header: a received manifest is untrusted, and is checked before use."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from manifests.base.layout import MAX_PART_BYTES, MAX_VIEWS, PART_ROWS

if TYPE_CHECKING:
    from manifests.format.header import FileEntry, Header
from manifests.untrusted.rules import is_file_of_a_manifest, path_problem, shortened

MAX_IMAGE_PX = 65_535
MAX_WIDTH = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_header(header: "Header") -> None:
    """Raise ValueError naming the first field of a header that is out of bounds."""
    seen = set()
    for entry in header.files:
        _check_file(entry)
        # Some file systems do not distinguish upper and lower case.
        if entry.path.casefold() in seen:
            raise ValueError(f"files: {shortened(entry.path)} is named twice")
        seen.add(entry.path.casefold())
    for where, (low, high) in _bounds(header).items():
        number = _value(header, where)
        if number is not None and not low <= number <= high:
            raise ValueError(f"{where} is {number}, not from {low:,} to {high:,}")
    free = {"config", "run", "files"}
    for where, text in _texts(header.model_dump(exclude=free, exclude_none=True), ""):
        if _CONTROL.search(text):
            raise ValueError(f"{where}: {shortened(text)} holds a control character")


def _check_file(entry: "FileEntry") -> None:
    if problem := path_problem(entry.path):
        raise ValueError(f"files: the path {shortened(entry.path)}: {problem}")
    if {".", ""} & set(entry.path.split("/")):
        raise ValueError(f"files: the path {shortened(entry.path)}: a name in it is empty or a dot")
    if not is_file_of_a_manifest(entry.path):
        raise ValueError(f"files: {shortened(entry.path)} is neither a part of a table nor a beton")
    is_part = entry.path.endswith(".parquet")
    for name, number, most in (
        ("bytes", entry.bytes, MAX_PART_BYTES if is_part else 1 << 60),
        ("rows", entry.rows, PART_ROWS if is_part else 1 << 48),
    ):
        if not 0 <= number <= most:
            raise ValueError(f"files: {shortened(entry.path)} has {number} {name}, not from 0 to {most:,}")


def _bounds(header: "Header") -> dict[str, tuple[int, int]]:
    """Return the least and the largest value of the numbers that memory and loops depend on."""
    classes = max(1, len(header.data.class_names))
    parts = sum(entry.kind == "samples" for entry in header.files)
    return {
        "data.count": (0, parts * PART_ROWS if parts else 1 << 40),
        "data.readable": (0, header.data.count),
        "teacher.preprocessing.image_px": (1, MAX_IMAGE_PX),
        "teacher.preprocessing.resize_px": (1, MAX_IMAGE_PX),
        "views.count": (1, MAX_VIEWS),
        "views.image_px": (1, MAX_IMAGE_PX),
        "views.max_side": (1, MAX_IMAGE_PX),
        "views.top_k": (1, classes),
        "labels.views": (0, MAX_VIEWS),
        "labels.top_k": (1, classes),
        "features.width": (1, MAX_WIDTH),
        "selection.count": (0, header.data.count),
    }


def _value(block: Any, where: str) -> Any:
    """Return the number at a path of fields; None if it, or a block above it, is not set."""
    for name in where.split("."):
        block = getattr(block, name, None)
    return block


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield every text in nested values, including names of fields, and where it stands."""
    if isinstance(value, str):
        yield where or "header", value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield where or "header", str(name)
            yield from _texts(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)
