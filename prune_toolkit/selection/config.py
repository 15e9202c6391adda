"""What `prune select` is asked to do, and the published combinations that have a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.errors import UsageError
from manifests.manifest import Manifest
from prune_toolkit.indexing import DataSpec
from prune_toolkit.materialise import beton_at_hand
from prune_toolkit.selection.labels import LABELS
from prune_toolkit.selection.quotas import QUOTAS, parse_keep
from prune_toolkit.selection.selectors import SELECTORS
from prune_toolkit.selection.targets import TargetPlan, check_stored_top_k


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published combination of selector, quota, labels and loss."""

    selector: str
    score: str
    quota: str
    labels: str
    source: str
    loss: Mapping[str, float] = field(default_factory=dict)
    """What the trainer takes from the header unless told otherwise."""


PRESETS = {
    "mdslr": Preset(
        selector="medium",
        score="loss",
        quota="published",
        labels="reshape",
        source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe)",
        loss={"kd_weight": 0.9, "temperature": 4.0},
    )
}


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """What `prune select` was asked to do; None takes the preset's or the selector's own choice."""

    keep: str
    out: Path
    selector: str | None = None
    score: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    quota: str | None = None
    labels: str | None = None
    views: int | None = None
    """Scored views whose labels are carried, the first ones; None is all of them."""
    policy: str | None = None
    top_k: int | None = None
    preset: str | None = None
    seed: int = 0
    beton: bool = True
    data: DataSpec | None = None
    max_side: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        parse_keep(self.keep)
        if self.preset is None:
            return
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}", hint=f"known: {', '.join(PRESETS)}")
        for name in ("selector", "score", "quota", "labels"):
            asked = getattr(self, name)
            if asked is not None and asked != getattr(PRESETS[self.preset], name):
                raise UsageError(
                    f"--preset {self.preset} sets {name} to {getattr(PRESETS[self.preset], name)}, not {asked}",
                    hint="leave out one of the two",
                )

    def targets(self, parent: Manifest) -> TargetPlan:
        """What of the scored views becomes targets; UsageError for more than is stored."""
        scored = parent.header.views
        stored, stored_k = (1, None) if scored is None else (scored.count, scored.top_k)
        if self.views is not None and self.views > stored:
            raise UsageError(
                f"--views {self.views}: {parent.path} holds logits of {stored} view(s)",
                hint=f"have more views of the kept samples labelled after selecting: prune label --views {self.views}",
            )
        top_k = stored_k if self.top_k is None else self.top_k
        views = stored if self.views is None else self.views
        plan = TargetPlan.resolve(self.policy, views, top_k, len(parent.class_names))
        if stored_k is not None:
            check_stored_top_k(stored_k, plan.policy, plan.views, top_k)
        return plan

    def _copies_beton(self, parent: Manifest) -> bool:
        """Whether images are copied from a beton as they are, and not read from their source."""
        return self.data is None and beton_at_hand(parent) is not None

    def resolved(self, parent: Manifest) -> dict[str, Any]:
        """Every choice made, without paths."""
        preset = PRESETS.get(self.preset or "")
        method = SELECTORS[self.selector or (preset.selector if preset else "medium")]
        parameters = {name: str(value) for name, value in method.resolve(self.parameters).items()}
        score = self.score or method.score
        if method.score is None and self.score is not None:
            raise UsageError(f"selector {method.name} ranks by no score", hint="leave out --score")
        return {
            "command": "select",
            "parent": parent.id,
            "keep": self.keep,
            "selector": method.name,
            "parameters": parameters,
            "score": score,
            "quota": QUOTAS[self.quota or (preset.quota if preset else "proportional")].name,
            "labels": LABELS[self.labels or (preset.labels if preset else "reshape")].name,
            "preset": self.preset,
            "loss": dict(preset.loss) if preset else {},
            "seed": self.seed,
            "beton": self.beton,
            "max_side": self.max_side if self.beton and not self._copies_beton(parent) else None,
            **self._resolved_targets(parent),
        }

    def _resolved_targets(self, parent: Manifest) -> dict[str, Any]:
        """Nothing for view 0's whole label, so that such selections are what they were before there were more."""
        targets = self.targets(parent)
        if (targets.views, targets.policy, targets.top_k) == (1, "single", None):
            return {}
        return {"views": targets.views, "policy": targets.policy, "top_k": targets.top_k}
