"""Label revision in a selection: what the trainer is told, and how many labels that changes.

p~ = b softmax(z/T) + (1 - b) y,   b = eta / (p_max - p_y + 1)

T is the trainer's, so raw logits are stored and the trainer revises them (Lan et al., arXiv 2404.03693).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.format.soft_labels import SoftLabels
from prune_toolkit.quotas.keep import parse_fraction

SCOPES = ("wrong", "all")
REVISE = "revise"
DEFAULT_ETA, DEFAULT_SCOPE = "0.8", "all"
_KEYS = ("eta", "scope", "changed", "wrong")


class Revision(NamedTuple):
    """How labels are revised."""

    eta: float
    scope: str
    """Which of them: wrong or all."""


def parse_eta(text: str) -> float:
    """eta; UsageError unless 0 < eta < 1."""
    eta = parse_fraction(text)
    if eta is None or not 0 < eta < 1:
        raise UsageError(
            f"--eta is {text!r}: it must be above 0 and below 1",
            hint="0.8 leaves the teacher's most likely classes four fifths of a label",
        )
    return float(eta)


def parse_scope(text: str) -> str:
    """Which labels are revised; UsageError for anything but wrong or all."""
    if text not in SCOPES:
        raise UsageError(f"unknown --revise-scope {text!r}", hint=f"known: {', '.join(SCOPES)}")
    return text


def label_parameters(
    inherited: Mapping[str, Any], transform: str, stored: Iterable[tuple[SoftLabels, NDArray[np.integer[Any]]]]
) -> dict[str, Any]:
    """`labels.parameters` of a selection that is labelled anew: what is said of revision is of the new labels.

    `stored` yields the new targets with the labels (n,) of their samples; it is read where labels are revised only.
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
    """Labels that revision changes, counted while they are written."""

    def __init__(self, revision: Revision) -> None:
        self.revision = revision
        self.labels = 0
        self.wrong = 0

    def add(self, targets: list[SoftLabels], label_n: NDArray[np.integer[Any]]) -> None:
        """Take in the stored labels of n samples, one entry a view.

        Wrong is one whose largest logit, the first of equals, is another class's than the label's.
        """
        self.labels += sum(len(target) for target in targets)
        self.wrong += sum(int((target.top1_n != label_n).sum()) for target in targets)

    @property
    def changed(self) -> int:
        """Wrong ones in the scope `wrong`, all of them in the scope `all`."""
        return self.wrong if self.revision.scope == "wrong" else self.labels

    def parameters(self) -> dict[str, Any]:
        """What goes into the header of a selection, for the trainer and for people."""
        return {**self.revision._asdict(), "changed": self.changed, "wrong": self.wrong}
