"""Moderate Coreset: the middle of the distances from the class centre."""

from prune_toolkit.selection.pool import Choice, Groups, Pool, keep_ranks
from prune_toolkit.selection.selector import Values, selector


@selector(
    "moderate",
    formula="per class the K_c ranks from (n_c - K_c) // 2 by ||h - median_c||_2, near to far;"
    " the paper's global quantiles [.5 - r/2, .5 + r/2] are quota none",
    source="Moderate Coreset, Xia et al., ICLR 2023",
    score="moderate",
    own_score=True,
)
def moderate(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep the samples whose distance from their class centre is around the median distance."""
    return keep_ranks(pool, groups, (groups.size_G - groups.keep_G) // 2)
