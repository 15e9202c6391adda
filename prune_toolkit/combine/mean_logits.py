"""Compute the logits of an ensemble from those of its members: two kinds of mean, each a function on arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.soft_labels import row_blocks

Floats = NDArray[np.float64]


def mean_logits(logits_MnC: Sequence[Floats]) -> Floats:
    """Mean over M teachers of logits (n, C): the geometric mean of their probabilities, at every temperature."""
    total_nC = np.zeros_like(logits_MnC[0])
    for logits_nC in logits_MnC:
        total_nC += logits_nC
    return total_nC / len(logits_MnC)


def log_mean_probabilities(logits_MnC: Sequence[Floats]) -> Floats:
    """Log of the mean over M teachers of softmax(logits (n, C)), at T = 1; finite wherever the logits are."""
    log_p_MnC = np.stack([_log_softmax(logits_nC) for logits_nC in logits_MnC])
    top_nC = log_p_MnC.max(axis=0)
    log_mean_nC: Floats = top_nC + np.log(np.exp(log_p_MnC - top_nC).mean(axis=0))
    return log_mean_nC


AVERAGES: dict[str, Callable[[Sequence[Floats]], Floats]] = {
    "logits": mean_logits,
    "probabilities": log_mean_probabilities,
}


def average(kind: str, logits_MnC: Sequence[NDArray[np.float16]], keys_n: Sequence[str]) -> NDArray[np.float16]:
    """Compute the logits (n, C) of an ensemble of M teachers, in float64; `keys_n` are the keys of the samples.

    Raises InputError naming the first sample with a logit that does not fit float16.
    """
    merged_nC: NDArray[np.float16] = np.empty_like(logits_MnC[0])
    for block in row_blocks(len(merged_nC), merged_nC.shape[1]):
        with np.errstate(over="ignore"):
            merged_nC[block] = AVERAGES[kind]([logits_nC[block].astype(np.float64) for logits_nC in logits_MnC])
    check_logits(
        merged_nC,
        keys_n,
        where="the average",
        what="does not fit float16",
        hint="the teachers' logits are too far apart: check whether one of the checkpoints is damaged",
    )
    return merged_nC


def check_logits(
    logits_nC: NDArray[np.floating[Any]], keys_n: Sequence[str], *, where: str, what: str, hint: str
) -> None:
    """Raise InputError for the first sample with a logit that is inf or nan.

    The message names the place (`where`), the key and the logit, and says `what` is wrong.
    """
    finite_nC = np.isfinite(logits_nC)
    if finite_nC.all():
        return
    row = int(np.argmin(finite_nC.all(axis=1)))
    column = int(np.argmin(finite_nC[row]))
    raise InputError(f"{where}: sample {keys_n[row]}: logit {column} {what}", hint=hint)


def _log_softmax(logits_nC: Floats) -> Floats:
    gap_nC = logits_nC - logits_nC.max(axis=1, keepdims=True)
    log_p_nC: Floats = gap_nC - np.log(np.exp(gap_nC).sum(axis=1, keepdims=True))
    return log_p_nC
