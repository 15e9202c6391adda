"""The parameters of label revision, which the trainer applies.

p~ = b softmax(z/T) + (1 - b) y,   b = eta / (p_max - p_y + 1)

The trainer sets T, so raw logits are stored and the trainer revises them (Lan et al., arXiv 2404.03693).
"""

from typing import NamedTuple

from manifests.errors import UsageError
from prune_toolkit.quotas.keep import parse_fraction

SCOPES = ("wrong", "all")
REVISE = "revise"
DEFAULT_ETA, DEFAULT_SCOPE = "0.8", "all"


class Revision(NamedTuple):
    """Parameters of label revision."""

    eta: float
    scope: str
    """The labels to revise: wrong or all."""

    @classmethod
    def parse(cls, eta: str, scope: str) -> "Revision":
        """Parse the options; raises UsageError unless 0 < eta < 1 and the scope is wrong or all."""
        value = parse_fraction(eta)
        if value is None or not 0 < value < 1:
            raise UsageError(
                f"--eta is {eta!r}: it must be above 0 and below 1",
                hint="0.8 leaves four fifths of a label to the teacher's most likely classes",
            )
        if scope not in SCOPES:
            raise UsageError(f"unknown --revise-scope {scope!r}", hint=f"known: {', '.join(SCOPES)}")
        return cls(float(value), scope)
