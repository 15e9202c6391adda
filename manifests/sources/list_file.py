"""Lists of files: CSV, TSV, JSON lines or text, with a header or without."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

from manifests.base.files import refuse_special
from manifests.errors import InputError
from manifests.sources.base import ReadOptions
from manifests.sources.image_files import EXTENSIONS

MAX_LIST_BYTES = 4 << 30
LIST_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".txt", ".lst"))
_COLUMNS = {
    "file": (
        "file_name",
        "filename",
        "file",
        "image",
        "img",
        "image_id",
        "imageid",
        "image_path",
        "filepath",
        "path",
        "id",
    ),
    "label": (
        "label",
        "labels",
        "class",
        "class_name",
        "category",
        "target",
        "species",
        "breed",
        "predictionstring",
        "y",
    ),
    "split": ("split", "set", "subset", "phase"),
}
"""The names of columns as data sets have them, without regard to case; the first that is there is taken."""

SPLIT_BY_NUMBER = ("images.txt", "train_test_split.txt")
"""The lists of CUB-200: number and file, number and 1 for training or 0 for test."""


class ListedFile(NamedTuple):
    """One line: a path or name, perhaps without its ending; its label and split as they are written."""

    file: str
    label: str | None
    """None: the line has none, so the folder of the file is its class."""
    split: str | None


def read_list(path: Path, options: ReadOptions | None = None) -> list[ListedFile]:
    """Read a list of files. Raises InputError if it is not one, or has no such columns."""
    read = options or ReadOptions()
    refuse_special(path)
    asked = {"file": read.file_column, "label": read.label, "split": read.split_column}
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"{path} is too large for a list of files")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = (row for row in _rows(path.suffix.lower(), stream) if row)
            first = next(rows, None)
            if first is None:
                raise InputError(f"{path} is empty")
            return _listed(path, first, rows, asked)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"cannot read a list of files from {path}: {error}") from None


def _rows(suffix: str, stream: TextIO) -> Iterator[list[str]]:
    """Yield the cells of each line; of JSON lines, first the names."""
    if suffix == ".csv":
        return csv.reader(stream)
    if suffix == ".tsv":
        return csv.reader(stream, delimiter="\t")
    lines = (line.rstrip("\r\n") for line in stream)
    return _objects(lines) if suffix == ".jsonl" else map(_cells, lines)


def _objects(lines: Iterable[str]) -> Iterator[list[str]]:
    names: list[str] = []
    for line in lines:
        content = json.loads(line) if line.strip() else None
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ValueError("a line is not a JSON object")
        if not names:
            names = list(content)
            yield names
        yield ["" if content.get(name) is None else str(content[name]) for name in names]


def _cells(line: str) -> list[str]:
    """Split a line of text at tabs or commas, else before a class number or after a number; else it is one name."""
    for mark in ("\t", ","):
        if mark in line:
            return [cell.strip() for cell in line.split(mark)]
    name, _, last = line.strip().rpartition(" ")
    if name and not _is_file(last):
        return [name.strip(), last]
    first, _, rest = line.strip().partition(" ")
    return [first, rest.strip()] if rest and first.isdecimal() else [line.strip()] if line.strip() else []


def _listed(
    path: Path, first: Sequence[str], rows: Iterable[Sequence[str]], asked: Mapping[str, str | None]
) -> list[ListedFile]:
    names = [name.strip().lower() for name in first]
    is_header = not any(_is_file(cell) for cell in first) and (
        any(name in known for name in names for known in _COLUMNS.values()) or any(asked.values())
    )
    if not is_header:
        if any(asked.values()):
            raise InputError(f"{path} has no header, so no columns can be chosen by name")
        return _without_header(path, [first, *rows])
    file = _column(path, first, "file", asked["file"])
    if file is None:
        raise InputError(f"{path} has no column of files", hint=f"--file-column NAME; columns: {', '.join(first)}")
    label, split = _column(path, first, "label", asked["label"]), _column(path, first, "split", asked["split"])
    # The label of ImageNet's lists is followed by boxes.
    whole: Callable[[str], str] = str if label is None or names[label] != "predictionstring" else _first_word
    return [
        ListedFile(
            _cell(path, row, file),
            None if label is None else whole(_cell(path, row, label)),
            None if split is None else _cell(path, row, split),
        )
        for row in rows
    ]


def _without_header(path: Path, rows: Iterable[Sequence[str]]) -> list[ListedFile]:
    listed, split_of = [], _splits_by_number(path)
    for row in rows:
        if len(row) > 1 and _is_file(row[1]) and row[0].isdecimal():
            listed.append(ListedFile(row[1], None, split_of.get(row[0])))
        else:
            listed.append(ListedFile(row[0], row[1] if len(row) > 1 else None, None))
    if all(line.file.isdecimal() and line.label is None for line in listed):
        raise InputError(f"{path} holds numbers without the names of files")
    return listed


def _splits_by_number(path: Path) -> dict[str, str]:
    beside = path.with_name(SPLIT_BY_NUMBER[1])
    if path.name != SPLIT_BY_NUMBER[0] or not beside.is_file():
        return {}
    words = (line.split() for line in beside.read_text("utf-8").splitlines())
    return {pair[0]: "train" if pair[1] == "1" else "test" for pair in words if len(pair) == 2}


def _column(path: Path, header: Sequence[str], what: str, asked: str | None) -> int | None:
    names = [name.strip() for name in header]
    if asked is not None:
        if asked not in names:
            raise InputError(f"{path} has no column {asked!r}", hint=f"columns: {', '.join(names)}")
        return names.index(asked)
    small = [name.lower() for name in names]
    return next((small.index(name) for name in _COLUMNS[what] if name in small), None)


def _cell(path: Path, row: Sequence[str], column: int) -> str:
    if column >= len(row):
        raise InputError(f"{path}: a line has {len(row)} columns: {','.join(row)[:80]}")
    return row[column].strip()


def _first_word(text: str) -> str:
    return next(chain(text.split(), [""]))


def _is_file(cell: str) -> bool:
    return "/" in cell or cell.rpartition(".")[2].lower() in EXTENSIONS
