"""Every column of every table of a manifest: its type, what it means, and which end of a score is harder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.format.last_layer import LAST_LAYER

if TYPE_CHECKING:
    from manifests.format.header import Codec, Harder, Header


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: str
    """Type of one value: int64, uint64, int32, uint16, uint8, float32, float16, bool, string or binary."""
    meaning: str
    width: int | None = None
    """Values per row; None if the column does not hold vectors."""
    harder: "Harder | None" = None
    """End of a score that is harder."""


_ID = Column("sample_id", "int64", "row in the order of keys; joins the tables")
SAMPLES = (
    _ID,
    Column("key", "string", "path of the image below the data folder, or split and row"),
    Column("label", "int32", "index into the class names of the header"),
    Column("size_bytes", "int64", "bytes of the encoded file, or of the pixels as stored"),
    Column("content_hash", "binary", "first 16 bytes of the sha256 of the encoded file, or of size and pixels"),
    Column("view_id", "uint64", "fixes the crops of this image that were scored"),
    Column("width", "int32", "pixels, upright"),
    Column("height", "int32", "pixels, upright"),
    Column("problem", "string", "why the image cannot be used; null where it can"),
)
SELECTION = (
    _ID,
    Column("keep", "bool", "whether the student learns from it"),
    Column("reason", "string", "why it was kept or not"),
    Column("weight", "float32", "factor of the loss of this sample"),
    Column("kd_weight", "float32", "factor of the weight of its distillation term"),
)


def tables_of(header: "Header") -> list[str]:
    """Return the tables a header names, in its order; files at the top, such as a beton, are not tables."""
    return list(dict.fromkeys(entry.table for entry in header.files if entry.table))


def kinds_of(header: "Header") -> set[str]:
    """Return the kinds of tables a header names, such as logits."""
    return {entry.kind for entry in header.files if entry.table}


def columns_of(table: str, header: "Header") -> list[Column]:
    """Return the columns of one table; only sample_id for a table of a later version."""
    kind, _, rest = table.partition("/")
    if kind in ("samples", "selection"):
        return list(SAMPLES if kind == "samples" else SELECTION)
    if kind == "scores":
        return [_ID, *_scores(rest, header)]
    if kind == "logits":
        top_k = None if header.views is None else header.views.top_k
        return [_ID, *_vectors("logits", f"logits of the teacher, {_view(rest)}, temperature 1", top_k, header)]
    if table == LAST_LAYER:
        width = None if header.labels is None else header.labels.feature_width
        meaning = "weights of the teacher's last layer for a class, in the order of the classes"
        return [Column("weight", "float32", meaning, width), Column("bias", "float32", "its bias")]
    if kind == "targets":
        labels, meaning = header.labels, f"logits the student learns, {_view(rest)}"
        if labels is not None and labels.codec is not None:
            if labels.codec == "features":
                features = f"{meaning}: input of the teacher's last layer"
                factor = Column("factor", "float32", "what its output is multiplied by")
                return [_ID, Column("feature", "float16", features, labels.feature_width), factor]
            return [_ID, *_codes(labels.codec, meaning, len(header.data.class_names))]
        return [_ID, *_vectors("target", meaning, None if labels is None else labels.top_k, header)]
    if kind == "features" and header.features is not None:
        meaning = f"input of the teacher's layer {header.features.layer}, {_view(rest)}"
        return [_ID, Column("features", "float16", meaning, header.features.width)]
    if kind == "thumbnails" and header.thumbnails is not None:
        width = 3 * header.thumbnails.side_px**2
        return [_ID, Column("pixels", "uint8", "means of the image's squares, RGB", width)]
    return [_ID]


def _scores(set_name: str, header: "Header") -> list[Column]:
    return [
        Column(
            spec.name,
            "float32",
            spec.formula + ("" if spec.views is None else f", mean over views {spec.views}"),
            harder=spec.harder,
        )
        for spec in header.scores
        if spec.set == set_name
    ]


def _vectors(name: str, meaning: str, top_k: int | None, header: "Header") -> list[Column]:
    if top_k is None:
        return [Column(name, "float16", meaning, len(header.data.class_names))]
    return [
        Column("class", "uint16", "classes of the K largest logits, by falling logit", top_k),
        Column("logit", "float16", "their logits", top_k),
        Column("tail", "float32", "log sum exp of the other logits at temperature 0.5, 1, 2 and 4", 4),
        Column("label_logit", "float16", "logit of the label's class"),
        Column("mean", "float32", "mean of all logits"),
        Column("std", "float32", "standard deviation of all logits"),
    ]


def _codes(codec: "Codec", meaning: str, class_count: int) -> list[Column]:
    width = class_count if codec == "int8" else -(-class_count // 2)
    return [
        Column("code", "uint8", f"{meaning}: steps below the largest, {codec}", width),
        Column("scale", "float16", "the step"),
        Column("offset", "float16", "the largest logit"),
    ]


def _view(name: str) -> str:
    return "evaluation view" if name == "view-000" else f"augmented {name.replace('-', ' ')}"
