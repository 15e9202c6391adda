"""The K largest logits of others as top-k labels of ours, which also say what all other classes have.

A label of ours holds the log-sum-exp of the other classes at several temperatures, and the mean and deviation of all
logits. A file with K values per row holds their sum at temperature 1 at best. It is taken to be spread evenly, as our
own labels are spread when they are read.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.top_k import MAX_CLASSES, TEMPERATURES, TopK
from prune_toolkit.imports.outputs_kind import IMPOSSIBLE_GAP, SUM_TOLERANCE
from prune_toolkit.scoring.logit_scores import check_float16

_ABOVE_SMALLEST = 0.05
"""By so much a share may exceed the smallest stored logit through rounding."""


def total_of(
    logit_nK: NDArray[np.float64], total_n: NDArray[np.float64] | None, rest: float | None, *, may_be_whole: bool
) -> NDArray[np.float64]:
    """Return the log-sum-exp of all C logits (n,) in these rows.

    may_be_whole: these are logs of probabilities, so it is 0, unless all rows add up to 1 without the other classes.
    rest: the probability of these, where the file does not say it. Raises UsageError if it is missing, or said twice.
    """
    with np.errstate(invalid="ignore"):
        kept_n = np.logaddexp.reduce(logit_nK, axis=1)
    if total_n is None and may_be_whole and (np.abs(kept_n) > SUM_TOLERANCE).any():
        total_n = np.zeros(len(kept_n))
    if total_n is not None and rest is not None:
        raise UsageError(f"--rest {rest:g}: the file says it itself, by its log-sum-exps or by sums below 1")
    if total_n is not None:
        return total_n
    if rest is None:
        why = "probabilities that add up to 1" if may_be_whole else "logits without the log-sum-exp of all classes"
        raise UsageError(
            f"the stored values are {why}: they do not say how probable the other classes are",
            hint="--rest P: all these together have probability P, such as 0.01, or 0; of logits --lse NAME says it",
        )
    return np.asarray(kept_n - np.log1p(-rest))


def top_k_of(
    class_nK: NDArray[np.int64],
    logit_nK: NDArray[np.float64],
    total_n: NDArray[np.float64],
    label_n: NDArray[np.integer[Any]],
    class_count: int,
    keys_n: Any,
    *,
    is_told: bool = False,
) -> TopK:
    """Return the labels of n rows: classes and logits (n, K) in any order, log-sum-exps of all C logits (n,).

    The other classes share what is left evenly, each at most as much as the smallest stored one. Raises InputError if
    the totals leave more than that, unless the rest `is_told` by the user, for a class that is twice in a row and for
    logits that do not fit float16; MismatchError for a number of classes that cannot be stored.
    """
    _check_classes(class_nK, class_count, keys_n)
    check_float16(np.column_stack([logit_nK, total_n]), keys_n, hint="check what the values are: --values")
    order_nK = np.lexsort((class_nK, -logit_nK.astype(np.float16).astype(np.float64)), axis=1)
    class_nK = np.take_along_axis(class_nK, order_nK, axis=1)
    stored_nK = np.take_along_axis(logit_nK, order_nK, axis=1).astype(np.float16)
    z_nK, k = stored_nK.astype(np.float64), class_nK.shape[1]
    others = class_count - k
    share_n = _even_share(logit_nK, total_n, others)
    left_n = -np.expm1(np.logaddexp.reduce(logit_nK, axis=1) - total_n)
    too_much_n = (share_n > z_nK[:, -1] + _ABOVE_SMALLEST) & (left_n > SUM_TOLERANCE) & (not is_told)
    if too_much_n.any():
        row = int(np.argmax(too_much_n))
        raise InputError(
            f"sample {keys_n[row]}: {left_n[row]:.3g} is left for {others:,} classes, more for each than the smallest "
            f"of the {k} stored has",
            hint="these are not the largest values, or not what --values says, or not at temperature 1",
        )
    share_n = np.clip(share_n, z_nK[:, 0] - IMPOSSIBLE_GAP, z_nK[:, -1])
    mean_n = (z_nK.sum(axis=1) + others * share_n) / class_count
    squares_n = ((z_nK - mean_n[:, None]) ** 2).sum(axis=1) + others * (share_n - mean_n) ** 2
    is_label_nK = class_nK == label_n[:, None]
    label_logit_n = np.where(is_label_nK.any(axis=1), (z_nK * is_label_nK).sum(axis=1), share_n)
    return TopK(
        class_count=class_count,
        class_nK=class_nK.astype(np.uint16),
        logit_nK=stored_nK,
        tail_n4=(np.log(others) + share_n[:, None] / np.array(TEMPERATURES)).astype(np.float32),
        label_logit_n=label_logit_n.astype(np.float16),
        mean_n=mean_n.astype(np.float32),
        std_n=np.sqrt(squares_n / (class_count - 1)).astype(np.float32),
    )


def _even_share(logit_nK: NDArray[np.float64], total_n: NDArray[np.float64], others: int) -> NDArray[np.float64]:
    """Return the logit (n,) of each other class, log((e^total - sum of e^logit) / others); -inf: nothing is left."""
    kept_n = np.logaddexp.reduce(logit_nK, axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(kept_n + np.log(np.maximum(np.expm1(total_n - kept_n), 0)) - np.log(others))


def _check_classes(class_nK: NDArray[np.int64], class_count: int, keys_n: Any) -> None:
    k = class_nK.shape[1]
    if not 1 <= k < class_count <= MAX_CLASSES:
        raise MismatchError(
            f"{k} values per row of {class_count:,} classes: top-k labels hold 1 to C - 1 of up to {MAX_CLASSES:,}",
            hint="values of all classes are imported without --ids, as an array (N, C)",
        )
    twice_n = (np.diff(np.sort(class_nK, axis=1), axis=1) == 0).any(axis=1)
    if twice_n.any():
        raise InputError(f"sample {keys_n[int(np.argmax(twice_n))]}: a class is there twice")
