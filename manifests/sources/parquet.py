"""Parquet files with a column of encoded images and one of labels, as data hubs publish them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, RawImage
from manifests.sources.base import UNLABELLED, ReadOptions, Source
from manifests.sources.label_column import LABEL_COLUMNS, choose_label_column, hub_features, label_values
from manifests.sources.names import (
    check_class_names,
    data_set_name,
    file_of_names,
    named_by,
    named_labels,
    refuse_other_order,
    row_keys,
)
from manifests.sources.parquet_files import choose_parquet_files, image_column
from manifests.sources.read_as import NO_LABELS, ReadAs
from manifests.sources.row_groups import RowGroups, Shard, damaged, open_shard

if TYPE_CHECKING:
    import pyarrow as pa


def open_parquet(path: Path, options: ReadOptions) -> Source:
    """Open a .parquet file, or a folder of them as choose_parquet_files finds it.

    The image column is image or img, else the first of binary values; the label column is told by choose_label_column.
    """
    chosen = choose_parquet_files(path, options.split, options.configuration)
    shards = [open_shard(file) for file in chosen.files]
    first, schema = chosen.files[0], shards[0].schema
    images = image_column(schema)
    if images is None:
        raise InputError(
            f"{first} has no column of encoded images: its columns are {', '.join(schema.names)}",
            hint="expected binary values, or a struct with bytes, in a column named image or img",
        )
    column = None if options.unlabelled else choose_label_column(schema, options.label, first)
    for shard in shards[1:]:
        for name in (images,) if column is None else (images, column):
            if name not in shard.schema.names or shard.schema.field(name).type != schema.field(name).type:
                raise InputError(f"{shard.path}: column {name!r} is missing or not of the type in {first.name}")
    where = path if len(shards) > 1 else first
    keys = row_keys(chosen.split or "train", sum(shard.metadata.num_rows for shard in shards))
    class_names, labels_N, labels = UNLABELLED, np.zeros(len(keys), np.int32), NO_LABELS
    if column is not None:
        values = label_values(_column(shards, column), column, where, options.classes)
        known, file, is_declared = values.class_names, options.classes, False
        if known is None and file is None:
            known = declared_names(schema, column, where)
            file = file_of_names(None, first.parent, *_names_files(column, asked=options.label))
            if file is not None:
                refuse_other_order(file, known, where)
            is_declared = file is None and known is not None
        class_names, labels_N = named_labels(values.labels_N, keys, file, known, where)
        named = ", named by the files themselves" if is_declared else named_by(file)
        labels = f"column {column} of {values.kind}{named}"
    return Source(
        kind="parquet",
        name=data_set_name(path if path.is_dir() else path.parent),
        split=chosen.split,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(_read_rows, RowGroups(shards, images)),
        read_as=ReadAs(
            labels=labels,
            split_found=chosen.found,
            other_splits=chosen.other_splits,
            left_out=chosen.left_out,
            warnings=chosen.warnings,
        ),
    )


def _column(shards: list[Shard], column: str) -> "pa.ChunkedArray":
    """Read a column of all shards."""
    import pyarrow as pa

    chunks = []
    for shard in shards:
        with damaged(shard.path), shard.open() as file:
            values = file.read(columns=[column], use_threads=False).column(0)
            if len(values) != shard.metadata.num_rows:
                raise ValueError(f"{column} has {len(values)} rows, the footer says {shard.metadata.num_rows}")
            if values.null_count:
                raise InputError(f"{shard.path}: row {values.is_null().to_numpy().argmax()} has no {column}")
            chunks += values.chunks
    return pa.chunked_array(chunks, shards[0].schema.field(column).type)


def _names_files(column: str, *, asked: str | None) -> list[str]:
    """Return what a file of the names of a column's classes may be called; names.json is for the default label."""
    files = [f"{column}_names.json", f"{column.removesuffix('_label')}_names.json"]
    return [*files, "names.json", "classes.txt"] if asked is None or column in LABEL_COLUMNS else files


def declared_names(schema: "pa.Schema", column: str, where: object) -> tuple[str, ...] | None:
    """Return the class names that the hub's metadata declares for a column; None if it does not."""
    feature = hub_features(schema).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return check_class_names(names, f"{where}: the metadata of {column}") if isinstance(names, list) else None


def _read_rows(groups: RowGroups, rows: Sequence[int]) -> list[RawImage | ImageProblem]:
    return [image_of(value) for value in groups.values(rows)]


def image_of(value: object) -> RawImage | ImageProblem:
    """Return the image in a value: bytes, or a struct with bytes."""
    if isinstance(value, ImageProblem):
        return value
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return Encoded(data)
    is_path = isinstance(value, dict) and value.get("path")
    return ImageProblem("the row holds a path, not the bytes of an image" if is_path else "the row holds no image")
