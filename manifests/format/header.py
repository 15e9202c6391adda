"""manifest.json: the typed, versioned header that is written last and names every other file.

The id of a manifest is the sha256 of its header's canonical JSON without the `run` block, so it depends
on what was computed and not on when, where or by how many processes.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from manifests.images.identity import NO_CLASS

SCHEMA_MAJOR, SCHEMA_MINOR = 1, 5
_SELECTION_1_2 = ("per_class_min", "without", "distill")
_SELECTION_1_5 = ("held_out", "search")
_LABELS_1_5 = ("codec", "budget")
_DATA_1_4 = ("read_as", "labels_from")
_BLOCKS_1_3 = ("thumbnails", "hidden", "left_out")
_TEACHER_1_4 = ("output_groups", "output_key", "probabilities")
Kind = Literal["index", "scores", "selection"]
Harder = Literal["high", "low"]
Policy = Literal["replay", "mean", "single"]
Codec = Literal["int8", "int4", "features"]
LabelsFrom = Literal["none", "teacher"]
Probabilities = Literal["softmax", "sigmoid"]


class Block(BaseModel):
    """A part of the header: immutable, and keeping fields that a later minor version added."""

    # "constants": a NaN among free values reaches json.dumps, which refuses it; the default makes it null.
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


class DataReading(Block):
    """How the data was understood when it was read, and what was not taken."""

    labels: str
    """Where the labels come from, such as "names of the folders in train/"."""
    split_found: str | None = None
    """How the split was found, such as "by the name of its folder"; None if there are no splits."""
    other_splits: list[str] = []
    left_out: dict[str, int] = {}
    """Files and folders that were not taken, by kind."""
    images: str | None = None
    """What was done to the pixels, such as "transposed"; None: nothing that has to be told."""
    warnings: list[str] = []
    """One line each, about what is probably not meant."""


class DataSet(Block):
    """The images that the manifest describes."""

    name: str
    source: str
    """Kind of source: folder, parquet, idx, cifar, beton, digits."""
    split: str | None = None
    count: int
    """All samples, including unreadable ones."""
    readable: int
    class_names: list[str]
    fingerprint: str
    """sha256 over the sorted 16-byte digests of (key, class name, content hash); see `fingerprint_names`."""
    licence: str | None = None
    redistributable: bool | None = None
    read_as: DataReading | None = None
    labels_from: LabelsFrom | None = None
    """For images without labels: "none" (all are of one class), then "teacher", whose answer for view 0 is the label.

    None if the labels are those of the data.
    """

    @property
    def is_unlabelled(self) -> bool:
        """Whether the images have no labels of their own."""
        return self.labels_from is not None

    @property
    def fingerprint_names(self) -> list[str]:
        """The class name of each label in the fingerprint: the same one for all, if the labels are a teacher's."""
        return [NO_CLASS] * len(self.class_names) if self.is_unlabelled else self.class_names

    @property
    def classes_text(self) -> str:
        """The number of classes in words, and whose they are unless they are the data's."""
        if self.labels_from == "none":
            return "no labels"
        return f"{len(self.class_names):,} classes" + (" by the teacher, no labels" if self.labels_from else "")


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
    """Everything besides data and weights that determines the bytes of the logits."""

    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    batch_size: int
    threads: int
    versions: dict[str, str]


class TeacherCard(Block):
    """The network that scored the images."""

    spec: str
    weights_sha256: str
    parameters: int
    preprocessing: Preprocessing
    output_map: list[int] | None = None
    """Output of the teacher that stands for class c, for every c; None if the order is the same."""
    output_groups: list[list[int]] | None = None
    """Outputs of the teacher that are class c together, for every c, in place of output_map; the logit of the class is
    the logarithm of the sum of their exponentials."""
    output_key: str | None = None
    """Key or position of the logits in what the network returns; None where it returns only them, or they are clear."""
    probabilities: Probabilities | None = None
    """The network returns these, of which the logits are computed: log(p), or log(p / (1 - p)) of sigmoids."""
    train_top1: float | None = None
    """None if the images have no labels, like train_ece."""
    train_ece: float | None = None
    val_top1: float | None = None
    licence: str | None = None

    @property
    def top1_text(self) -> str:
        """The accuracy on these images in words."""
        if self.train_top1 is None:
            return "top-1 unknown without labels"
        return f"top-1 {100 * self.train_top1:.2f} % on these images"

    @property
    def ece_text(self) -> str:
        """The calibration error, after a comma; empty without labels."""
        return "" if self.train_ece is None else f", ECE {self.train_ece:.4f}"


class Views(Block):
    """The crops that were scored: view 0 is the evaluation view, 1..count-1 follow the recipe."""

    recipe: str
    version: int
    seed: int
    count: int
    image_px: int
    top_k: int | None = None
    """Largest logits stored per view, beside the statistics of manifests/format/top_k.py; None if all are stored."""
    max_side: int | None = None
    """Longer side to which larger images were shrunk before scoring; crops are drawn from the shrunk sizes."""


class Features(Block):
    """The stored activations of the teacher, for view 0."""

    layer: str
    """Name in the network of the linear layer that makes the logits; its input is stored."""
    width: int


class Thumbnails(Block):
    """Small pictures that show whether two encodings are of the same image."""

    side_px: int
    """Width and height of each thumbnail, in RGB, whatever the size of the image."""


class ScoreSpec(Block):
    """One column of a score set, and which end of it is harder."""

    set: str
    name: str
    formula: str
    source: str
    harder: Harder
    views: str | None = None
    """Views that the score is averaged over, such as 0, 1-7 or 0-7; None if one view is stored."""


class Distill(Block):
    """The share of the kept samples that is distilled; the others are learned from their labels alone."""

    fraction: str
    by: str
    """Score whose easy end is distilled, or random."""
    count: int


class WithoutSuspects(Block):
    """The samples that were left out first because they are probably wrong, by reason."""

    judged_by: str | None = None
    """Score, as SET/NAME, by which labels were judged; None if there was none."""
    mislabelled: int
    two_classes: int
    """Samples whose content lies in several classes."""
    duplicates: int
    """Copies of a sample of the same class, except one."""
    leaked: int | None = None
    """Samples that are among the validation images; None if these were not given."""


class Tried(Block):
    """One pair of parameters that a search tried."""

    mode: float
    sharpness: float
    """0 is a random draw, whatever the mode."""
    loss: list[float]
    """Cross-entropy in nats, on half of the held-out images, of a student of each draw."""


class Search(Block):
    """The search of a selector's parameters by students that are cheap to fit."""

    tried: list[Tried]
    """In the order they were tried."""
    gain: float
    """How far the best pair is ahead of a random draw on the other half of the held-out images, in nats."""
    error: float
    """Standard error of the gain."""


class Selection(Block):
    """The method by which samples were chosen."""

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
    """Samples that every class keeps at least; a smaller class keeps all it has."""
    without: str | None = None
    """Id of the selection whose samples were left out first."""
    without_suspects: WithoutSuspects | None = None
    """None if suspects were not left out."""
    distill: Distill | None = None
    """None if all kept samples are distilled."""
    held_out: str | None = None
    """Id of the manifest of images that the teacher never saw, by which the selection was decided; None without."""
    search: Search | None = None
    """None unless the selector searched its parameters."""


class ViewBudget(Block):
    """How a number of labels was shared among samples; see prune_toolkit/labelling/view_rules.py."""

    rule: str
    """covariance or sure."""
    mean: str
    """Labels per sample as they were asked for, view 0 included: a number or a fraction."""
    first_views: int
    """Views of every sample that the teacher saw before the others were chosen."""
    temperature: float
    """Of the teacher's probabilities that the choice is made by."""
    labels: int
    """Labels of all samples together, as the teacher gave them."""
    least: int | None = None
    """Targets of the sample with the fewest; None, like `most`, where each has one target, the mean over its views."""
    most: int | None = None


class Labels(Block):
    """The derivation of targets from stored logits."""

    transform: str
    parameters: dict[str, Any]
    views: int
    """Targets stored per sample; with a budget, views of which some samples have a target."""
    policy: Policy | None = None
    """replay: one target per scored view; mean: one, the mean over all views; single: one, that of view 0."""
    top_k: int | None = None
    """Logits kept per target, as in Views; None if all are."""
    codec: Codec | None = None
    """How the logits of a target are stored, see manifests/format/codes.py and last_layer.py; None for float16."""
    feature_width: int | None = None
    """Features per target with the codec `features`."""
    class_std: list[float] | None = None
    """Mean of std(logits) over each class, one value per class (`reshape`)."""
    budget: ViewBudget | None = None
    """None if the same views of all samples were labelled."""

    @property
    def is_ragged(self) -> bool:
        """Whether samples have targets of different views."""
        return self.budget is not None and self.policy == "replay"


class Hidden(Block):
    """The replacement of keys and hashes: without the secret, no name or file can be looked up."""

    method: Literal["hmac-sha256"]
    check: str
    """Hexadecimal digest of the secret alone, by which a wrong secret is detected."""


class FileEntry(Block):
    """One file of the manifest."""

    path: str
    rows: int
    bytes: int
    sha256: str

    @property
    def table(self) -> str:
        """The table it is a part of, such as `logits/view-000`; empty for a beton."""
        return self.path.rpartition("/")[0]

    @property
    def kind(self) -> str:
        """The kind of that table, such as `logits`; for a beton, its name."""
        return self.path.partition("/")[0]


class Tool(Block):
    """The tool that wrote this manifest."""

    name: str
    version: str


class Header(Block):
    """Everything a manifest says about itself; see docs/manifest-format.md."""

    schema_version: str = f"{SCHEMA_MAJOR}.1"
    """For a new header, the first version that has all of its fields, so that one without newer fields keeps its id."""
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
    """None if keys and hashes are those of the images."""
    left_out: list[str] | None = None
    """Kinds of tables, such as logits, that this manifest lacks but the one it was pushed from has."""
    tool: Tool
    config: dict[str, Any] = {}
    """The resolved configuration of the command, without paths."""
    files: list[FileEntry] = []
    run: dict[str, Any] = {}
    """Times, throughput, host, processes; not part of the id."""

    @model_validator(mode="before")
    @classmethod
    def _least_version(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "schema_version" in fields:
            return fields
        return {"schema_version": f"{SCHEMA_MAJOR}.{max(1, least_minor(fields))}", **fields}

    @model_validator(mode="after")
    def _judged(self) -> "Header":
        """Refuse a teacher that was not measured, although there were labels to measure it by."""
        if self.teacher is not None and not self.data.is_unlabelled:
            for name in ("train_top1", "train_ece"):
                if getattr(self.teacher, name) is None:
                    raise ValueError(f"teacher.{name} is missing, and the images have labels")
        return self

    @property
    def id(self) -> str:
        """Hexadecimal sha256 of the canonical JSON without `run`."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()

    def file(self, path: str) -> FileEntry | None:
        """Return the entry of one file; None if the manifest does not have it."""
        return next((entry for entry in self.files if entry.path == path), None)


def least_minor(fields: Mapping[str, Any]) -> int:
    """Return the first minor version that has all fields of a header that are set; 0 if no later one is needed."""
    of_selection = any(_is_set(fields.get("selection"), name) for name in _SELECTION_1_5)
    if of_selection or any(_is_set(fields.get("labels"), name) for name in _LABELS_1_5):
        return 5
    if any(
        _is_set(fields.get(block), name)
        for block, names in (
            ("data", _DATA_1_4),
            ("selection", ("without_suspects",)),
            ("teacher", _TEACHER_1_4),
        )
        for name in names
    ):
        return 4
    if any(fields.get(name) is not None for name in _BLOCKS_1_3) or _is_set(fields.get("views"), "max_side"):
        return 3
    is_new = any(_is_set(fields.get("selection"), name) for name in _SELECTION_1_2)
    return 2 if is_new or fields.get("features") is not None else 0


def _is_set(block: Any, name: str) -> bool:
    """Return whether a block, or the values it will be made of, has a field."""
    return (block.get(name) if isinstance(block, dict) else getattr(block, name, None)) is not None


def canonical_json(header: Header) -> str:
    """Return the header as JSON: keys sorted, no spaces, without unset optional fields and `run`."""
    content = header.model_dump(mode="json", exclude={"run"}, exclude_none=True)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
