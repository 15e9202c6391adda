"""The header of a hidden manifest: fields known not to identify samples are kept, and a few others as HMACs.

Everything else is dropped, such as fields added by a later version, because they might identify samples.
"""

import json
from typing import Any, cast

from manifests.format.header import Block, Header, Views
from manifests.hidden.secret import hide_ids, hide_text

OPEN = frozenset({
    "average", "batch_size", "beton", "check", "chosen_by", "classes", "command", "compute", "distill_by",
    "distill_fraction", "dynamics_seconds", "early_epoch", "epochs", "eta", "features", "grand_epochs", "images",
    "images_per_second", "keep", "kind", "labels", "left_out", "licence", "loss", "max_side", "missing", "name",
    "output_map", "parameters", "per_class_min", "policy", "preprocessing", "preset", "quota", "redistributable",
    "rest", "revise_scope", "score", "score_views", "scores", "seconds", "seed", "selector", "set", "split", "student",
    "teacher", "teacher_licence", "thumbnails", "top_k", "training_seconds", "views", "views_top1", "wall",
})  # fmt: skip
"""Fields of `config` and `run` that are kept; ids in them are hidden."""
SEALED = frozenset({
    "content", "data", "file_sha256", "held_out", "index", "listing", "manifest", "parent", "parents", "prefer",
    "prefixes", "run", "val", "weights_sha256", "whole", "without",
})  # fmt: skip
"""Fields that are replaced by an HMAC, so that equal values can be recognised."""
NESTED = frozenset({"copy", "dynamics", "parent_run", "parent_runs"})
"""Fields that contain such fields, or lists of them."""
RECIPE = ("pad_px", "scale_min", "scale_max", "ratio_min", "ratio_max", "flip")
"""Parameters of views, besides the fields that all recipes have."""


def hide_header(secret: bytes, header: Header) -> Header:
    """Return the header without unknown fields, with `config` and `run` filtered as above, ids in `selection` hidden.

    Fields that depend on the tables (`files`, `parents`, the fingerprint) are unchanged.
    """
    known = cast(Header, _known(header))
    changes: dict[str, Any] = {"config": _allowed(secret, header.config), "run": _allowed(secret, header.run)}
    for name in ("selection", "labels"):
        if (block := getattr(known, name)) is not None:
            changes[name] = block.model_copy(update={"parameters": hide_ids(secret, block.parameters)})
    if known.selection is not None and known.selection.without is not None:
        without = {"without": hide_text(secret, known.selection.without)}
        changes["selection"] = changes["selection"].model_copy(update=without)
    return known.model_copy(update=changes)


def _known(value: Any) -> Any:
    """Return a block of the header, including nested blocks, without fields added by a later minor version."""
    if isinstance(value, list):
        return [_known(each) for each in value]
    if not isinstance(value, Block):
        return value
    names = list(type(value).model_fields)
    if isinstance(value, Views):
        names += [name for name in value.model_extra or () if name in RECIPE]
    return type(value).model_construct(**{name: _known(getattr(value, name)) for name in names})


def _allowed(secret: bytes, value: Any) -> Any:
    if isinstance(value, list):
        return [_allowed(secret, each) for each in value]
    if not isinstance(value, dict):
        return None
    found = {}
    for name, content in value.items():
        if name in NESTED:
            found[name] = _allowed(secret, content)
        elif name in SEALED:
            found[name] = _sealed(secret, content)
        elif name in OPEN:
            found[name] = hide_ids(secret, content)
    return found


def _sealed(secret: bytes, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return sorted((_sealed(secret, each) for each in value), key=str)
    return hide_text(secret, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
