"""Decide which samples to keep and why, before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import note
from manifests.betons.reader import Beton
from manifests.errors import InputError, UsageError
from manifests.format.header import Search, Views
from manifests.images.identity import hash_words, mix64
from manifests.manifest import Manifest
from manifests.manifest import Vectors as Streamed
from manifests.tables.rows import hash_matrix
from prune_toolkit.images.train_beton import beton_bytes
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.find_score import find_score, score_column
from prune_toolkit.selection.held_out import read_held_out
from prune_toolkit.selection.pool import HELD_OUT, REASONS, UNREADABLE, Pool, ScoreColumn, Vectors, share_of_each_class
from prune_toolkit.selection.search_journal import JOURNAL_NAME, FinishedSearch, Journal, SearchJournal
from prune_toolkit.selection.select_config import RANDOM, Decisions, SelectConfig
from prune_toolkit.selection.selectors import choose
from prune_toolkit.selection.targets import TargetPlan
from prune_toolkit.selection.what_is_lost import classes_line, copies_lines, quota_line
from prune_toolkit.selection.without_suspects import LeftOut, suspects_left_out
from prune_toolkit.suspecting.copies import first_of_content
from prune_toolkit.work.part_work import finished
from prune_toolkit.work.unfinished import check_unfinished

_DISTILL_STREAM = 0x5E7112
SHRINKS_NOTHING = "--max-side has no effect here: images of a beton are copied as they are"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The samples to cut and how to cut them, before anything is written."""

    parent: Manifest
    resolved: dict[str, Any]
    """The configuration for the header: written, never read back."""
    max_side: int | None
    """Longer side in px to which larger images are shrunk."""
    targets: TargetPlan
    samples: pa.Table
    """Of every sample what is still needed: with a beton to cut all columns, else no keys and sizes of images."""
    pool_N: NDArray[np.bool_]
    """Samples to choose from: the readable ones except those held out."""
    keep_N: NDArray[np.bool_]
    reason_N: NDArray[np.object_]
    distilled_N: NDArray[np.bool_]
    """Samples with kd_weight 1: all, unless only a share of the kept ones is distilled."""
    distill: dict[str, Any] | None = None
    """fraction, by and count of the distilled samples; None if all are distilled."""

    @property
    def count(self) -> int:
        """Number of samples kept."""
        return int(self.keep_N.sum())

    @property
    def keep_got(self) -> float:
        """Kept share of the samples to choose from."""
        return self.count / int(self.pool_N.sum())

    def per_class(self) -> list[dict[str, Any]]:
        """Count the samples to choose from, the kept and, unless all are, the distilled ones, per class."""
        counted = {"samples": self.pool_N, "kept": self.keep_N}
        if self.distill is not None:
            counted["distilled"] = self.keep_N & self.distilled_N
        label_N = self.samples.column("label").to_numpy()
        classes = len(self.parent.class_names)
        counts = {name: np.bincount(label_N[rows_N], minlength=classes) for name, rows_N in counted.items()}
        return [
            {"class": class_name, **{name: int(count_C[c]) for name, count_C in counts.items()}}
            for c, class_name in enumerate(self.parent.class_names)
        ]

    def beton_bytes(self, beton: Beton | None) -> int:
        """Estimate the size of train.beton in bytes."""
        return beton_bytes(self.samples.filter(pa.array(self.keep_N)), beton, self.targets.mean_shape)


@dataclass(frozen=True, kw_only=True)
class SelectionPlan(Plan):
    """A decided selection, before anything is written."""

    decisions: Decisions
    keep: Keep
    suspects: LeftOut | None = None
    """The suspects that were left out; None if that was not asked for."""
    found: dict[str, str] = field(default_factory=dict)
    """Parameters that the selector determined itself."""
    search: Search | None = None
    """What it tried to determine them."""
    journal: Journal | None = None
    """Where the search was kept, until the selection is written."""
    chosen_by: frozenset[str] = frozenset()
    """Tables that were read to choose: sets of scores, features, logits."""

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the selector; those it determined itself replace the requested ones."""
        return {**self.decisions.parameters, **self.found}

    @property
    def held_out(self) -> int:
        """Number of readable samples that are held out by another selection."""
        left_out = 0 if self.suspects is None else int(self.suspects.mask_N.sum())
        return int(self.samples.column("problem").null_count - self.pool_N.sum()) - left_out

    def losses(self) -> list[str]:
        """Return one line for each thing that is lost without being asked for: samples, classes, copies."""
        label_N, classes = self.samples.column("label").to_numpy(), len(self.parent.class_names)
        size_C = np.bincount(label_N[self.pool_N], minlength=classes)
        kept_C = np.bincount(label_N[self.keep_N], minlength=classes)
        dropped_N = self.samples.column("problem").is_null().to_numpy(zero_copy_only=False) & ~self.keep_N
        if self.suspects is not None:
            dropped_N &= ~self.suspects.mask_N
        first_N = first_of_content(hash_matrix(self.samples.column("content_hash")))
        lines = [
            quota_line(self.decisions.quota, self.keep, size_C),
            classes_line(self.parent.class_names, size_C, kept_C),
            *copies_lines(self.keep_N, dropped_N, first_N),
        ]
        return [line for line in lines if line is not None]


def plan_selection(config: SelectConfig, parent: Manifest, *, keep_search: bool = False) -> SelectionPlan:
    """Decide which samples to keep; raises UsageError if the manifest lacks what the selector needs.

    keep_search: a search of minutes is kept in the output folder step by step, and continued from there.
    """
    if parent.kind != "scores":
        raise UsageError(
            f"{parent.where} is of kind {parent.kind}: selecting needs a scored manifest",
            hint="make one: prune score --data DATA --teacher TEACHER",
        )
    config.check_out(parent)
    decisions = config.decide(parent)
    samples = parent.samples(_columns(config), check_all=True)
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    if not readable_N.any():
        raise InputError(f"{parent.where} has no readable samples to select from")
    held_out_N, suspects = np.zeros(len(samples), np.bool_), None
    if decisions.without is not None:
        held_out_N = decisions.without.selection().column("keep").to_numpy(zero_copy_only=False)
    pool_N = readable_N & ~held_out_N
    if not pool_N.any():
        raise UsageError(f"--without {config.without} leaves no samples to select from", hint="leave fewer out")
    if config.without_suspects:
        val = None if config.val is None else config.val.open()
        suspects = suspects_left_out(
            parent, samples, held_out_N, val, secret=config.check.secret, workers=config.workers
        )
        pool_N = pool_N & ~suspects.mask_N
        if not pool_N.any():
            raise UsageError("--without-suspects leaves no samples to select from", hint="see prune suspects")
    looked_at: set[str] = set()
    pool, journal = _pool(config, parent, samples, pool_N, decisions.score, looked_at), None
    if decisions.held_out is not None:
        by_features = config.method.needs_held_out(config.method.resolve(config.parameters))
        held_out = read_held_out(decisions.held_out, parent, features=by_features)
        if keep_search and by_features:
            journal = _journal(config, config.resolved(parent, decisions))
        pool = replace(pool, held_out=replace(held_out, journal=journal))
    choice = choose(
        decisions.selector,
        pool,
        keep=config.keep.fraction,
        quota=decisions.quota,
        seed=config.seed,
        parameters=config.parameters,
        per_class_min=config.per_class_min,
    )
    keep_N = np.zeros(len(samples), np.bool_)
    keep_N[pool_N] = choice.keep_N
    reason_N = np.full(len(samples), REASONS[HELD_OUT], object)
    reason_N[~readable_N] = REASONS[UNREADABLE]
    if suspects is not None:
        reason_N[suspects.mask_N] = suspects.reason_N[suspects.mask_N]
    reason_N[pool_N] = np.array(choice.reasons, object)[choice.reason_N]
    if decisions.max_side is None and config.max_side is not None and config.beton:
        note(SHRINKS_NOTHING)
    if not config.judges_copy and decisions.max_side is not None:
        kept = samples.select(["width", "height"]).filter(pa.array(keep_N))
        check_same_pixels(decisions.max_side, decisions.targets, kept, parent.header.views)
    distilled_N, distill = np.ones(len(samples), np.bool_), None
    if decisions.distill is not None:
        fraction, by = decisions.distill
        rest, column = pool.take(choice.keep_N), None
        if by != RANDOM:
            column = score_column(parent, by, np.asarray(rest.sample_id_N, np.int64))
            looked_at.add(find_score(parent, by).set)
        distilled_N[keep_N] = distilled(rest, column, fraction, config.seed)
        distill = {"fraction": str(fraction), "by": by, "count": int((keep_N & distilled_N).sum())}
    return SelectionPlan(
        parent=parent,
        decisions=decisions,
        keep=config.keep,
        suspects=suspects,
        resolved=config.resolved(parent, decisions)
        | ({} if suspects is None else {"without_suspects": suspects.resolved()}),
        max_side=decisions.max_side,
        targets=decisions.targets,
        samples=samples,
        pool_N=pool_N,
        keep_N=keep_N,
        reason_N=reason_N,
        distilled_N=distilled_N,
        distill=distill,
        found=dict(choice.found),
        search=choice.search,
        journal=journal,
        chosen_by=frozenset(looked_at),
    )


def _journal(config: SelectConfig, resolved: Mapping[str, Any]) -> Journal:
    """Return where to keep a search; of a finished selection of the same kind, its own.

    Raises UsageError if something else is in the output folder: before a search of minutes, not after it.
    """
    done = finished(config.out, resolved)
    if done is not None and done.header.selection is not None and done.header.selection.search is not None:
        return FinishedSearch(done.header.selection.search)
    check_unfinished(config.out)
    return SearchJournal(config.out / JOURNAL_NAME)


def _columns(config: SelectConfig) -> list[str] | None:
    """Return the columns of `samples` that a selection needs; None: all, to find and cut the images."""
    if config.beton:
        return None
    sides = [] if config.max_side is None else ["width", "height"]
    return ["label", "size_bytes", "content_hash", "problem", *sides]


def _pool(
    config: SelectConfig,
    parent: Manifest,
    samples: pa.Table,
    pool_N: NDArray[np.bool_],
    score: str | None,
    looked_at: set[str],
) -> Pool:
    """Return the pool to choose from; add the sets of scores, and features or logits once read, to `looked_at`."""
    ids, classes = np.flatnonzero(pool_N), len(parent.class_names)
    rows = slice(None) if len(ids) == len(pool_N) else pool_N
    column = None if score is None else score_column(parent, score, ids)
    method = config.method
    further = method.further_scores(method.resolve(config.parameters)) if method.further_scores else []
    looked_at |= {find_score(parent, name).set for name in (further if score is None else [score, *further])}

    def vectors(name: str, width: int, stream: Callable[[], Streamed]) -> Vectors | None:
        def read() -> Streamed:
            looked_at.add(name)
            return stream()

        return Vectors(name=name, width=width, stream=read) if parent.has(f"{name}/view-000") else None

    block = parent.header.features
    return Pool(
        sample_id_N=ids,
        label_N=samples.column("label").to_numpy()[rows],
        content_hash_N16=hash_matrix(samples.column("content_hash"))[rows],
        class_count=classes,
        score_N=None if column is None else column.value_N,
        harder="high" if column is None else column.harder,
        scores={name: score_column(parent, name, ids) for name in further},
        features=None if block is None else vectors("features", block.width, parent.features),
        logits=vectors("logits", classes, parent.logits),
    )


def distilled(pool: Pool, column: ScoreColumn | None, fraction: Fraction, seed: int) -> NDArray[np.bool_]:
    """(N,) mask of the kept samples to distill (Set II, kd_weight 1): the easy end of a score, a share of every class.

    The others (Set I, kd_weight 0) are trained on their label alone. Source: Lan et al., arXiv 2404.03693; cutting the
    set by rank, the same share of each class, is ours.

    `pool` holds the kept samples. The easy end of influence is the most helpful. Without a score, samples are drawn at
    random, independently of random selection. Raises UsageError if that is no sample at all, InputError for a score
    that is nan.
    """
    if column is None:
        value_N: NDArray[np.generic] = mix64(_DISTILL_STREAM, seed, *hash_words(pool.content_hash_N16))
    else:
        value_N = column.difficulty_N
        if np.isnan(column.value_N).any():
            first = int(pool.sample_id_N[np.isnan(column.value_N)].min())
            raise InputError(f"the score of sample {first} is nan", hint="use another score: --distill-by margin")
    distilled_N = share_of_each_class(pool, fraction, value_N)
    if not distilled_N.any():
        raise UsageError(
            f"--distill-fraction {fraction} of {len(pool.label_N)} kept samples leaves no samples to distill",
            hint="distill more of them; to distill none, use train-student --loss ce",
        )
    return distilled_N


def check_same_pixels(max_side: int | None, targets: TargetPlan, kept: pa.Table, views: Views | None) -> None:
    """Raise UsageError if `max_side` would combine labels of views with fewer pixels than the teacher saw.

    `kept`: width and height of the images that are cut. `views` records whether the teacher saw them shrunk.
    """
    if max_side is None:
        return
    side_n = np.maximum(kept.column("width"), kept.column("height"))
    if views is not None and views.max_side is not None:
        side_n = np.minimum(side_n, views.max_side)
    large = int((side_n > max_side).sum())
    if not large:
        return
    shrunk = f"--max-side {max_side} shrinks {large:,} images"
    if targets.policy == "replay":
        raise UsageError(
            f"{shrunk}, so the {targets.views} scored views would show other pixels than the teacher labelled",
            hint="leave it out; or shrink before scoring: prune index --beton --max-side; or select --policy single",
        )
    note(f"{shrunk}; the teacher saw them at full size")
