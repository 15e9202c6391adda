"""What selectors by features share: the features of one group after the other, in a canonical order of samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from prune_toolkit.selection.pool import KEPT, NOT_CHOSEN, Choice, Groups, Pool, ranked_rows

ChooseRows = Callable[[NDArray[np.int64], NDArray[np.floating[Any]], int], NDArray[np.int64]]
"""(rows of the pool (n,), their features (n, D), count) -> places (count,) in these rows."""
GRAM_ROWS = 4096
"""Up to this size all products of a group's features are computed at once, 128 MiB; above, one column per choice."""


def choose_by_features(pool: Pool, groups: Groups, what: str, choose_rows: ChooseRows) -> Choice:
    """Keep K_g of each group by a rule that sees its features; a whole group is kept without asking the rule.

    The features of all groups are in memory, in float16. The rows of a group are ordered by content hash, then
    sample_id: sums and ties do not depend on the order in the pool. `what` names the work in the progress.
    """
    assert pool.features is not None
    vector_ND = pool.features.of(pool.sample_id_N)
    row_of_group = np.split(
        ranked_rows(pool, groups.group_N, np.zeros(len(groups.group_N))), np.cumsum(groups.size_G)[:-1]
    )
    keep_N = np.zeros(len(pool.label_N), np.bool_)
    with Progress(int(groups.keep_G.sum()), what, unit="samples") as progress:
        for row_n, count in zip(row_of_group, groups.keep_G.tolist(), strict=True):
            if count == len(row_n):
                keep_N[row_n] = True
            elif count:
                keep_N[row_n[choose_rows(row_n, vector_ND[row_n], count)]] = True
            progress.advance(count)
    return Choice(keep_N=keep_N, reason_N=np.where(keep_N, KEPT, NOT_CHOSEN).astype(np.int8))
