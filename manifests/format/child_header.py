"""The rules for what the header of a manifest carries over from the manifests it is made from."""

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
    """The way a manifest is made from others; the value is its column below."""

    EXTENDED = 0
    """It holds everything from the other, and more: import of scores or logits, score --dynamics."""
    DERIVED = 1
    """It holds other tables of the samples of one or several: score, select, cut, label, merge, split."""
    SENT = 2
    """It holds some tables of the other, for another person: push --only or --secret."""


Fate = Literal["carried", "with table", "dropped", "anew"]
"""The rule for a block that the caller does not make; `with table`: carried if the table it describes is;
`anew`: the caller must make it."""
FATES: Mapping[str, tuple[Fate, Fate, Fate]] = {
    #                  EXTENDED   DERIVED       SENT
    # Includes the fields that a later version added.
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


class Blocks(TypedDict, total=False):
    """Blocks of a header that the caller makes."""

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
    """Return the header of a manifest made from others: the `made` blocks, and those that FATES carries over.

    A carried block comes from the first original that has it. Raises KeyError if a block is missing that the caller
    must make.
    """
    fields: dict[str, Any] = {**made}
    kinds = {entry.kind for entry in made["files"]}
    described = {"labels": "targets"}
    for block, fate in ((name, fates[making.value]) for name, fates in FATES.items() if name not in made):
        if fate == "anew":
            raise KeyError(block)
        if fate == "carried" or (fate == "with table" and described.get(block, block) in kinds):
            found = [value for original in originals if (value := getattr(original, block)) is not None]
            fields |= {block: found[0]} if found else {}
    if "schema_version" in fields:
        fields |= originals[0].model_extra or {}
        minor = int(originals[0].schema_version.partition(".")[2])
        fields["schema_version"] = f"{SCHEMA_MAJOR}.{max(minor, least_minor(fields))}"
    return Header(**fields)
