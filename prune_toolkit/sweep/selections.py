"""Planned selections, identified by the samples they keep and the targets of these: equal ones are made once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from manifests.manifest import Manifest
from prune_toolkit.cli.options import made
from prune_toolkit.cli.select_command import command as select_command
from prune_toolkit.cli.select_command import select_config
from prune_toolkit.selection.choose_samples import SelectionPlan, plan_selection
from trainer.data.stored import StoredLabels, scored_recipe

_CHOSEN_BY = {
    *("command", "parent", "keep", "selector", "parameters", "score", "quota", "per_class_min", "without"),
    *("seed", "preset", "distill_fraction", "distill_by"),
}
"""Keys of a resolved selection that only affect which samples are kept, and which of these are distilled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedSelection:
    """A planned selection."""

    key: str
    """Digest of the kept samples and their targets; the name of its folder."""
    samples_key: str
    """Digest of the kept samples and their views, without the targets."""
    command: tuple[str, ...]
    """Arguments of prune select except --out."""
    stored: StoredLabels
    """The labels and views stored in it, for a student."""
    published: Mapping[str, Any]
    """Settings of the loss from its preset and its labels."""
    labels: str

    @property
    def count(self) -> int:
        """Number of samples kept."""
        return self.stored.count


def plan_command(command: tuple[str, ...], manifest: Manifest) -> PlannedSelection:
    """Plan a selection given as arguments of prune select; raises the same errors as that command."""
    context = select_command.make_context("select", [*command, "--out", "selection"])
    plan = plan_selection(made(select_config, context.params), manifest)
    samples_key = short_digest({"kept": _sha256(plan.keep_N), "shown": _shown(plan)})
    taught = {name: value for name, value in plan.resolved.items() if name not in _CHOSEN_BY}
    key = {"samples": samples_key, "parent": manifest.id, "taught": taught, "distilled": _sha256(plan.distilled_N)}
    return PlannedSelection(
        key=short_digest(key),
        samples_key=samples_key,
        command=command,
        stored=_stored(plan),
        published=_published(plan),
        labels=plan.decisions.labels,
    )


def short_digest(content: object) -> str:
    """Return a digest of plain values: twelve hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sha256(values_N: NDArray[Any]) -> str:
    return hashlib.sha256(values_N.tobytes()).hexdigest()


def _shown(plan: SelectionPlan) -> dict[str, Any]:
    """Return what determines the pixels shown to a student, and the loss of a preset."""
    header = plan.parent.header
    counted = {"count", "top_k"}
    return {
        "data": header.data.fingerprint,
        "image": None if header.teacher is None else header.teacher.preprocessing.model_dump(),
        "views": None if header.views is None else header.views.model_dump(exclude=counted, exclude_none=True),
        "max_side": plan.max_side,
        "loss": dict(plan.decisions.loss),
    }


def _stored(plan: SelectionPlan) -> StoredLabels:
    """Return what a training task will find in the selection."""
    views, card = plan.parent.header.views, plan.parent.header.teacher
    return StoredLabels(
        count=plan.count,
        image_px=224 if card is None else card.preprocessing.image_px,
        view_count=len(plan.targets.tables),
        policy=plan.targets.policy,
        scored=scored_recipe(views) if views is not None and views.recipe != "eval" else None,
        scored_views=plan.targets.views,
        top_k=plan.targets.top_k,
    )


def _published(plan: SelectionPlan) -> dict[str, Any]:
    loss, revision = dict[str, Any](plan.decisions.loss), plan.decisions.revision
    return loss if revision is None else loss | {"revise_eta": revision.eta, "revise_scope": revision.scope}
