"""Rules for the content of a manifest: a received one is untrusted, and is checked before use.

Keys and file names stay below their folder. Numbers that memory depends on are checked first. Names hold no control
characters, which a terminal would take for commands.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from manifests.errors import InputError

MAX_KEY_BYTES, MAX_NAME_BYTES = 4096, 255
"""Limits of Linux for a path, and for one name in it."""
MAX_DEPTH = 64
MAX_VALUES = 1 << 21
"""Values in a header: one of 1,000 views of 1,281,167 samples has 800,000."""
_AGAIN = "do not trust it: ask where it came from"
_RULES = {
    r"^$": "it is empty",
    r"\x00": "it holds a NUL",
    r"[\x01-\x1f\x7f]|\xc2[\x80-\x9f]": "it holds a control character",
    r"^[/\\]": "it is an absolute path",
    r"^[A-Za-z]:": "it begins with a drive letter",
    r"(^|[/\\])\.\.([/\\]|$)": "it leads out of its folder",
    rf"[^/]{{{MAX_NAME_BYTES + 1}}}": f"a name in it is longer than {MAX_NAME_BYTES} bytes",
}
"""Regular expressions over the bytes of UTF-8 that no key and no path of a file may match."""
_BYTE_RULES = {re.compile(pattern.encode("latin-1")): reason for pattern, reason in _RULES.items()}
_FILE = re.compile(
    r"train\.beton|(((samples|selection|thumbnails)|(logits|features|scores|targets)/[^/]+)/part-[0-9]{5}\.parquet)"
)
"""Files a header may name: a pull writes them, so none may stand in for another file, such as local.json."""


def path_problem(path: str) -> str | None:
    """Return why a key or a path inside a manifest is refused; None if it is accepted."""
    try:
        data = path.encode()
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if len(data) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES:,} bytes"
    return next((reason for pattern, reason in _BYTE_RULES.items() if pattern.search(data)), None)


def check_keys(keys: Any, where: object, hint: str = _AGAIN) -> None:
    """Raise InputError naming the first key (a pyarrow column of strings) that is not a plain path below a folder."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        keys.validate(full=True)
    except pa.ArrowException:
        raise InputError(f"{where}: a key is not valid UTF-8", hint=hint) from None
    if keys.null_count:
        raise InputError(f"{where}: {keys.null_count:,} samples have no key", hint=hint)
    # As bytes, which RE2 reads as Latin-1: lengths are in bytes, and text need not be decoded.
    raw = keys.cast(pa.binary())
    bad = pc.greater(pc.binary_length(raw), MAX_KEY_BYTES)
    bad = pc.or_(bad, pc.match_substring_regex(raw, "|".join(f"(?:{pattern})" for pattern in _RULES)))
    row = pc.index(bad, True).as_py()
    if row >= 0:
        key = keys[row].as_py()
        raise InputError(f"{where}: sample {row} has the key {shortened(key)}: {path_problem(key)}", hint=hint)


def check_order(keys: Any, where: object) -> None:
    """Raise InputError unless keys (a pyarrow column of strings) ascend strictly by their bytes: joins rely on it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(keys) < 2:
        return
    raw = keys.cast(pa.binary())
    row = pc.index(pc.less(raw.slice(0, len(raw) - 1), raw.slice(1)), False).as_py()
    if row >= 0:
        raise InputError(
            f"{where}: its keys are not in order: {shortened(keys[row].as_py())} comes before "
            f"{shortened(keys[row + 1].as_py())}",
            hint=_AGAIN,
        )


def check_ids(sample_id_n: ArrayLike, count: int, where: object) -> None:
    """Raise InputError unless sample_ids ascend strictly below `count`: rows are looked up by them."""
    ids = np.asarray(sample_id_n)
    if len(ids) and (ids[0] < 0 or ids[-1] >= count or (np.diff(ids) <= 0).any()):
        raise InputError(f"{where}: its sample_ids do not ascend within {count:,} samples", hint=_AGAIN)


def check_labels(label_n: ArrayLike, class_count: int, where: object) -> None:
    """Raise InputError unless every label is one of the classes."""
    labels = np.asarray(label_n)
    wrong = np.flatnonzero((labels < 0) | (labels >= class_count))
    if len(wrong):
        raise InputError(
            f"{where}: row {wrong[0]} has label {labels[wrong[0]]}, but there are {class_count} classes", hint=_AGAIN
        )


def check_json(data: bytes) -> None:
    """Raise ValueError for JSON with more values than any header has, before parsing it."""
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MAX_VALUES:
        raise ValueError(f"it has about {values:,} values, more than any header")


def check_depth(content: object) -> None:
    """Raise ValueError for values that are nested deeper than in any header."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [value for item in level for value in _inside(item)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _inside(item: object) -> Iterator[object]:
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def is_file_of_a_manifest(path: str) -> bool:
    """Return whether a header may name such a file: a part of a table, or the beton."""
    return _FILE.fullmatch(path) is not None


def shortened(text: str) -> str:
    """Return text for a message: quoted, and cut if it is long."""
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
