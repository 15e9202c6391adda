"""manifest.json on disk: written last, and read with every bound checked."""

import json
import re
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from manifests.base.files import write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError
from manifests.format.header import SCHEMA_MAJOR, SCHEMA_MINOR, Header, canonical_json
from manifests.format.header_checks import check_header
from manifests.stores.store import LocalStore, Store
from manifests.untrusted.rules import check_depth, check_json

MAX_HEADER_BYTES = 48 << 20
"""The header of 1,000 views of 1,281,167 samples has 30 MB."""
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
        # It is not in the canonical form, but is written again by card and by commands that pass it on.
        json.dumps(header.run, ensure_ascii=False, allow_nan=False).encode()
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
