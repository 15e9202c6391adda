"""Arrow files as `save_to_disk` of the package datasets leaves them, mapped into memory."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.errors import InputError
from manifests.sources.base import UNLABELLED, ReadOptions, Source
from manifests.sources.label_column import choose_label_column, label_values
from manifests.sources.names import check_class_names, data_set_name, named_labels, row_keys
from manifests.sources.parquet import declared_names, image_of
from manifests.sources.parquet_files import image_column
from manifests.sources.read_as import NO_LABELS, ReadAs
from manifests.sources.row_groups import damaged
from manifests.sources.splits import NO_SPLITS, choose_split, refuse_split

if TYPE_CHECKING:
    import pyarrow as pa

    from manifests.images.decode import ImageProblem, RawImage

MAX_JSON_BYTES = 16 << 20
_AGAIN = "copy the folder again"


def find_arrow(folder: Path) -> dict[str, list[Path]]:
    """Return the Arrow files of a saved data set by split, by "" if it has none; empty if the folder is not one."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
        return {name: _files(folder / name) for name in names}
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        split = _json(folder / "state.json").get("_split")
        return {split if isinstance(split, str) else "": _files(folder)}
    files = sorted(folder.glob("*.arrow"))
    return {"": files} if files else {}


def open_arrow(path: Path, options: ReadOptions) -> Source:
    """Open a folder of save_to_disk, or an .arrow file; its columns are chosen as those of Parquet files."""
    by_split = find_arrow(path) if path.is_dir() else {"": [path]}
    chosen = _choose(by_split, options.split, path)
    files = by_split[chosen or ""]
    rows = ArrowRows(files)
    images = image_column(rows.schema)
    if images is None:
        raise InputError(f"{path} has no column of encoded images: its columns are {', '.join(rows.schema.names)}")
    keys = row_keys(chosen or "train", rows.table.num_rows)
    class_names, labels_N, labels = UNLABELLED, np.zeros(len(keys), np.int32), NO_LABELS
    if not options.unlabelled:
        column = choose_label_column(rows.schema, options.label, path)
        values = label_values(rows.table.column(column), column, path, options.classes)
        known, labels = values.class_names, f"column {column} of {values.kind}"
        if known is None and options.classes is None:
            known = declared_names(rows.schema, column, path) or _names_of_info(files[0].parent, column)
        class_names, labels_N = named_labels(values.labels_N, keys, options.classes, known, path)
    return Source(
        kind="arrow",
        name=data_set_name(path if path.is_dir() else path.parent),
        split=chosen,
        class_names=class_names,
        keys=keys,
        labels_N=labels_N,
        read=partial(_read, rows, images),
        read_as=ReadAs(
            labels=labels,
            split_found=None if chosen is None else "by the names in its JSON files",
            other_splits=tuple(name for name in by_split if name != chosen),
        ),
    )


class ArrowRows:
    """The rows of several Arrow files; for several threads at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import pyarrow as pa

        self._paths = tuple(paths)
        tables = [_map(path) for path in paths]
        try:
            self.table = pa.concat_tables(tables)
        except pa.ArrowInvalid as error:
            raise InputError(f"{paths[0].parent}: its Arrow files have other columns: {error}", hint=_AGAIN) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowRows, (self._paths,)

    @property
    def schema(self) -> "pa.Schema":
        """The columns."""
        return self.table.schema


def _read(rows: ArrowRows, column: str, wanted: Sequence[int]) -> "list[RawImage | ImageProblem]":
    values = rows.table.column(column)
    return [image_of(values[int(row)].as_py()) for row in wanted]


def _choose(by_split: dict[str, list[Path]], split: str | None, where: Path) -> str | None:
    if "" in by_split:
        refuse_split(split, where)
        return None
    if len(by_split) == 1 and split in (None, NO_SPLITS):
        return next(iter(by_split))
    return choose_split(by_split, split, where)


def _map(path: Path) -> "pa.Table":
    """Map a file into memory, a stream as datasets writes it or a file of Arrow."""
    import pyarrow as pa

    with damaged(path, "Arrow"):
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(mapped).read_all()


def _files(folder: Path) -> list[Path]:
    """Return the files that state.json names, in its order. Raises InputError if one is missing."""
    entries = _json(folder / "state.json").get("_data_files")
    named = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    files = [folder / name for name in named if isinstance(name, str) and "/" not in name]
    missing = next((file.name for file in files if not file.is_file()), None)
    if not files or missing is not None:
        raise InputError(f"{folder} lacks {missing or 'the Arrow files of its state.json'}", hint=_AGAIN)
    return files


def _names_of_info(folder: Path, column: str) -> tuple[str, ...] | None:
    """Return the class names in dataset_info.json; None if it has none."""
    path = folder / "dataset_info.json"
    features = _json(path).get("features") if path.is_file() else None
    feature = features.get(column) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    return check_class_names(names, path) if isinstance(names, list) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object", hint=_AGAIN)
    return content
