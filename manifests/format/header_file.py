"""manifest.json on disk: written last, and read with every bound checked."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from manifests.base.files import write_atomic
from manifests.base.layout import HEADER_NAME, MAX_PART_BYTES, MAX_VIEWS, PART_ROWS
from manifests.errors import InputError
from manifests.format.header import SCHEMA_MAJOR, SCHEMA_MINOR, FileEntry, Header, canonical_json
from manifests.stores.store import LocalStore, Store
from manifests.untrusted.rules import check_depth, check_json, is_file_of_a_manifest, path_problem, shortened

MAX_HEADER_BYTES = 48 << 20
"""The header of 1,000 views of 1,281,167 samples has 30 MB."""
MAX_IMAGE_PX = 65_535
MAX_WIDTH = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VERSION = re.compile(r"(?P<major>[0-9]{1,9})\.[0-9]{1,9}")
_AGAIN = "fetch or make the manifest again"


def write_header(folder: Path, header: Header) -> None:
    """Write manifest.json, the last step of making a manifest."""
    text = json.dumps(header.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / HEADER_NAME, (text + "\n").encode())


def read_header(where: Path | Store) -> Header:
    """Read and check manifest.json. Raises InputError if it is missing, malformed or of an unknown major version."""
    store = LocalStore(where) if isinstance(where, Path) else where
    return parse_header(header_bytes(store), store.name(HEADER_NAME))


def header_bytes(store: Store) -> bytes:
    """Return the bytes of manifest.json. Raises InputError if it is missing, unreadable or too large."""
    if store.is_local and not store.folder.is_dir():
        is_url = re.match(r"\w+:/", store.where) is not None
        hint = "this command needs a folder: prune pull URL DIR" if is_url else "make one: prune index or prune score"
        raise InputError(f"no manifest at {store.where}: no such folder", hint=hint)
    path = store.name(HEADER_NAME)
    try:
        data = store.read(HEADER_NAME, MAX_HEADER_BYTES)
    except FileNotFoundError:
        raise InputError(
            f"{store.where} holds no {HEADER_NAME}: not a manifest, or an unfinished one",
            hint="if a command was interrupted here, run it again: it resumes where it stopped"
            if store.is_local
            else "check the address; run the same command again to resume an interrupted push",
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MAX_HEADER_BYTES:
        raise InputError(f"{path} is larger than any header can be (over {MAX_HEADER_BYTES:,} bytes)")
    return data


def parse_header(data: bytes, path: str) -> Header:
    """Parse and check the bytes of a manifest.json; `path` is for messages. Raises InputError like `read_header`."""
    try:
        check_json(data)
        content = json.loads(data, parse_constant=_refuse_constant)
        check_depth(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}", hint=_AGAIN) from None
    _check_version(path, content)
    try:
        header = Header.model_validate(content)
        canonical_json(header).encode()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "header"
        raise InputError(f"{path}: {field}: {first['msg']}", hint=f"the header is malformed: {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        # Numbers that overflow to infinity and broken Unicode in fields of a later minor version have no id.
        raise InputError(f"{path} has no canonical form: {error}", hint=_AGAIN) from None
    try:
        check_header(header)
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint=f"the header is malformed: {_AGAIN}") from None
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_version(path: str, content: object) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if found is None:
        raise InputError(f"{path} has no schema_version such as {SCHEMA_MAJOR}.{SCHEMA_MINOR}: not a manifest")
    if int(found["major"]) != SCHEMA_MAJOR:
        raise InputError(
            f"{path} has schema version {version}; this tool reads {SCHEMA_MAJOR}.x",
            hint="upgrade prune-toolkit to read it",
        )


def check_header(header: Header) -> None:
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


def _check_file(entry: FileEntry) -> None:
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


def _bounds(header: Header) -> dict[str, tuple[int, int]]:
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
