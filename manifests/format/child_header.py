"""What the header of a manifest takes over from the manifests it is made of: the one place that says so."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypedDict, Unpack

from manifests.format.header import (
    SCHEMA_MAJOR,
    Compute,
    DataSet,
    Features,
    FileEntry,
    Header,
    Hidden,
    Kind,
    Labels,
    ScoreSpec,
    Selection,
    TeacherCard,
    Thumbnails,
    Tool,
    Views,
    least_minor,
)


class Making(Enum):
    """How a manifest comes from others; the value is its column below."""

    EXTENDED = 0
    """It holds all that the other holds, and more: import of scores or logits, score --dynamics."""
    DERIVED = 1
    """It holds other tables of the samples of one or several: score, select, cut, label, merge, split."""
    SENT = 2
    """It holds some tables of the other, for somebody else: push --only or --secret."""


Fate = Literal["carried", "with table", "dropped", "anew"]
"""What becomes of a block that nobody makes anew; `with table`: carried where the table it describes is."""
FATES: Mapping[str, tuple[Fate, Fate, Fate]] = {
    #                  EXTENDED   DERIVED       SENT
    # With the fields that a later version added.
    "schema_version": ("carried", "dropped",    "carried"),
    "kind":           ("anew",    "anew",       "carried"),
    "data":           ("carried", "carried",    "carried"),
    "teacher":        ("carried", "carried",    "carried"),
    "compute":        ("carried", "carried",    "carried"),
    "views":          ("carried", "carried",    "carried"),
    "features":       ("carried", "with table", "carried"),
    "thumbnails":     ("carried", "with table", "carried"),
    "scores":         ("carried", "with table", "with table"),
    "selection":      ("carried", "with table", "carried"),
    "labels":         ("carried", "with table", "carried"),
    "parents":        ("anew",    "anew",       "anew"),
    "hidden":         ("carried", "carried",    "carried"),
    "left_out":       ("carried", "dropped",    "carried"),
    "tool":           ("anew",    "anew",       "carried"),
    "config":         ("anew",    "anew",       "carried"),
    "files":          ("anew",    "anew",       "anew"),
    "run":            ("anew",    "anew",       "carried"),
}  # fmt: skip
_TABLE_OF = {"labels": "targets"}
"""Kind of table that a block describes, where it has another name."""


class Blocks(TypedDict, total=False):
    """Blocks of a header that are made anew."""

    kind: Kind
    data: DataSet
    teacher: TeacherCard | None
    compute: Compute | None
    views: Views | None
    features: Features | None
    thumbnails: Thumbnails | None
    scores: list[ScoreSpec]
    selection: Selection
    labels: Labels | None
    parents: list[str]
    hidden: Hidden
    left_out: list[str] | None
    tool: Tool
    config: dict[str, Any]
    files: list[FileEntry]
    run: dict[str, Any]


def child_header(making: Making, *originals: Header, **made: Unpack[Blocks]) -> Header:
    """The header of a manifest made of others: the blocks `made` anew, and those that FATES carries over.

    Of several originals, a block is that of the first that has it. KeyError where a block is missing that is always
    made anew.
    """
    fields: dict[str, Any] = {**made}
    kinds = {entry.path.partition("/")[0] for entry in made["files"]}
    for block, fate in ((name, fates[making.value]) for name, fates in FATES.items() if name not in made):
        if fate == "anew":
            raise KeyError(block)
        if fate == "carried" or (fate == "with table" and _TABLE_OF.get(block, block) in kinds):
            found = [value for original in originals if (value := getattr(original, block)) is not None]
            fields |= {block: found[0]} if found else {}
    if "schema_version" in fields:
        fields |= originals[0].model_extra or {}
        minor = int(originals[0].schema_version.partition(".")[2])
        fields["schema_version"] = f"{SCHEMA_MAJOR}.{max(minor, least_minor(fields))}"
    return Header(**fields)
