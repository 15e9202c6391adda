"""Whether manifests are pieces of one: the same classes, teacher and views, whatever machine computed them."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from manifests.compare.diff import flat
from manifests.errors import MismatchError, UsageError
from manifests.format.header import Header
from manifests.manifest import Manifest

_SCORED = "score the shards alike: one teacher, and the same --image-size and flags of views"
_HINTS = {
    "data": "index the shards from data sets of one kind",
    "hidden": "merge first, and push the result with --secret; or push all with the same secret",
    "teacher": _SCORED,
    "views": _SCORED,
    "features": "take the features of all shards from one layer of the teacher",
    "thumbnails": "make the thumbnails of all shards with one version of this toolkit",
}
_TEACHERS = "shards need one teacher; what several teachers say of the same samples becomes one by --average"


def check_alike(manifests: Sequence[Manifest]) -> None:
    """MismatchError naming the first field of two headers that must not differ.

    A block that a manifest may be without, such as the teacher, is compared among those that have it.
    """
    for other in manifests[1:]:
        _check_classes(manifests[0], other)
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
    """UsageError unless these are several manifests, and none of them a selection."""
    if len(manifests) < 2:
        raise UsageError(
            "to merge, at least two manifests are needed", hint="prune merge shard-1 shard-2, or with --average"
        )
    for manifest in manifests:
        check_divisible(manifest)
    seen: dict[str, Manifest] = {}
    for manifest in manifests:
        if manifest.id in seen:
            raise UsageError(f"{seen[manifest.id].where} and {manifest.where} are the same manifest: name it once")
        seen[manifest.id] = manifest


def check_divisible(manifest: Manifest) -> None:
    """UsageError for a selection: its samples were chosen together."""
    if manifest.kind == "selection":
        raise UsageError(
            f"{manifest.where} is a selection, whose samples were chosen together",
            hint="merge or split the scored manifests it was made of, and select from the result",
        )


def _check_classes(first: Manifest, other: Manifest) -> None:
    if first.class_names == other.class_names:
        return
    pairs = enumerate(zip_longest(first.class_names, other.class_names))
    label, (one, another) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
    raise MismatchError(
        f"{first.where} and {other.where} have different classes: class {label} is {one} and {another}",
        hint="index the shards with the class names of the whole: prune index --classes FILE",
    )


def _fields(header: Header, block: str) -> dict[str, Any]:
    """What of a block must be equal, by its path in the header; {} where the manifest is without that block."""
    if block == "data":
        return {"data.source": header.data.source}
    if block == "hidden":
        return {"hidden.check": None if header.hidden is None else header.hidden.check}
    content = getattr(header, block)
    if content is None:
        return {}
    include = {"weights_sha256", "output_map", "preprocessing"} if block == "teacher" else None
    return dict(flat(block, content.model_dump(mode="json", include=include)))
