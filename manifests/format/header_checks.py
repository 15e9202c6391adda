"""Bounds on the values of a header: a received manifest is untrusted, and is checked before use."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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
    for where, low, number, high in _numbers(header):
        if not low <= number <= high:
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


def _numbers(header: "Header") -> Iterator[tuple[str, int, int, int]]:
    """Yield (field, least, value, most) of the numbers that memory and loops depend on."""
    data, classes = header.data, len(header.data.class_names)
    parts = sum(entry.path.startswith("samples/") for entry in header.files)
    yield "data.count", 0, data.count, parts * PART_ROWS if parts else 1 << 40
    yield "data.readable", 0, data.readable, data.count
    if header.teacher is not None:
        yield "teacher.preprocessing.image_px", 1, header.teacher.preprocessing.image_px, MAX_IMAGE_PX
        yield "teacher.preprocessing.resize_px", 1, header.teacher.preprocessing.resize_px, MAX_IMAGE_PX
    if header.views is not None:
        yield "views.count", 1, header.views.count, MAX_VIEWS
        yield "views.image_px", 1, header.views.image_px, MAX_IMAGE_PX
        yield "views.max_side", 1, 1 if header.views.max_side is None else header.views.max_side, MAX_IMAGE_PX
        yield "views.top_k", 1, 1 if header.views.top_k is None else header.views.top_k, max(1, classes)
    if header.labels is not None:
        yield "labels.views", 0, header.labels.views, MAX_VIEWS
        yield "labels.top_k", 1, 1 if header.labels.top_k is None else header.labels.top_k, max(1, classes)
    if header.features is not None:
        yield "features.width", 1, header.features.width, MAX_WIDTH
    if header.selection is not None:
        yield "selection.count", 0, header.selection.count, data.count


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
