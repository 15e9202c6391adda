"""Check that a part holds what its place in the manifest promises: columns, types, rows, keys, labels, ids."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from manifests.errors import InputError
from manifests.format.last_layer import LAST_LAYER
from manifests.format.parts import PART_ROWS, SAMPLES_SCHEMA, SELECTION_SCHEMA, layer_of, soft_labels_of
from manifests.format.stored_form import StoredForm
from manifests.untrusted.rules import check_ids, check_keys, check_labels, check_order

if TYPE_CHECKING:
    from manifests.format.header import FileEntry, Header

_SCHEMAS = {"samples": SAMPLES_SCHEMA, "selection": SELECTION_SCHEMA}
"""Tables with a row for every sample."""
_AGAIN = "the manifest is damaged or was never complete: fetch or make it again"


def check_part(part: pa.Table, entry: "FileEntry", header: "Header", where: str, *, whole: bool = True) -> None:
    """Raise InputError unless a part can be used without further checks; it may lack columns if it is not `whole`."""
    if part.num_columns and part.num_rows != entry.rows:
        raise InputError(f"{where} has {part.num_rows:,} rows, the header says {entry.rows:,}", hint=_AGAIN)
    kind = entry.kind
    if entry.table == LAST_LAYER:
        if header.labels is None or (header.labels.feature_width or 0) < 1:
            raise InputError(f"{where} is a last layer, and the header has no targets that need it", hint=_AGAIN)
        layer_of([part], part.num_rows, header.labels.feature_width, where)
        return
    fields = {field.name: field for field in _SCHEMAS.get(kind, ())}
    fields["sample_id"] = SAMPLES_SCHEMA.field("sample_id")
    if kind == "scores":
        of_set = [spec.name for spec in header.scores if f"scores/{spec.set}" == entry.table]
        fields |= {name: pa.field(name, pa.float32(), nullable=False) for name in of_set}
    for field in fields.values():
        if whole or field.name in part.column_names:
            _check_column(part, field, where)
    if "sample_id" in part.column_names:
        ids = part.column("sample_id").to_numpy()
        check_ids(ids, header.data.count, where)
        if kind in _SCHEMAS and len(ids) and (ids[0] % PART_ROWS or ids[-1] != ids[0] + len(ids) - 1):
            raise InputError(f"{where} does not hold the consecutive samples of one part", hint=_AGAIN)
    if kind == "targets" and whole and header.labels is not None and header.labels.codec is not None:
        form = StoredForm.of(header.labels, len(header.data.class_names))
        try:
            _, labels = soft_labels_of(part, "target", form.class_count)
        except InputError as error:
            raise InputError(f"{where}: {error.message}", hint=_AGAIN) from None
        if not form.holds(labels):
            raise InputError(f"{where} does not hold {form.text}, as the header says", hint=_AGAIN)
    if kind == "samples" and "key" in part.column_names:
        check_keys(part.column("key"), where)
        check_order(part.column("key"), where)
    if kind == "samples" and "label" in part.column_names:
        check_labels(part.column("label").to_numpy(), len(header.data.class_names), where)


def check_whole(table: pa.Table, count: int, where: str) -> None:
    """Raise InputError unless a table has a row for each of `count` samples, in the order of sample_ids and keys."""
    if table.num_columns and table.num_rows != count:
        raise InputError(f"{where} has {table.num_rows:,} rows for {count:,} samples", hint=_AGAIN)
    if "sample_id" in table.column_names and not np.array_equal(table.column("sample_id").to_numpy(), np.arange(count)):
        raise InputError(f"{where}: its sample_ids do not run from 0 to {count - 1:,}", hint=_AGAIN)
    if "key" in table.column_names:
        check_order(table.column("key"), where)


def in_order(parts: Iterable[pa.Table], where: str) -> Iterator[pa.Table]:
    """Yield whole parts of `samples` as they are; raises InputError where one does not follow the one before.

    The same as `check_whole` of all of them, with one part in memory.
    """
    start, last = 0, list[str]()
    for part in parts:
        keys = part.column("key")
        if len(part) and part.column("sample_id")[0].as_py() != start:
            raise InputError(f"{where}: its sample_ids do not run from 0 without a gap", hint=_AGAIN)
        check_order(pa.chunked_array([last + keys.slice(0, 1).to_pylist()], pa.string()), where)
        start, last = start + len(part), keys.slice(max(0, len(keys) - 1)).to_pylist() or last
        yield part


def _check_column(part: pa.Table, field: pa.Field, where: str) -> None:
    """Raise InputError for a column that is missing, is of another type, or has nulls it must not have."""
    if field.name not in part.column_names:
        raise InputError(f"{where} has no column {field.name!r}", hint=_AGAIN)
    column = part.column(field.name)
    if column.type != field.type:
        raise InputError(f"{where}: {field.name} is of type {column.type}, not {field.type}", hint=_AGAIN)
    if column.null_count and not field.nullable:
        raise InputError(f"{where}: {column.null_count:,} rows have no {field.name}", hint=_AGAIN)
    try:
        column.validate(full=True)
    except pa.ArrowException:
        raise InputError(f"{where}: a {field.name} is not valid UTF-8", hint=_AGAIN) from None
