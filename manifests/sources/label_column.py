"""The column of a table that holds the labels, and its values as class numbers."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.sources.names import WITHOUT_LABELS, read_class_names

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_COLUMNS = ("label", "fine_label", "labels")
_NOT_LABELS = re.compile(r"__.*|(.*_)?(id|ids|idx|index|row|width|height|size|bytes|length)|unnamed.*", re.IGNORECASE)
_CHOOSE = f"choose another column with --label; {WITHOUT_LABELS}"


class LabelValues(NamedTuple):
    """The label of each row, and the names of the classes where the values are names."""

    labels_N: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    kind: str
    """What the values are: whole numbers, text, ..."""


def choose_label_column(schema: "pa.Schema", label: str | None, where: object) -> str:
    """Return the column `label`, else one named label, fine_label or labels, else the only one of classes or numbers.

    Row numbers, ids and sizes never are labels unless they are asked for. Raises InputError if it is not clear.
    """
    import pyarrow as pa

    whole = [column.name for column in schema if pa.types.is_integer(column.type)]
    text = [column.name for column in schema if _is_text(column.type)]
    known = f"columns of whole numbers: {', '.join(whole) or 'none'}; of text: {', '.join(text) or 'none'}"
    if label is not None:
        if label not in schema.names:
            raise InputError(f"{where} has no column {label!r}", hint=known)
        return label
    named = [name for name in LABEL_COLUMNS if name in schema.names]
    declared = [name for name, feature in hub_features(schema).items() if _is_class_label(feature)]
    likely = [name for name in whole if not is_no_label(name)]
    for certain in (named[:1], [name for name in declared if name in schema.names], likely):
        if len(certain) == 1:
            return str(certain[0])
    raise InputError(
        f"{where}: it is not clear which column holds the labels", hint=f"--label COLUMN; {known}; {WITHOUT_LABELS}"
    )


def is_no_label(column: str) -> bool:
    """Return whether a column is one of row numbers, ids or sizes by its name."""
    return _NOT_LABELS.fullmatch(column) is not None


def hub_features(schema: "pa.Schema") -> dict[str, Any]:
    """Return what the data hub says of each column, in the metadata of the file; empty if it says nothing."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def label_values(values: "pa.ChunkedArray", column: str, where: object, classes: Path | None) -> LabelValues:
    """Return the labels of a column of whole numbers, truth values or text.

    Text is numbered by its sorted values, or by the names in the file `classes`. InputError for any other kind.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count:
        raise InputError(f"{where}: row {values.is_null().to_numpy().argmax()} has no {column}")
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind):
        return LabelValues(_not_negative(np.asarray(values.to_numpy(), np.int64), column, where), None, "whole numbers")
    if pa.types.is_boolean(kind):
        return LabelValues(values.to_numpy().astype(np.int64), ("false", "true"), "truth values")
    if pa.types.is_floating(kind):
        numbers = values.to_numpy()
        decimals = numbers[numbers != np.rint(numbers)]
        if len(decimals):
            raise InputError(f"{where}: {column!r} holds decimals such as {decimals[0]:g}, not classes", hint=_CHOOSE)
        whole = _not_negative(numbers.astype(np.int64), column, where)
        return LabelValues(whole, None, "whole numbers stored as decimals")
    if _is_text(kind):
        names = sorted(pc.unique(values).to_pylist()) if classes is None else read_class_names(classes)
        known = pa.array(names, kind)
        labels = pc.index_in(values, known)
        if labels.null_count:
            row = labels.is_null().to_numpy().argmax()
            raise InputError(f"{where}: row {row} has the label {values[row].as_py()!r}, which the class names lack")
        return LabelValues(np.asarray(labels.to_numpy(), np.int64), tuple(known.to_pylist()), "text")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        raise InputError(
            f"{where}: {column!r} holds lists: several labels per image, or one-hot ones",
            hint=f"one class per image is needed; {_CHOOSE}",
        )
    raise InputError(f"{where}: {column!r} holds {kind}, not classes", hint=_CHOOSE)


def _not_negative(labels_N: NDArray[np.int64], column: str, where: object) -> NDArray[np.int64]:
    negative = labels_N[labels_N < 0]
    if len(negative):
        raise InputError(
            f"{where}: {column!r} is {negative[0]} in {len(negative):,} of {len(labels_N):,} rows, which have no class",
            hint=f"hubs mark test images without labels so; choose another split with --split; {WITHOUT_LABELS}",
        )
    return labels_N


def _is_class_label(feature: object) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
