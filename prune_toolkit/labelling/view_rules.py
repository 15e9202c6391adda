"""Rules that share a number of labels among samples: which views of each to label, from what the teacher said of some.

View 0 of every sample is labelled, and counts. A rule is a pure function with facts attached; the file that defines it
is imported by `prune list` too, so it imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.format.soft_labels import Logits

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the teacher said of the first F views of n samples."""

    logits_nFC: Logits
    label_n: NDArray[np.int64]
    tie_n: NDArray[np.uint64]
    """Decides between samples that are equal otherwise, from their content."""
    temperature: float

    def probabilities(self, view: int) -> NDArray[np.float64]:
        """Return the softmax (n, C) of one view's logits at the temperature."""
        z_nC = self.logits_nFC[:, view].astype(np.float64) / self.temperature
        z_nC -= z_nC.max(axis=1, keepdims=True)
        np.exp(z_nC, out=z_nC)
        z_nC /= z_nC.sum(axis=1, keepdims=True)
        return z_nC


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRule:
    """A rule and the facts needed to use it."""

    name: str
    formula: str
    source: str
    sees_all: bool
    """True if the teacher must see all V views; otherwise the first F are seen, and labelled, and then those chosen."""
    choose: Callable[[Seen, int, int], Flags]
    """(what was seen, V, labels of all n samples together) -> (n, V) flags of the views to label; exactly that many."""


VIEW_RULES: Registry[ViewRule] = Registry("view rule")


def view_rule(
    name: str, *, formula: str, source: str, sees_all: bool
) -> Callable[[Callable[[Seen, int, int], Flags]], Callable[[Seen, int, int], Flags]]:
    """Register a function that chooses views."""

    def register(choose: Callable[[Seen, int, int], Flags]) -> Callable[[Seen, int, int], Flags]:
        VIEW_RULES.add(name, ViewRule(name=name, formula=formula, source=source, sees_all=sees_all, choose=choose))
        return choose

    return register


@view_rule(
    "covariance",
    formula="s_i minimise sum Tr(Sigma_i) / s_i: in proportion to sqrt(Tr(Sigma_i)), from F to V",
    source="error of few labels: HALD, arXiv 2512.15647; allocation: Neyman, J. R. Stat. Soc. 97, 1934",
    sees_all=False,
)
def by_covariance(seen: Seen, views: int, labels: int) -> Flags:
    """Label more views of samples whose views the teacher answers differently: the first s_i views of sample i."""
    counts_n = neyman(
        trace_of_covariance(seen), seen.tie_n, labels - len(seen.tie_n), seen.logits_nFC.shape[1] - 1, views - 1
    )
    return np.arange(views) <= counts_n[:, None]


@view_rule(
    "sure",
    formula="view 0, and the B - 1 other views with the largest p_label",
    source="after FerKD, Shen 2023, arXiv 2312.17473; ours: a number of views in place of a threshold",
    sees_all=True,
)
def by_sureness(seen: Seen, views: int, labels: int) -> Flags:
    """Label the views on which the teacher is surest of the sample's label, equally many of each; first of equals."""
    count, each = len(seen.label_n), labels // max(1, len(seen.label_n))
    sure_nV = np.empty((count, views), np.float64)
    for view in range(views):
        sure_nV[:, view] = seen.probabilities(view)[np.arange(count), seen.label_n]
    sure_nV[:, 0] = np.inf
    chosen_nV = np.zeros((count, views), np.bool_)
    surest_nB = np.argsort(-sure_nV, axis=1, kind="stable")[:, :each]
    np.put_along_axis(chosen_nV, surest_nB, True, axis=1)
    return chosen_nV


def trace_of_covariance(seen: Seen) -> NDArray[np.float64]:
    """Return Tr(Sigma) (n,) of the probabilities of the augmented views that were seen, two or more, unbiased."""
    sum_nC = np.zeros(seen.logits_nFC[:, 0].shape, np.float64)
    views = range(1, seen.logits_nFC.shape[1])
    for view in views:
        sum_nC += seen.probabilities(view)
    mean_nC = sum_nC / len(views)
    trace_n = np.zeros(len(sum_nC))
    for view in views:
        trace_n += np.square(seen.probabilities(view) - mean_nC).sum(axis=1)
    return trace_n / (len(views) - 1)


def neyman(
    trace_n: NDArray[np.float64], tie_n: NDArray[np.uint64], total: int, least: int, most: int
) -> NDArray[np.int64]:
    """Return whole t_n (n,), least <= t <= most and summing to `total`, that minimise sum trace_n / t_n.

    One more view of a sample with t of them lowers the sum by trace / (t (t + 1)), less with each view: so the largest
    of these steps, taken together, are the minimum. Equal steps go to samples with fewer views, then by `tie_n`.
    Source: Neyman 1934; integers: greedy for a separable convex sum, Gross 1956.
    """
    count = len(trace_n)
    assert count * least <= total <= count * most
    taken = np.arange(least, most, dtype=np.float64)
    gain_nT = trace_n[:, None] / (taken * (taken + 1))
    before_nT, tie_nT = np.broadcast_to(taken, gain_nT.shape), np.broadcast_to(tie_n[:, None], gain_nT.shape)
    order = np.lexsort((tie_nT.ravel(), before_nT.ravel(), -gain_nT.ravel()))[: total - count * least]
    extra_n = np.bincount(order // max(1, len(taken)), minlength=count)
    return np.asarray(least + extra_n, np.int64)
