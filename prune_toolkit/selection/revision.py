"""Label revision in a selection: the parameters for the trainer, and the number of labels it changes.

p~ = b softmax(z/T) + (1 - b) y,   b = eta / (p_max - p_y + 1)

The trainer sets T, so raw logits are stored and the trainer revises them (Lan et al., arXiv 2404.03693).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.format.top_k import SoftLabels
from prune_toolkit.quotas.keep import parse_fraction

SCOPES = ("wrong", "all")
REVISE = "revise"
DEFAULT_ETA, DEFAULT_SCOPE = "0.8", "all"
_KEYS = ("eta", "scope", "changed", "wrong")


class Revision(NamedTuple):
    """Parameters of label revision."""

    eta: float
    scope: str
    """The labels to revise: wrong or all."""


def parse_eta(text: str) -> float:
    """Parse eta; raises UsageError unless 0 < eta < 1."""
    eta = parse_fraction(text)
    if eta is None or not 0 < eta < 1:
        raise UsageError(
            f"--eta is {text!r}: it must be above 0 and below 1",
            hint="0.8 leaves four fifths of a label to the teacher's most likely classes",
        )
    return float(eta)


def parse_scope(text: str) -> str:
    """Return the scope of revision; raises UsageError for anything but wrong or all."""
    if text not in SCOPES:
        raise UsageError(f"unknown --revise-scope {text!r}", hint=f"known: {', '.join(SCOPES)}")
    return text


def label_parameters(
    inherited: Mapping[str, Any], transform: str, stored: Iterable[tuple[SoftLabels, NDArray[np.integer[Any]]]]
) -> dict[str, Any]:
    """Return `labels.parameters` of a selection that is labelled again, with revision counted over the new labels.

    `stored` yields the new targets with the labels (n,) of their samples; it is read only if labels are revised.
    """
    others = {name: value for name, value in inherited.items() if name not in _KEYS}
    if transform != REVISE:
        return others
    revision = Revision(inherited.get("eta", float(DEFAULT_ETA)), inherited.get("scope", DEFAULT_SCOPE))
    count = RevisionCount(revision)
    for target, label_n in stored:
        count.add([target], label_n)
    return {**others, **count.parameters()}


class RevisionCount:
    """Count of the labels that revision changes, taken while they are written."""

    def __init__(self, revision: Revision) -> None:
        self.revision = revision
        self.labels = 0
        self.wrong = 0

    def add(self, targets: list[SoftLabels], label_n: NDArray[np.integer[Any]]) -> None:
        """Add the stored labels of n samples, one entry per view.

        A label is wrong if its largest logit, the first of equals, is not that of the sample's class.
        """
        self.labels += sum(len(target) for target in targets)
        self.wrong += sum(int((target.top1_n != label_n).sum()) for target in targets)

    @property
    def changed(self) -> int:
        """Number of wrong labels with scope `wrong`, of all labels with scope `all`."""
        return self.wrong if self.revision.scope == "wrong" else self.labels

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for the header of a selection."""
        return {**self.revision._asdict(), "changed": self.changed, "wrong": self.wrong}
