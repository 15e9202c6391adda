"""The decisions behind a selection, made from the flags, a preset and the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.revision import Revision
from prune_toolkit.selection.targets import TargetPlan


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """All decisions behind a selection."""

    command: str = "select"
    parent: str
    """id of the manifest it is made from."""
    keep: Keep
    selector: str
    parameters: Mapping[str, str]
    score: str | None
    quota: str
    labels: str
    preset: str | None
    loss: Mapping[str, float]
    seed: int
    beton: bool
    max_side: int | None
    targets: TargetPlan
    per_class_min: int
    without: str | None
    """id of the selection whose samples are left out."""
    revision: Revision | None
    distill: tuple[Fraction, str] | None
    """Share of the kept samples that is distilled, and the score to choose them by or "random"; None distills all."""
    file_sha256: str | None = None
    """sha256 of the file that names the samples, if they were chosen elsewhere."""

    def as_config(self) -> dict[str, Any]:
        """Return the decisions as a header stores them; newer fields only if used, so that existing ids stay valid."""
        targets, revision, distill = self.targets, self.revision, self.distill
        # The full label of view 0 was the only choice before there were more views.
        is_plain = targets.views == 0 or (targets.views, targets.policy, targets.top_k) == (1, "single", None)
        extras = {
            "per_class_min": self.per_class_min or None,
            "without": self.without,
            "eta": None if revision is None else revision.eta,
            "revise_scope": None if revision is None else revision.scope,
            "distill_fraction": None if distill is None else str(distill[0]),
            "distill_by": None if distill is None else distill[1],
            "file_sha256": self.file_sha256,
        }
        return {
            "command": self.command,
            "parent": self.parent,
            "keep": str(self.keep),
            "selector": self.selector,
            "parameters": dict(self.parameters),
            "score": self.score,
            "quota": self.quota,
            "labels": self.labels,
            "preset": self.preset,
            "loss": dict(self.loss),
            "seed": self.seed,
            "beton": self.beton,
            "max_side": self.max_side,
            **({} if is_plain else {"views": targets.views, "policy": targets.policy, "top_k": targets.top_k}),
            **{name: value for name, value in extras.items() if value is not None},
        }
