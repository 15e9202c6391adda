"""Probabilities in place of logits: how they are recognised, and the logits that they were made of. Torch-free."""

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.header import Probabilities

TOLERANCE, SAID_TOLERANCE = 1e-3, 2e-2
"""How far from 1 a row may add up, where nobody or somebody says that it holds probabilities, which may be rounded."""
FEW_OUTPUTS = 256
"""So many values from 0 to 1 are no logits; a few may be by chance."""
FLOOR = 2.0**-126
"""The smallest normal number of float32 counts in place of 0, whose logarithm is not finite: larger floors would change
what a softmax in float32 says, most of all at high temperatures."""
CEILING = 1 - 2.0**-24
"""The largest number of float32 below 1 counts in place of 1 for sigmoids."""


def probabilities_in(values_nK: NDArray[np.floating], tolerance: float = TOLERANCE) -> Probabilities | None:
    """Return which probabilities rows look like: of a softmax if all add up to 1, else of sigmoids; None for logits."""
    # nan is not within, and is refused with its sample later.
    if values_nK.size == 0 or not ((values_nK >= 0) & (values_nK <= 1)).all():
        return None
    if _adds_up(values_nK, tolerance).all():
        return "softmax"
    return "sigmoid" if values_nK.size >= FEW_OUTPUTS else None


def refuse_probabilities(values_nK: NDArray[np.floating], who: str) -> None:
    """Raise InputError for probabilities: rows within [0, 1] that add up to 1, or sigmoids within [0, 1]."""
    found = probabilities_in(values_nK)
    if found is not None:
        raise InputError(
            f"{who} {'probabilities' if found == 'softmax' else 'values from 0 to 1'}, not logits",
            hint="give --probabilities, which takes their logarithms (of sigmoids, log(p / (1 - p))); or return what "
            "goes into the softmax or sigmoid",
        )


def said_probabilities(values_nK: NDArray[np.floating], who: str) -> Probabilities:
    """Return which probabilities rows hold that somebody says hold some; raises InputError for others."""
    if probabilities_in(values_nK, SAID_TOLERANCE) == "softmax":
        return "softmax"
    refuse_others(values_nK, "sigmoid", who)
    return "sigmoid"


def refuse_others(values_nK: NDArray[np.floating], kind: Probabilities, who: str) -> None:
    """Raise InputError for rows that are no such probabilities; nan passes."""
    known_n = ~np.isnan(values_nK).any(axis=1)
    values_nK = values_nK[known_n]
    if ((values_nK < 0) | (values_nK > 1)).any():
        worst = values_nK.ravel()[np.argmax(np.abs(values_nK - 0.5))]
        raise InputError(f"{who} {worst:.4g}, which is not a probability", hint="leave out --probabilities for logits")
    if kind == "softmax" and not (adds_up_n := _adds_up(values_nK, SAID_TOLERANCE)).all():
        total = values_nK[np.argmin(adds_up_n)].sum()
        raise InputError(
            f"{who} probabilities that add up to {total:.4g}, not to 1 as those of a softmax",
            hint="give the probabilities of all classes; those of sigmoids are told by images that add up to anything",
        )


def _adds_up(values_nK: NDArray[np.floating], tolerance: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(values_nK.sum(axis=1, dtype=np.float64) - 1) < tolerance)


def logits_of(values_nK: NDArray[np.floating], kind: Probabilities) -> NDArray[np.float32]:
    """Return the logits (n, K) whose softmax, or sigmoids, these probabilities are.

    A softmax takes a constant off all logits of a row, which no softmax of them at any temperature sees.
    """
    p_nK = np.clip(values_nK.astype(np.float64), FLOOR, CEILING if kind == "sigmoid" else None)
    return (np.log(p_nK) - (np.log1p(-p_nK) if kind == "sigmoid" else 0)).astype(np.float32)


def telling(kind: Probabilities) -> str:
    """Return what is done with such probabilities, in a few words."""
    if kind == "softmax":
        return f"their logarithms are taken as logits, as softmax(log p) = p, and 0 counts as {FLOOR:.2g}"
    return f"log(p / (1 - p)) of its sigmoids are taken as logits, p from {FLOOR:.2g} to {CEILING:.8f}"
