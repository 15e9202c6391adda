"""What a command made, without times and paths: two runs of the same command make the same."""

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_TIME = re.compile(r"seconds|wall|time|.*_s|.*_per_second|pays_from|waiting_.*|.*time")
_ONLY_THERE = re.compile(r"(.*/)?(checkpoint\.pt|plots/.*|logs/.*|table\.md|\.[0-9a-f]+\.lock|\.lock)")
"""Files that hold times in a form of their own: they must be there, with whatever content."""


def tree(out: Path) -> dict[str, object]:
    """Return everything in the folder of an OUT by relative path: content for files, a text for links and folders."""
    place = out.parent
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(place):
        for name in [*folders, *files]:
            path = Path(folder, name)
            key = path.relative_to(place).as_posix()
            if path.is_symlink():
                found[key] = f"link to {path.readlink()}"
            elif path.is_dir():
                found[key] = "folder"
            else:
                found[key] = "there" if _ONLY_THERE.fullmatch(key) else _content(path, place)
    return found


def difference(found: dict[str, object], wanted: dict[str, object]) -> str:
    """Return the first difference of two trees in words, empty if there is none."""
    if more := sorted(found.keys() - wanted.keys()):
        return f"left over: {', '.join(more[:5])}"
    if missing := sorted(wanted.keys() - found.keys()):
        return f"missing: {', '.join(missing[:5])}"
    if other := sorted(key for key in wanted if found[key] != wanted[key]):
        return f"other content: {', '.join(other[:5])}"
    return ""


def _content(path: Path, place: Path) -> object:
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _timeless(json.loads(data.replace(os.fsencode(place), b"PLACE")))
        if path.suffix == ".jsonl":
            return [_timeless(json.loads(line)) for line in data.splitlines()]
        if path.suffix == ".csv":
            rows = csv.DictReader(io.StringIO(data.replace(os.fsencode(place), b"PLACE").decode()))
            return [_timeless(row) for row in rows]
        if path.suffix == ".parquet" and "part-" not in path.name:
            rows = pq.read_table(path).to_pylist()
            return json.loads(json.dumps(_timeless(rows)).replace(str(place), "PLACE"))
    except (ValueError, OSError):
        pass
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if not (key and _TIME.fullmatch(key))}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value
