"""Images and a teacher in, logits and scores out.

The modules named here add scores to the registry: a new file of scores needs its name here and nothing else.
"""

from prune_toolkit.scoring import (
    dual,
    dynamics_scores,
    feature_scores,
    influence,
    influence_flat,
    logit_scores,
    prototypes,
    tdds,
)

__all__ = [
    "dual",
    "dynamics_scores",
    "feature_scores",
    "influence",
    "influence_flat",
    "logit_scores",
    "prototypes",
    "tdds",
]
