"""Turn the logits of several views into stored targets: one per view, their mean, or view 0 alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.betons.labelled_views import bits_of_views
from manifests.errors import InputError, UsageError
from manifests.format.header import Codec, Labels, Policy, ViewBudget, Views
from manifests.format.last_layer import FeatureLabels, LastLayer, mean_features
from manifests.format.parts import part_count, part_path, read_part, soft_labels_of, soft_labels_table, write_part
from manifests.format.soft_labels import FullLogits
from manifests.format.stored_form import StoredForm, encoded
from manifests.format.top_k import SoftLabels, Words, check_k, keep_largest
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.scoring.logit_scores import Integers, check_finite
from prune_toolkit.scoring.view_flags import check_view_count
from prune_toolkit.selection.labels import LabelTransform
from prune_toolkit.selection.soften import PARAMETER, SOFTEN

POLICIES: tuple[Policy, ...] = get_args(Policy)
Ids = NDArray[np.int64]
SCOPES = ("wrong", "all")
REVISE = "revise"
DEFAULT_ETA, DEFAULT_SCOPE = "0.8", "all"
NO_LABELS = "none"
"""Name of the labels of a selection without stored targets: students learn from the classes alone."""


class Revision(NamedTuple):
    """Parameters of label revision: p~ = b softmax(z/T) + (1 - b) y, b = eta / (p_max - p_y + 1).

    The trainer sets T, so raw logits are stored and the trainer revises them (Lan et al., arXiv 2404.03693).
    """

    eta: float
    scope: str
    """The labels to revise: wrong or all."""

    @classmethod
    def parse(cls, eta: str, scope: str) -> "Revision":
        """Parse the options; raises UsageError unless 0 < eta < 1 and the scope is wrong or all."""
        value = parse_fraction(eta)
        if value is None or not 0 < value < 1:
            raise UsageError(
                f"--eta is {eta!r}: it must be above 0 and below 1",
                hint="0.8 leaves four fifths of a label to the teacher's most likely classes",
            )
        if scope not in SCOPES:
            raise UsageError(f"unknown --revise-scope {scope!r}", hint=f"known: {', '.join(SCOPES)}")
        return cls(float(value), scope)


@dataclass(frozen=True, kw_only=True)
class TargetPlan:
    """The targets to store from the labels of some views."""

    policy: Policy
    views: int
    """Number of labelled views, including the evaluation view; 0 if no targets are stored."""
    top_k: int | None
    class_count: int
    codec: Codec | None = None
    """How the logits of a target are stored; None for float16."""
    layer: LastLayer | None = field(default=None, compare=False, repr=False)
    """The teacher's last layer, with the codec `features`."""
    each: float | None = None
    """Targets per sample on average, if samples have targets of different views; None if all have those of all."""

    @classmethod
    def resolve(
        cls, policy: str | None, views: int, top_k: int | None, class_count: int, codec: Codec | None = None
    ) -> "TargetPlan":
        """Make a plan; policy None means replay, or single with one view. Raises UsageError for invalid values."""
        check_view_count(views)
        if top_k is not None:
            check_k(top_k, class_count)
        for known in POLICIES:
            if known == (policy or ("single" if views == 1 else "replay")):
                return cls(policy=known, views=views, top_k=top_k, class_count=class_count, codec=codec)
        raise UsageError(f"unknown policy {policy!r}", hint=f"known: {', '.join(POLICIES)}")

    @classmethod
    def nothing(cls, class_count: int) -> "TargetPlan":
        """Return a plan without targets."""
        return cls(policy="single", views=0, top_k=None, class_count=class_count)

    @property
    def read_views(self) -> int:
        """Number of views whose logits are needed."""
        return min(1, self.views) if self.policy == "single" else self.views

    @property
    def tables(self) -> list[str]:
        """Tables of the manifest, one per stored target."""
        stored = self.views if self.policy == "replay" else min(1, self.views)
        return [f"targets/view-{view:03d}" for view in range(stored)]

    @property
    def shape(self) -> tuple[int, int] | None:
        """Shape of a target in a beton: (V, C), or (V, words) for codes or the K largest; None without targets.

        V is the largest, where samples have targets of different views.
        """
        return (len(self.tables), self.form.words) if self.views else None

    @property
    def is_ragged(self) -> bool:
        """True if each table holds only the samples that have a target of its view."""
        return self.each is not None

    @property
    def mean_shape(self) -> tuple[float, int]:
        """Targets per sample on average, and the words of each; (0, 0) without targets."""
        views, words = self.shape or (0, 0)
        return (views if self.each is None else self.each, words)

    @property
    def form(self) -> StoredForm:
        """The form of a target."""
        width = None if self.layer is None else self.layer.width
        return StoredForm(
            class_count=self.class_count, top_k=self.top_k, codec=self.codec, width=width, layer=self.layer
        )


def targets_of(
    views: Sequence[SoftLabels],
    label_n: Integers,
    sample_id_n: Ids,
    transform: LabelTransform,
    policy: Policy,
    top_k: int | None,
    codec: Codec | None = None,
) -> list[SoftLabels]:
    """Return the targets of n samples from their logits in V views: one entry per stored target.

    replay: V of them; mean: the mean over all V views of the transformed logits, rounded once; single: view 0's. The
    K largest are taken, or all are encoded, last. Raises UsageError for targets that stored K largest logits cannot
    give: a mean, or another K; InputError naming a sample without a target.
    """
    if (stored := views[0].top_k) is not None:
        check_stored_top_k(stored, policy, len(views), top_k)
    if policy == "mean" and len(views) > 1:
        targets = [_mean(views, label_n, sample_id_n, transform)]
    else:
        used = views if policy == "replay" else views[:1]
        targets = [transform.apply(view, label_n, sample_id_n) for view in used]
    return [encoded(keep_largest(target, label_n, top_k), codec) for target in targets]


def _mean(views: Sequence[SoftLabels], label_n: Integers, sample_id_n: Ids, transform: LabelTransform) -> SoftLabels:
    if isinstance(views[0], FeatureLabels):
        applied = [transform.apply(view, label_n, sample_id_n) for view in views]
        return mean_features([view for view in applied if isinstance(view, FeatureLabels)])
    sum_nC = transform.exact(views[0].logits(), label_n, sample_id_n)
    for view in views[1:]:
        sum_nC += transform.exact(view.logits(), label_n, sample_id_n)
    with np.errstate(over="ignore"):
        mean_nC: NDArray[np.float16] = (sum_nC / len(views)).astype(np.float16)
    check_finite(mean_nC, sample_id_n)
    return transform.of_mean(FullLogits(mean_nC), label_n, sample_id_n)


def check_stored_top_k(stored: int, policy: Policy, views: int, asked: int | None) -> None:
    """Raise UsageError for targets that cannot be made from only the `stored` largest logits of each view."""
    if asked not in (None, stored):
        raise UsageError(
            f"--top-k {asked}: only the {stored} largest logits of each view are stored",
            hint=f"leave out --top-k, or label the kept samples again: prune label --top-k {asked}",
        )
    if policy == "mean" and views > 1:
        raise UsageError(
            f"--policy mean: views with only the {stored} largest logits stored cannot be averaged",
            hint="select with --policy single, then label the kept samples again: prune label --policy mean",
        )


def carried_views(views: Views, count: int) -> Views:
    """Return the block of the first `count` of these views; the recipe stays, because it also draws fresh views."""
    return views.model_copy(update={"count": count})


def write_targets(out: Path, plan: TargetPlan, part: int, ids: Ids, targets: list[SoftLabels], digest: str) -> None:
    """Write one part of every target table."""
    for table, labels in zip(plan.tables, targets, strict=True):
        write_part(out / part_path(table, part), soft_labels_table(ids, "target", labels), digest)


def beton_targets(out: Path, plan: TargetPlan, count: int) -> Iterator[Words]:
    """Yield the target of each sample as a beton stores it, in order: `plan.shape` float16, or words of its own views.

    One part of the manifest's `count` samples, in all views, is in memory at a time. Raises InputError for a part that
    does not hold the planned form of labels.
    """
    for part in range(part_count(count)):
        views, ids = [], []
        for table in plan.tables:
            path = out / part_path(table, part)
            id_n, labels = soft_labels_of(read_part(path), "target", plan.class_count, plan.layer)
            if not plan.form.holds(labels):
                found, said = labels.top_k or labels.class_count, plan.top_k or plan.class_count
                codec = "" if plan.codec is None else f" as {plan.codec}"
                raise InputError(
                    f"{path} holds {found} logits per target, its header says {said}{codec}",
                    hint="the manifest is incomplete or damaged: fetch or make it again",
                )
            views.append(labels.words())
            ids.append(id_n)
        yield from by_sample(ids, views) if plan.is_ragged else np.stack(views, axis=1)


def by_sample(ids: Sequence[Ids], views: Sequence[Words]) -> list[Words]:
    """Return the targets (labels, words) of each sample, in the order of its views, from the samples of each view."""
    all_ids = np.concatenate(ids)
    order = np.argsort(all_ids, kind="stable")
    _, first = np.unique(all_ids[order], return_index=True)
    words_mW: Any = np.concatenate(views)[order]
    return [words_mW[start:stop] for start, stop in pairwise([*first.tolist(), len(words_mW)])]


def labelled_views(out: Path, plan: TargetPlan, count: int) -> NDArray[np.uint64] | None:
    """Return which views of each of `count` samples have a target, (N,) by sample_id; None if kept ones have all."""
    if not plan.is_ragged:
        return None
    parts = [
        [read_part(out / part_path(table, n), columns=["sample_id"]) for n in range(part_count(count))]
        for table in plan.tables
    ]
    return bits_of_views([pa.concat_tables(each).column("sample_id").to_numpy() for each in parts], count)


def counted(budget: ViewBudget, labels_n: NDArray[np.int64]) -> ViewBudget:
    """Return the header block of a budget for samples that have (n,) labels each."""
    found = {"labels": int(labels_n.sum()), "least": int(labels_n.min()), "most": int(labels_n.max())}
    return budget.model_copy(update=found)


def labels_block(
    out: Path,
    plan: TargetPlan,
    label_N: Integers,
    *,
    transform: str,
    class_std_C: NDArray[np.float64] | None,
    parameters: Mapping[str, Any],
) -> Labels:
    """Return the header block of the targets that were written; see `label_parameters`."""
    return Labels(
        transform=transform,
        parameters=label_parameters(out, plan, label_N, transform=transform, parameters=parameters),
        views=len(plan.tables),
        policy=plan.policy,
        top_k=plan.top_k,
        codec=plan.codec,
        feature_width=plan.form.width,
        class_std=None if class_std_C is None else class_std_C.tolist(),
    )


def label_parameters(
    out: Path, plan: TargetPlan, label_N: Integers, *, transform: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `labels.parameters` with revision counted over the targets that were written.

    A label is wrong if its largest logit, the first of equals, is not that of the sample's class. Revision changes the
    wrong labels, or all.
    """
    others = {name: value for name, value in parameters.items() if name not in ("eta", "scope", "changed", "wrong")}
    if transform != SOFTEN:
        others.pop(PARAMETER, None)
    if transform != REVISE:
        return others
    count = wrong = 0
    for part in range(part_count(len(label_N))):
        for table in plan.tables:
            ids, labels = soft_labels_of(
                read_part(out / part_path(table, part)), "target", plan.class_count, plan.layer
            )
            count += len(labels)
            wrong += int((labels.top1_n != label_N[ids]).sum())
    scope = parameters.get("scope", DEFAULT_SCOPE)
    return {
        **others,
        "eta": parameters.get("eta", float(DEFAULT_ETA)),
        "scope": scope,
        "changed": wrong if scope == "wrong" else count,
        "wrong": wrong,
    }
