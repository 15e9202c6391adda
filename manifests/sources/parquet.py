"""Parquet files with a column of encoded images and one of labels, as data hubs publish them."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, RawImage
from manifests.sources.base import Source
from manifests.sources.names import (
    KNOWN_SPLITS,
    LAYOUTS,
    check_class_names,
    choose_split,
    data_set_name,
    named_labels,
    names_beside,
    refuse_split,
    row_keys,
)
from manifests.sources.row_groups import RowGroups, Shard, damaged, open_shard

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


def find_shards(path: Path) -> dict[str, list[Path]]:
    """Return the Parquet files at `path`, `path`/data or `path`/SPLIT, by split; "" for files whose name has none."""
    found: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        for file in sorted(folder.glob("*.parquet"), key=lambda file: file.name):
            if not file.name.startswith(".") and file.is_file():
                found.setdefault(_split_of(file.name), []).append(file)
        if found:
            return found
    for folder in sorted(path.iterdir(), key=lambda folder: folder.name):
        if folder.name.lower() in KNOWN_SPLITS and folder.is_dir():
            files = sorted(folder.glob("*.parquet"), key=lambda file: file.name)
            if files:
                found[folder.name] = files
    return found


def open_parquet(path: Path, split: str | None, classes: Path | None, label: str | None) -> Source:
    """Open a .parquet file, or a folder of SPLIT-*.parquet or *.parquet.

    The image column is a binary one or a struct with `bytes` (image or img, else the first); the label column is
    `label`, else one named label or fine_label, else the only one of integers.
    """
    chosen, paths = _choose(path, split)
    shards = [open_shard(file) for file in paths]
    schema = shards[0].schema
    image_column = _image_column(schema, paths[0])
    label_column = _label_column(schema, label, paths[0])
    for shard in shards[1:]:
        for column in (image_column, label_column):
            if column not in shard.schema.names or shard.schema.field(column).type != schema.field(column).type:
                raise InputError(f"{shard.path}: column {column!r} is missing or not of the type in {paths[0].name}")
    stored_N = np.concatenate([_labels(shard, label_column) for shard in shards])
    keys = row_keys(chosen or "train", len(stored_N))
    known = None if classes is not None else _known_names(paths[0].parent, schema, label_column, asked=label)
    class_names, labels_N = named_labels(stored_N, keys, classes, known, path if len(paths) > 1 else paths[0])
    return Source(
        kind="parquet",
        name=data_set_name(path if path.is_dir() else path.parent),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(_read_rows, RowGroups(shards, image_column)),
    )


def _choose(path: Path, split: str | None) -> tuple[str | None, list[Path]]:
    if path.is_file():
        own = _split_of(path.name)
        if split is not None and own:
            choose_split((own,), split, path)
        elif not own:
            refuse_split(split, path)
        return own or None, [path]
    found = find_shards(path)
    named = sorted(name for name in found if name)
    if split is not None and split not in named:
        own_files = [file for files in found.values() for file in files if _belongs(file.name, split)]
        if own_files:
            return split, own_files
    if named:
        chosen = choose_split(named, split, path)
        return chosen, found[chosen]
    if not found:
        raise InputError(f"{path} holds no Parquet files", hint=LAYOUTS)
    refuse_split(split, path)
    return None, found[""]


def _split_of(file_name: str) -> str:
    return next((split for split in KNOWN_SPLITS if _belongs(file_name, split)), "")


def _belongs(file_name: str, split: str) -> bool:
    return file_name.lower().startswith(tuple(split.lower() + mark for mark in "-_."))


def _image_column(schema: "pa.Schema", where: Path) -> str:
    def holds_bytes(kind: "pa.DataType") -> bool:
        import pyarrow as pa

        if pa.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and holds_bytes(kind.field(index).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    columns = [column.name for column in schema if holds_bytes(column.type)]
    for name in (*_IMAGE_COLUMNS, *columns):
        if name in columns:
            return str(name)
    raise InputError(
        f"{where} has no column of encoded images: its columns are {', '.join(schema.names)}",
        hint="expected binary values, or a struct with bytes, in a column named image or img",
    )


def _label_column(schema: "pa.Schema", label: str | None, where: Path) -> str:
    import pyarrow as pa

    columns = [column.name for column in schema if pa.types.is_integer(column.type)]
    known = f"integer columns: {', '.join(columns) or 'none'}"
    if label is not None:
        if label not in columns:
            raise InputError(f"{where} has no integer column {label!r}", hint=known)
        return label
    preferred = [name for name in _LABEL_COLUMNS if name in columns] or columns
    if not preferred or (len(preferred) > 1 and preferred[0] not in _LABEL_COLUMNS):
        raise InputError(f"{where}: it is not clear which column holds the labels", hint=f"choose one; {known}")
    return str(preferred[0])


def _labels(shard: Shard, column: str) -> NDArray[np.int64]:
    with damaged(shard.path), shard.open() as file:
        values = file.read(columns=[column], use_threads=False).column(0)
        if len(values) != shard.metadata.num_rows:
            raise ValueError(f"{column} has {len(values)} rows, the footer says {shard.metadata.num_rows}")
        if values.null_count:
            row = values.is_null().to_numpy().argmax()
            raise InputError(f"{shard.path}: row {row} has no {column}")
        return np.asarray(values.to_numpy(), np.int64)


def _known_names(folder: Path, schema: "pa.Schema", column: str, *, asked: str | None) -> tuple[str, ...] | None:
    """Read names from a file beside the data (names.json is for the default label), or from the files' own metadata."""
    files = [f"{column}_names.json", f"{column.removesuffix('_label')}_names.json"]
    if asked is None or column in _LABEL_COLUMNS:
        files += ["names.json", "classes.txt"]
    beside = names_beside(folder, *files)
    if beside is not None:
        return beside
    try:
        content: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = content["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return check_class_names(names, f"{folder}: the metadata of {column}") if isinstance(names, list) else None


def _read_rows(groups: RowGroups, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    return [_image(value) for value in groups.values(rows)]


def _image(value: object) -> RawImage | ImageProblem:
    if isinstance(value, ImageProblem):
        return value
    data = value.get("bytes") if isinstance(value, dict) else value
    return Encoded(data) if isinstance(data, bytes) else ImageProblem("the row holds no image")
