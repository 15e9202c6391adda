"""Wrong values in the fields of a JSON file: a header, local.json, run.json, the metadata of a student."""

import json
from copy import deepcopy
from random import Random
from typing import Any

from mutating import NASTY
from wrong_values import REFUSED, SHOWN

NESTED = "nested ten thousand deep"
VALUES: list[Any] = [
    *NASTY, float("nan"), float("inf"), -float("inf"), 10**400, "1e999", "NaN", NESTED, "<script>alert(1)</script>",
    "[x](javascript:alert(1)) | a | b\n\n# heading\n```", "| | |", "\u202eexe.gpj", "e\u0301\u200f\u00df\u0130",
    "a\nb\tc\r", "\x9b2J\x1b]0;t\x07", "x" * 1_000_000, "/dev/zero", "/dev/stdin", "../../../etc/passwd", "~root",
    "http://127.0.0.1:9/x", "file:///etc/passwd", "$(touch fired)", "; touch fired", "%s%n{0}{x!r}", [None],
    [float("nan")], {"\0": 1}, {"": ""}, ["x"] * 10_000, [0] * 100_000, dict.fromkeys(map(str, range(5000))),
]  # fmt: skip
FROM_TABLE = 0.35
"""How often a value is one of the tables of the tests, of a field that is in them."""
Field = tuple[Any, ...]


def fields(content: Any, place: Field = ()) -> list[Field]:
    """Return the place of every value in a JSON content, inner ones included."""
    if isinstance(content, dict):
        inner = [((*place, key), value) for key, value in content.items()]
    else:
        inner = [((*place, row), value) for row, value in enumerate(content)] if isinstance(content, list) else []
    return ([place] if place else []) + [each for where, value in inner for each in fields(value, where)]


def forged(content: dict[str, Any], rng: Random) -> tuple[str, bytes]:
    """Return what was done in words, and the bytes of the JSON content with one value made wrong."""
    content = deepcopy(content)
    table = [name for name in REFUSED | SHOWN if isinstance(_holder(content, name.split(".")[:-1]), dict)]
    if table and rng.random() < FROM_TABLE:
        name = rng.choice(table)
        where: Field = tuple(name.split("."))
        value = rng.choice(REFUSED.get(name, []) + SHOWN.get(name, []))
    else:
        where = rng.choice(fields(content))
        value = rng.choice(VALUES)
    holder = _holder(content, where[:-1])
    match rng.randrange(10):
        case 0:
            said = "removed"
            if isinstance(holder, list) or where[-1] in holder:
                del holder[where[-1]]
        case 1 if isinstance(holder, list):
            said = "repeated"
            holder.extend([holder[where[-1]]] * rng.choice([1, 1000]))
        case 2:
            other = rng.choice(fields(content))
            said = f"the value of {_text(other)}"
            holder[where[-1]] = deepcopy(_holder(content, other))
        case _:
            said = shortened(value)
            holder[where[-1]] = value
    return f"{_text(where)}: {said}", encoded(content)


def encoded(content: Any) -> bytes:
    """Return the content as JSON, in which NaN and lone surrogates may be."""
    text = json.dumps(content)
    return text.replace(json.dumps(NESTED), "[" * 10_000 + "]" * 10_000).encode()


def shortened(value: Any) -> str:
    """Return a value in a few words, on one line."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 1 << 100 else "a huge number"
    return text if len(text) <= 50 else f"{text[:40]}... ({len(text):,} characters)"


def _holder(content: Any, place: Any) -> Any:
    for key in place:
        if isinstance(content, dict):
            content = content.get(key)
        elif isinstance(content, list) and isinstance(key, int):
            content = content[key]
        else:
            return None
    return content


def _text(place: Field) -> str:
    return ".".join(map(str, place))
