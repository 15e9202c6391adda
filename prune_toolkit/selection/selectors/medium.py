"""The middle of the difficulties of each class."""

import numpy as np

from prune_toolkit.selection.pool import Choice, Groups, Pool, keep_ranks
from prune_toolkit.selection.selector import Values, selector


@selector(
    "medium",
    formula="per class the K_c ranks from (n_c - K_c) // 2, easy to hard;"
    " quota published: ranks [m - b, m + a), m = n_c // 2, a = K_c // 2, b = K_c - a",
    source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe; code chenyd7/MDSLR)",
    score="loss",
)
def medium(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep the samples around the median difficulty of their class."""
    size_G, keep_G = groups.size_G, groups.keep_G
    if groups.quota == "published":
        # One rank below the centre if n_c and K_c are both odd; a whole class starts at 0.
        return keep_ranks(pool, groups, np.maximum(size_G // 2 - (keep_G - keep_G // 2), 0))
    return keep_ranks(pool, groups, (size_G - keep_G) // 2)
