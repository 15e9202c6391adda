"""manifest.json: the typed, versioned header that is written last and names every other file.

The id of a manifest is the sha256 of its header's canonical JSON without the `run` block, so it depends
on what was computed and not on when, where or by how many processes.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA_MAJOR, SCHEMA_MINOR = 1, 3
_SELECTION_1_2 = ("per_class_min", "without", "distill")
_BLOCKS_1_3 = ("thumbnails", "hidden", "left_out")
Kind = Literal["index", "scores", "selection"]
Harder = Literal["high", "low"]
Policy = Literal["replay", "mean", "single"]


class Block(BaseModel):
    """A part of the header: immutable, and keeping fields that a later minor version added."""

    # "constants": a NaN among free values reaches json.dumps, which refuses it; the default makes it null.
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


class DataSet(Block):
    """Which images these are."""

    name: str
    source: str
    """Kind of source: folder, parquet, idx, cifar, beton, digits."""
    split: str | None = None
    count: int
    """All samples, unreadable ones included."""
    readable: int
    class_names: list[str]
    fingerprint: str
    """sha256 over the sorted 16-byte digests of (key, class name, content hash)."""
    licence: str | None = None
    redistributable: bool | None = None


class Preprocessing(Block):
    """The evaluation view and the normalisation a network expects."""

    image_px: int
    """Side of the square the network sees."""
    resize_px: int
    """Length the shorter side is resized to before the centre crop of image_px."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: list[float]
    std: list[float]


class Compute(Block):
    """What the bytes of logits depend on beside data and weights."""

    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    batch_size: int
    threads: int
    versions: dict[str, str]


class TeacherCard(Block):
    """Who looked at the data."""

    spec: str
    weights_sha256: str
    parameters: int
    preprocessing: Preprocessing
    output_map: list[int] | None = None
    """TeacherCard output that stands for class c, for every c; None when the order is the same."""
    train_top1: float
    train_ece: float
    val_top1: float | None = None
    licence: str | None = None


class Views(Block):
    """Which crops were scored: view 0 is the evaluation view, 1..count-1 follow the recipe."""

    recipe: str
    version: int
    seed: int
    count: int
    image_px: int
    top_k: int | None = None
    """Logits stored a view, the largest, with what manifests/format/top_k.py keeps beside them; None when all are."""
    max_side: int | None = None
    """Longer side to which larger images had been shrunk when they were scored; crops are drawn by their sizes then."""


class Features(Block):
    """Which activations of the teacher are stored, of view 0."""

    layer: str
    """The linear layer that makes the logits, by its name in the network; its input is what is stored."""
    width: int


class Thumbnails(Block):
    """Small pictures that show whether two encodings are of one image."""

    side_px: int
    """Width and height of each, RGB, whatever the image's are."""


class ScoreSpec(Block):
    """One column of a score set, and which end of it is harder."""

    set: str
    name: str
    formula: str
    source: str
    harder: Harder
    views: str | None = None
    """Views the score is the mean over, such as 0, 1-7 or 0-7; None where one view is stored."""


class Distill(Block):
    """Which share of the kept samples is distilled; the others learn from their labels alone."""

    fraction: str
    by: str
    """The score whose easy end it is, or random."""
    count: int


class Selection(Block):
    """How samples were chosen."""

    method: str
    parameters: dict[str, Any]
    score: str | None = None
    quota: str
    keep_asked: str
    """The fraction as it was typed."""
    keep_got: float
    count: int
    seed: int
    preset: str | None = None
    per_class_min: int | None = None
    """Samples that every class keeps at least, or all it has."""
    without: str | None = None
    """Id of the selection whose samples were left out beforehand."""
    distill: Distill | None = None
    """None where all kept samples are distilled."""


class Labels(Block):
    """How stored logits became targets."""

    transform: str
    parameters: dict[str, Any]
    views: int
    """Targets stored a sample."""
    policy: Policy | None = None
    """replay: one target a scored view; mean: one, the mean over all of them; single: one, view 0's."""
    top_k: int | None = None
    """Logits kept a target, as in Views; None when all are."""
    class_std: list[float] | None = None
    """Mean over a class of std(logits), one value a class (`reshape`)."""


class Hidden(Block):
    """How keys and hashes were replaced, so that nobody without the secret can look up a name or a file."""

    method: Literal["hmac-sha256"]
    check: str
    """Hexadecimal, of the secret alone: tells a wrong one."""


class FileEntry(Block):
    """One file of the manifest."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Tool(Block):
    """What wrote this manifest."""

    name: str
    version: str


class Header(Block):
    """Everything a manifest says about itself; see docs/manifest-format.md."""

    schema_version: str = f"{SCHEMA_MAJOR}.1"
    """Of a new header the first version that has all of its fields, so that what needs no new one keeps its id."""
    kind: Kind
    data: DataSet
    teacher: TeacherCard | None = None
    compute: Compute | None = None
    views: Views | None = None
    features: Features | None = None
    thumbnails: Thumbnails | None = None
    scores: list[ScoreSpec] = []
    selection: Selection | None = None
    labels: Labels | None = None
    parents: list[str] = []
    hidden: Hidden | None = None
    """None where keys and hashes are those of the images."""
    left_out: list[str] | None = None
    """Kinds of tables, such as logits, that the manifest this was pushed from has and this one has not."""
    tool: Tool
    config: dict[str, Any] = {}
    """The resolved configuration of the command, without paths."""
    files: list[FileEntry] = []
    run: dict[str, Any] = {}
    """Times, throughput, host, processes: in no id."""

    @model_validator(mode="before")
    @classmethod
    def _least_version(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "schema_version" in fields:
            return fields
        return {"schema_version": f"{SCHEMA_MAJOR}.{max(1, least_minor(fields))}", **fields}

    @property
    def id(self) -> str:
        """Hexadecimal sha256 of the canonical JSON without `run`."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()

    def file(self, path: str) -> FileEntry | None:
        """The entry of one file, None when the manifest does not have it."""
        return next((entry for entry in self.files if entry.path == path), None)


def least_minor(fields: Mapping[str, Any]) -> int:
    """The first minor version that has all fields of a header that are set; 0 where they are as old as headers."""
    if any(fields.get(name) is not None for name in _BLOCKS_1_3) or _is_set(fields.get("views"), "max_side"):
        return 3
    is_new = any(_is_set(fields.get("selection"), name) for name in _SELECTION_1_2)
    return 2 if is_new or fields.get("features") is not None else 0


def _is_set(block: Any, name: str) -> bool:
    """Whether a block, or what will become one, has a field."""
    return (block.get(name) if isinstance(block, dict) else getattr(block, name, None)) is not None


def canonical_json(header: Header) -> str:
    """Keys sorted, no spaces, unset optional fields and `run` left out."""
    content = header.model_dump(mode="json", exclude={"run"}, exclude_none=True)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
