"""Checks that manifests are pieces of one whole: the same classes, teacher and views, on whatever machine computed."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from manifests.compare.diff import flat
from manifests.errors import MismatchError, UsageError
from manifests.format.header import Header
from manifests.manifest import Manifest

T = TypeVar("T")
_SCORED = "score all shards with one teacher, and with the same --image-size and view flags"
_HINTS = {
    "data": "index all shards from data sets of the same kind",
    "hidden": "merge first and push the result with --secret, or push all with the same secret",
    "teacher": _SCORED,
    "views": _SCORED,
    "features": "take the features of all shards from one layer of the teacher",
    "thumbnails": "make the thumbnails of all shards with the same version of this toolkit",
}
_OF_TEACHER = {"weights_sha256", "preprocessing", "output_map", "output_groups", "output_key", "probabilities"}
_TEACHERS = "shards need one teacher; to combine several teachers of the same samples, use --average"


def check_alike(manifests: Sequence[Manifest]) -> None:
    """Raise MismatchError naming the first header field that differs where it must not.

    An optional block, such as the teacher, is compared among the manifests that have it.
    """
    for other in manifests[1:]:
        if difference := class_difference(manifests[0], other):
            raise MismatchError(
                f"{manifests[0].where} and {other.where} have different classes: {difference}",
                hint="index the shards with the class names of the whole data set: prune index --classes FILE",
            )
    for block, hint in _HINTS.items():
        having = [(manifest, fields) for manifest in manifests if (fields := _fields(manifest.header, block))]
        for other, theirs in having[1:]:
            first, ours = having[0]
            for name in dict.fromkeys([*ours, *theirs]):
                if ours.get(name) != theirs.get(name):
                    raise MismatchError(
                        f"{first.where} and {other.where} cannot be merged: {name} is {ours.get(name)} and "
                        f"{theirs.get(name)}",
                        hint=_TEACHERS if name == "teacher.weights_sha256" else hint,
                    )


def check_same_kind(manifests: Sequence[Manifest]) -> None:
    """Raise UsageError unless there are several different manifests, none of them a selection."""
    if len(manifests) < 2:
        raise UsageError(
            "at least two manifests are needed to merge", hint="prune merge shard-1 shard-2, or with --average"
        )
    for manifest in manifests:
        check_divisible(manifest)
    seen: dict[str, Manifest] = {}
    for manifest in manifests:
        if manifest.id in seen:
            raise UsageError(f"{seen[manifest.id].where} and {manifest.where} are the same manifest: name it once")
        seen[manifest.id] = manifest


def check_divisible(manifest: Manifest) -> None:
    """Raise UsageError for a selection: its samples were chosen as a whole."""
    if manifest.kind == "selection":
        raise UsageError(
            f"{manifest.where} is a selection, whose samples were chosen as a whole",
            hint="merge or split the scored manifests it was made from, and select from the result",
        )


def agreed(values: Sequence[T]) -> T | None:
    """Return the value, if all are equal; else None."""
    return values[0] if all(value == values[0] for value in values) else None


def class_difference(first: Manifest, other: Manifest) -> str | None:
    """Describe the first class that has different names in two manifests; None if there is none."""
    pairs = enumerate(zip_longest(first.class_names, other.class_names))
    return next((f"class {label} is {one} and {another}" for label, (one, another) in pairs if one != another), None)


def _fields(header: Header, block: str) -> dict[str, Any]:
    """Return the fields of a block that must be equal, by their paths in the header; {} if the block is missing."""
    if block == "data":
        return {"data.source": header.data.source, "data.labels_from": header.data.labels_from}
    if block == "hidden":
        return {"hidden.check": None if header.hidden is None else header.hidden.check}
    content = getattr(header, block)
    if content is None:
        return {}
    include = _OF_TEACHER if block == "teacher" else None
    return dict(flat(block, content.model_dump(mode="json", include=include)))
