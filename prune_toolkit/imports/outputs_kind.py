"""What the numbers of a teacher are, logits, log-probabilities or probabilities, and logits of them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError

PROBABILITIES, LOG_PROBABILITIES, LOGITS = "probabilities", "log-probabilities", "logits"
KINDS = (LOGITS, LOG_PROBABILITIES, PROBABILITIES)
SUM_TOLERANCE = 1e-3
"""Probabilities in float16 add up to 1 as closely as this."""
IMPOSSIBLE_GAP = 1000.0
"""A class so far below the largest logit has no probability at any temperature up to 50."""
_MUST_BE = {
    PROBABILITIES: "from 0 to 1, and those of a row add up to at most 1",
    LOG_PROBABILITIES: "at most 0, and their exponentials in a row add up to at most 1",
}


def find_kind(value_nK: NDArray[Any], file: Path, *, whole: bool) -> str:
    """Return what the values of rows are; whole: those of all classes, else of the largest.

    Rows within [0, 1] that add up to 1 are probabilities; of the largest values, those whose exponentials add up to at
    most 1 are log-probabilities; what can be neither is logits. Raises UsageError for rows from 0 to 1 that add up to
    less, which may be either. Log-probabilities of all classes are logits as they are.
    """
    value_nK = np.asarray(value_nK, np.float64)
    if len(value_nK) and _fits(value_nK, PROBABILITIES):
        if (value_nK.sum(axis=-1) > 1 - SUM_TOLERANCE).all():
            return PROBABILITIES
        if not whole:
            raise UsageError(
                f"{file}: rows from 0 to 1 that add up to less than 1 may be the largest probabilities, or logits",
                hint="say which: --values probabilities or --values logits",
            )
    return LOG_PROBABILITIES if not whole and _fits(value_nK, LOG_PROBABILITIES) else LOGITS


def logits_of(value_nK: NDArray[Any], kind: str, where: str) -> NDArray[np.float64]:
    """Return logits (..., K) of values of a kind; a probability of 0 becomes IMPOSSIBLE_GAP below the largest.

    Raises InputError for values that are not of this kind.
    """
    value_nK = np.asarray(value_nK, np.float64)
    if kind == LOGITS:
        return value_nK
    # nan is told with its sample later.
    if not _fits(np.nan_to_num(value_nK, nan=0.0, posinf=np.inf, neginf=-np.inf), kind):
        raise InputError(f"{where}: not all rows hold {kind}: these are {_MUST_BE[kind]}")
    with np.errstate(divide="ignore"):
        logit_nK = np.log(value_nK) if kind == PROBABILITIES else value_nK
    return np.asarray(np.maximum(logit_nK, logit_nK.max(axis=-1, keepdims=True) - IMPOSSIBLE_GAP))


def _fits(value_nK: NDArray[np.float64], kind: str) -> bool:
    if kind == PROBABILITIES:
        return bool((value_nK >= 0).all() and (value_nK.sum(axis=-1) < 1 + SUM_TOLERANCE).all())
    # Values above 0 are cut off at 1, which is beyond the sum already.
    return bool((np.exp(np.minimum(value_nK, 1)).sum(axis=-1) < 1 + SUM_TOLERANCE).all())
