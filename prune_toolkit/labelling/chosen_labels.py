"""The labels of views that differ by sample: what is shown to the teacher for a budget, and the targets made of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.format.soft_labels import FullLogits
from manifests.format.stored_form import encoded
from manifests.format.top_k import SoftLabels, keep_largest
from manifests.images.identity import hash_words
from manifests.tables.rows import hash_matrix
from prune_toolkit.images.readers import ImageReader
from prune_toolkit.labelling.feature_labels import feature_targets
from prune_toolkit.labelling.label_config import Labelling
from prune_toolkit.labelling.view_budget import Budget
from prune_toolkit.labelling.view_rules import VIEW_RULES, Flags, Seen
from prune_toolkit.scoring.logit_scores import check_finite
from prune_toolkit.selection.targets import targets_of

Ids = NDArray[np.int64]


class Chosen(NamedTuple):
    """The samples of a part that have a label of some view: their ids, labels, and what they are given."""

    ids: Ids
    labels: SoftLabels


@dataclass(frozen=True, kw_only=True)
class PartLabels:
    """What the teacher said of n samples: the first F views of all, then those that were chosen."""

    ids: Ids
    label_n: NDArray[np.int64]
    first_nFC: NDArray[np.float16]
    first_nFD: NDArray[np.float16]
    labelled_nV: Flags
    more_mC: NDArray[np.float16]
    """Of the labelled views after the first F, sample by sample."""
    more_mD: NDArray[np.float16]

    @property
    def hits(self) -> int:
        """Augmented views, of those seen, whose largest logit is that of the label."""
        seen = self.first_nFC[:, 1:].argmax(axis=2) == self.label_n[:, None]
        row_m, _ = self._more
        return int(seen.sum()) + int((self.more_mC.argmax(axis=1) == self.label_n[row_m]).sum())

    @property
    def _more(self) -> tuple[Ids, Ids]:
        """Rows and views of `more_mC`, (m,) each."""
        return more_views(self.labelled_nV, self.first_nFC.shape[1])

    def views(self) -> Iterator[tuple[Ids, NDArray[np.float16], NDArray[np.float16]]]:
        """Yield, view by view, the rows that are labelled, and their logits (r, C) and features (r, D)."""
        first, (_, view_m) = self.first_nFC.shape[1], self._more
        for view in range(self.labelled_nV.shape[1]):
            rows = np.flatnonzero(self.labelled_nV[:, view])
            if view < first:
                yield rows, self.first_nFC[rows, view], self.first_nFD[rows, view]
            else:
                is_view_m = view_m == view
                yield rows, self.more_mC[is_view_m], self.more_mD[is_view_m]


def more_views(labelled_nV: Flags, first: int) -> tuple[Ids, Ids]:
    """Return rows and views of the labels after the first views, sample by sample."""
    row_m, view_m = np.nonzero(labelled_nV[:, first:])
    return row_m, view_m + first


def label_part(work: Labelling, reader: ImageReader, part: int, budget: Budget, progress: Progress) -> PartLabels:
    """Show the teacher the first views of a part's kept samples, choose, and show it the others that were chosen."""
    ids, rule = work.kept(part), VIEW_RULES[budget.rule]
    label_n, (first_nFC, first_nFD) = work.images.label_N[ids], work.shown(reader, ids, progress)
    if first_nFD.shape[1] < first_nFC.shape[1]:
        first_nFD = np.empty((*first_nFC.shape[:2], 0), np.float16)
    hashes = work.selection.samples(["content_hash"]).column("content_hash").take(ids)
    seen = Seen(
        logits_nFC=first_nFC,
        label_n=label_n,
        tie_n=hash_words(hash_matrix(hashes))[0],
        temperature=budget.temperature,
    )
    labels = budget.share(work.kept_before(part), len(ids))
    labelled_nV = rule.choose(seen, work.config.targets.views, labels, budget.least)
    assert int(labelled_nV.sum()) == labels
    row_m, view_m = more_views(labelled_nV, first_nFC.shape[1])
    more_mC, more_mD = work.shown_chosen(reader, ids[row_m], view_m, progress)
    progress.advance(budget.shown(len(ids), labels) - first_nFC.shape[0] * first_nFC.shape[1] - len(more_mC))
    return PartLabels(
        ids=ids,
        label_n=label_n,
        first_nFC=first_nFC,
        first_nFD=first_nFD,
        labelled_nV=labelled_nV,
        more_mC=more_mC,
        more_mD=more_mD,
    )


def chosen_targets(work: Labelling, part: PartLabels) -> list[Chosen]:
    """Return the targets of each stored table: one per view, or the mean over the labelled views of each sample."""
    plan, transform = work.config.targets, work.transform
    if plan.policy == "mean":
        return [Chosen(part.ids, _means(work, part))]
    found = []
    codec = None if plan.codec == "features" else plan.codec
    for rows, logits_rC, features_rD in part.views():
        ids, label_r = part.ids[rows], part.label_n[rows]
        labels = targets_of([FullLogits(logits_rC)], label_r, ids, transform, "single", plan.top_k, codec)
        if plan.codec == "features":
            labels = feature_targets(labels, features_rD[:, None], label_r, ids, transform, plan)
        found.append(Chosen(ids, labels[0]))
    return found


def _means(work: Labelling, part: PartLabels) -> SoftLabels:
    plan, transform = work.config.targets, work.transform
    sum_nC = np.zeros(part.first_nFC[:, 0].shape, np.float64)
    for rows, logits_rC, _ in part.views():
        sum_nC[rows] += transform.exact(logits_rC, part.label_n[rows], part.ids[rows])
    with np.errstate(over="ignore"):
        mean_nC = (sum_nC / part.labelled_nV.sum(axis=1)[:, None]).astype(np.float16)
    check_finite(mean_nC, part.ids)
    mean = transform.of_mean(FullLogits(mean_nC), part.label_n, part.ids)
    return encoded(keep_largest(mean, part.label_n, plan.top_k), plan.codec)
