"""Rules that share a number of labels among samples: which views of each to label, from what the teacher said of some.

View 0 of every sample is labelled, and counts. A rule is a pure function with facts attached; the file that defines it
is imported by `prune list` too, so it imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from manifests.base.registry import Registry
from manifests.format.soft_labels import Logits, row_blocks

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the teacher said of the first F views of n samples."""

    logits_nFC: Logits
    label_n: NDArray[np.int64]
    tie_n: NDArray[np.uint64]
    """Decides between samples that are equal otherwise, from their content."""
    temperature: float

    def probabilities(self, rows: slice, first: int = 1) -> NDArray[np.float64]:
        """Return the softmax (m, F - first, C) of some rows' logits at the temperature, from view `first` on."""
        z_mVC = self.logits_nFC[rows, first:].astype(np.float64) / self.temperature
        z_mVC -= z_mVC.max(axis=2, keepdims=True)
        np.exp(z_mVC, out=z_mVC)
        z_mVC /= z_mVC.sum(axis=2, keepdims=True)
        return z_mVC


Choose = Callable[[Seen, int, int, int], Flags]
"""(what was seen, V, labels of all n samples together, least of each) -> (n, V) flags of the views to label: exactly as
many, view 0 of each among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRule:
    """A rule and the facts needed to use it."""

    name: str
    formula: str
    source: str
    sees_all: bool
    """True if the teacher must see all V views; otherwise the first F are seen, and then those chosen of the others."""
    choose: Choose


VIEW_RULES: Registry[ViewRule] = Registry("view rule")


def view_rule(name: str, *, formula: str, source: str, sees_all: bool) -> Callable[[Choose], Choose]:
    """Register a function that chooses views."""

    def register(choose: Choose) -> Choose:
        VIEW_RULES.add(name, ViewRule(name=name, formula=formula, source=source, sees_all=sees_all, choose=choose))
        return choose

    return register


@view_rule(
    "covariance",
    formula="s_i minimise sum E[Tr(Sigma_i)] / (s_i - 1): nearly in proportion to sqrt(E[Tr(Sigma_i)]), up to V",
    source="error of few labels: HALD, arXiv 2512.15647; allocation: Neyman 1934; expectation: Buhlmann 1967",
    sees_all=False,
)
def by_covariance(seen: Seen, views: int, labels: int, least: int) -> Flags:
    """Label more views of samples whose views the teacher answers differently: the first s_i views of sample i."""
    count = len(seen.label_n)
    counts_n = neyman(expected_traces(*traces(seen)), seen.tie_n, labels - count, least - 1, views - 1)
    return np.arange(views) <= counts_n[:, None]


@view_rule(
    "sure",
    formula="view 0, and the B - 1 other views with the largest p_label",
    source="after FerKD, Shen 2023, arXiv 2312.17473; ours: a number of views in place of a threshold",
    sees_all=True,
)
def by_sureness(seen: Seen, views: int, labels: int, least: int) -> Flags:
    """Label the views on which the teacher is surest of the sample's label, equally many of each; first of equals."""
    count, each = len(seen.label_n), labels // max(1, len(seen.label_n))
    sure_nV = np.empty((count, views), np.float64)
    for block in row_blocks(count, seen.logits_nFC[0].size if count else 1):
        p_mVC = seen.probabilities(block, first=0)
        sure_nV[block] = np.take_along_axis(p_mVC, seen.label_n[block, None, None], axis=2)[:, :, 0]
    sure_nV[:, 0] = np.inf
    chosen_nV = np.zeros((count, views), np.bool_)
    surest_nB = np.argsort(-sure_nV, axis=1, kind="stable")[:, :each]
    np.put_along_axis(chosen_nV, surest_nB, True, axis=1)
    return chosen_nV


def traces(seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Tr(Sigma) and Tr(Sigma)^2, (n,) each, unbiased, of the probabilities of the augmented views seen.

    Half the squared distance of two views is Tr(Sigma) on average: the first is the mean of all pairs, and the second
    that of the products of two pairs without a view in common, which are independent. It takes four views.
    """
    count, first, classes = seen.logits_nFC.shape
    views = first - 1
    trace_n, square_n = np.empty(count), np.empty(count)
    for block in row_blocks(count, views * classes):
        p_mVC = seen.probabilities(block)
        d_mVV = np.zeros((len(p_mVC), views, views))
        for view in range(views - 1):
            far_mV = np.square(p_mVC[:, view, None] - p_mVC[:, view + 1 :]).sum(axis=2) / 2
            d_mVV[:, view, view + 1 :] = d_mVV[:, view + 1 :, view] = far_mV
        sum_m, own_m = d_mVV.sum(axis=(1, 2)) / 2, np.square(d_mVV).sum(axis=(1, 2)) / 2
        # Of all products, without those of pairs that share a view, or are the same pair.
        disjoint_m = np.square(sum_m) - np.square(d_mVV.sum(axis=2)).sum(axis=1) + own_m
        trace_n[block] = sum_m / comb(views, 2)
        square_n[block] = disjoint_m / (comb(views, 2) * comb(views - 2, 2))
    return trace_n, square_n


def expected_traces(trace_n: NDArray[np.float64], square_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what to expect of Tr(Sigma) (n,): the estimates, drawn to their mean by the share that is noise.

    A few views say little of their covariance, and to believe them costs more than equal shares. Source: Buhlmann,
    ASTIN Bulletin 4, 1967: w x_i + (1 - w) mean(x), w = Var(Tr) / Var(x), the best linear estimate.
    """
    if not len(trace_n):
        return trace_n
    mean, variance = float(trace_n.mean()), float(trace_n.var())
    between = max(0.0, float(square_n.mean()) - mean**2)
    weight = min(1.0, between / variance) if variance > 0 else 0.0
    return np.asarray(weight * trace_n + (1 - weight) * mean)


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
