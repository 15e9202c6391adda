"""What the header of a hidden manifest still says: fields that are known to name no sample; of a few others an HMAC.

Everything else is dropped, such as what a later version added: nobody can say that it tells nothing.
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
"""Fields of `config` and `run` that stay; ids in them are hidden."""
SEALED = frozenset({
    "content", "data", "file_sha256", "held_out", "index", "listing", "manifest", "parent", "parents", "prefer",
    "prefixes", "run", "val", "weights_sha256", "whole", "without",
})  # fmt: skip
"""Fields of which an HMAC stays: equal ones can be told."""
NESTED = frozenset({"copy", "dynamics", "parent_run", "parent_runs"})
"""Fields that hold such fields, or lists of them."""
RECIPE = ("pad_px", "scale_min", "scale_max", "ratio_min", "ratio_max", "flip")
"""Parameters of views, beside the fields that all recipes have."""


def hide_header(secret: bytes, header: Header) -> Header:
    """The header without fields that are not known; `config` and `run` by the lists above, ids in `selection` hidden.

    What depends on the tables (`files`, `parents`, the fingerprint) is left as it is.
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
    """A block of the header, and the blocks in it, without what a later minor version added."""
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
