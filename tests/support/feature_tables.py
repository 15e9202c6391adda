"""Tables of features, logits and labels made from arrays, for tests of the scores that read them."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from manifests.format.soft_labels import Logits
from prune_toolkit.scoring import feature_scores
from prune_toolkit.scoring.feature_scores import FeatureRows, FeatureTable
from prune_toolkit.scoring.logit_scores import Integers


def table_of_arrays(
    features_ND: Logits, logits_NC: Logits, label_N: Integers, held_out_N: NDArray[np.bool_]
) -> FeatureTable:
    """Return a table of arrays; `held_out_N` flags its held-out samples."""

    def blocks_of(chosen_N: NDArray[np.int64]) -> Iterator[FeatureRows]:
        for start in range(0, len(chosen_N), feature_scores.BLOCK_ROWS):
            rows = chosen_N[start : start + feature_scores.BLOCK_ROWS]
            yield FeatureRows(features_ND[rows], partial(logits_NC.__getitem__, rows), label_N[rows])

    return FeatureTable(
        label_N=np.asarray(label_N, np.int64),
        class_count=logits_NC.shape[1],
        width=features_ND.shape[1],
        blocks=lambda: blocks_of(np.arange(len(label_N))),
        held_out=lambda: blocks_of(np.flatnonzero(held_out_N)),
        copies=lambda: np.asarray(held_out_N, np.int64),
    )
