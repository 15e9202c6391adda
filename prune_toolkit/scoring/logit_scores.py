"""Scores of a teacher's logits: the difficulty of a sample, each with its formula and the end that is harder.

A logit score is a function of `LogitRows`, which computes the terms that several scores need (softmax) once. All are
computed in float64 from the logits as stored and returned as float32; a row's score depends on that row alone, bit for
bit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.format.soft_labels import Logits, row_blocks
from prune_toolkit.scoring.score import SCORES, Score

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
FLOAT16_MAX = float(np.finfo(np.float16).max)


class LogitRows:
    """A block of samples: logits (n, C), labels (n,) or none, and the softmax terms that scores share, in float64.

    `top_n` is the predicted class (the lowest index among equal logits), `gap_nC` the logits minus the row's
    largest, `exp_nC` = exp(gap), `rest_n` the sum of exp over all classes but the predicted one. So p_top is
    1 / (1 + rest) and 1 - p_top is rest / (1 + rest): nothing overflows for logits up to +-65,504, and
    confident rows keep the differences that subtracting a probability from 1 rounds away.
    """

    def __init__(self, logits_nC: Logits, label_n: Integers | None) -> None:
        self._row_n = np.arange(len(logits_nC))
        self.z_nC: Floats = np.array(logits_nC, np.float64, order="C")
        self._label_n = None if label_n is None else np.asarray(label_n, np.int64)
        self.top_n: NDArray[np.int64] = self.z_nC.argmax(axis=1)
        self.gap_nC: Floats = self.z_nC - self.pick(self.z_nC, self.top_n)[:, None]
        self.exp_nC: Floats = np.exp(self.gap_nC)
        self.rest_n: Floats = self.without(self.exp_nC, self.top_n, 0.0).sum(axis=1)

    @property
    def label_n(self) -> NDArray[np.int64]:
        """The labels; raises UsageError for images without, on which a score that needs them is not computed."""
        if self._label_n is None:
            raise UsageError(
                "a score reads labels, and the images have none",
                hint='register it with needs=("logits", "labels"): then it is left out for such images',
            )
        return self._label_n

    def pick(self, values_nC: Floats, class_n: NDArray[np.int64]) -> Floats:
        """Return one value per row, from the column in `class_n`."""
        return np.asarray(values_nC[self._row_n, class_n])

    def without(self, values_nC: Floats, class_n: NDArray[np.int64], fill: float) -> Floats:
        """Return a copy with one value per row, in the column in `class_n`, replaced by `fill`."""
        copy_nC = values_nC.copy()
        copy_nC[self._row_n, class_n] = fill
        return copy_nC


TEACHER = "teacher"
"""Name of the set of scores that need only a teacher's logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitScore(Score):
    """A score of rows of logits, one float64 per row."""

    function: Callable[[LogitRows], Floats]
    family = TEACHER

    def __call__(self, logits_NC: Logits, label_N: Integers) -> NDArray[np.float32]:
        """Score samples: logits (N, C), labels (N,) -> (N,) float32."""
        return compute_scores(logits_NC, label_N, [self.name])[self.name]


score = partial(LogitScore.adding, needs=("logits",), cost="one teacher pass")
"""Register a function of `LogitRows` that returns one float64 per row."""


@score(
    "loss",
    harder="high",
    formula="-log p_y",
    source="MDSLR, ICLR 2025 (OpenReview Rz4UkJziFe): cross-entropy of the teacher at T = 1",
    needs=("logits", "labels"),
)
def loss(rows: LogitRows) -> Floats:
    """Cross-entropy of the teacher at T = 1, in nats."""
    return np.log1p(rows.rest_n) - rows.pick(rows.gap_nC, rows.label_n)


@score("confidence", harder="low", formula="max_c p_c", source="Coleman et al. 2020 (least confidence)")
def confidence(rows: LogitRows) -> Floats:
    """Largest probability."""
    return 1.0 / (1.0 + rows.rest_n)


@score("entropy", harder="high", formula="-sum_c p_c log p_c", source="Coleman et al. 2020 (max entropy)")
def entropy(rows: LogitRows) -> Floats:
    """Entropy of the prediction, in nats."""
    spread_n: Floats = (rows.exp_nC * -rows.gap_nC).sum(axis=1)
    return np.log1p(rows.rest_n) + spread_n / (1.0 + rows.rest_n)


@score(
    "margin",
    harder="low",
    formula="z_y - max_{c != y} z_c",
    source="Pleiss et al. 2020 (AUM), of one converged teacher",
    needs=("logits", "labels"),
)
def margin(rows: LogitRows) -> Floats:
    """Logit of the true class minus the best other logit."""
    best_n: Floats = rows.without(rows.gap_nC, rows.label_n, -np.inf).max(axis=1)
    return rows.pick(rows.gap_nC, rows.label_n) - best_n


@score(
    "top2_margin",
    harder="low",
    formula="p_(1) - p_(2), the two largest probabilities",
    source="Scheffer et al. 2001 (margin sampling)",
)
def top2_margin(rows: LogitRows) -> Floats:
    """Largest probability minus the second largest, whatever the label."""
    second_n: Floats = rows.without(rows.gap_nC, rows.top_n, -np.inf).max(axis=1)
    return np.asarray(-np.expm1(second_n) / (1.0 + rows.rest_n))


@score(
    "el2n",
    harder="high",
    formula="||p - y||_2",
    source="Paul et al. 2021 (EL2N), here teacher EL2N: one converged teacher, not early runs of the student",
    needs=("logits", "labels"),
)
def el2n(rows: LogitRows) -> Floats:
    """Teacher EL2N: Euclidean distance of the prediction from the one-hot label, 0 to sqrt(2)."""
    others_nC = rows.without(rows.exp_nC, rows.label_n, 0.0) / (1.0 + rows.rest_n)[:, None]
    # 1 - p_y as the sum of the others: subtracting from 1 would make every confident sample 0.
    distance_n: Floats = np.sqrt((others_nC * others_nC).sum(axis=1) + others_nC.sum(axis=1) ** 2)
    return distance_n


@score(
    "correct",
    harder="low",
    formula="1 if argmax_c z_c = y else 0",
    source="top-1 of the teacher",
    needs=("logits", "labels"),
)
def correct(rows: LogitRows) -> Floats:
    """1 if the prediction is the label, else 0; among equal logits the lowest class index wins."""
    return np.asarray(rows.top_n == rows.label_n, np.float64)


def compute_scores(
    logits_NC: Logits, label_N: Integers | None, names: Iterable[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Compute logit scores (all registered ones if `names` is None), each (N,) float32.

    Logits (N, C) of any float type, finite, C >= 2; labels (N,) integers in [0, C), None for images without: then the
    scores that need none. Raises ValueError for other shapes, InputError for a label that is not one of the C classes,
    UsageError for a name that is not a logit score, or that needs labels where there are none.
    """
    registered = LogitScore.registered(unlabelled=label_N is None)
    entries = registered if names is None else [_logit_score(name) for name in names]
    _check_table(logits_NC, label_N)
    results = {entry.name: np.empty(len(logits_NC), np.float32) for entry in entries}
    for block in row_blocks(*logits_NC.shape):
        rows = LogitRows(logits_NC[block], None if label_N is None else label_N[block])
        for entry in entries:
            results[entry.name][block] = entry.function(rows)
    return results


def mean_scores(logits_NVC: Logits, label_N: Integers | None, views: range) -> dict[str, NDArray[np.float32]]:
    """Compute every logit score, each (N,) float32, as its mean over `views`; logits (N, V, C)."""
    per_view = [compute_scores(logits_NVC[:, view], label_N) for view in views]
    stacks = {name: np.stack([scores[name] for scores in per_view]) for name in per_view[0]}
    return {name: stack_VN.mean(axis=0, dtype=np.float64).astype(np.float32) for name, stack_VN in stacks.items()}


def check_float16(logits_NC: Logits, keys_N: Sequence[Any] | NDArray[Any], hint: str) -> None:
    """Raise InputError naming the sample (its key or sample_id) whose logits do not fit float16."""
    check_finite(logits_NC, keys_N)
    if np.abs(logits_NC).max(initial=0.0) > FLOAT16_MAX:
        row = int(np.abs(logits_NC).max(axis=1).argmax())
        worst = np.abs(logits_NC[row]).max()
        raise InputError(f"sample {keys_N[row]}: a logit of {worst:.3g} does not fit float16", hint=hint)


def check_finite(logits_NC: Logits, keys_N: Sequence[Any] | NDArray[Any]) -> None:
    """Raise InputError naming the first sample (its key or sample_id) with a logit that is inf or nan."""
    finite_N = np.asarray(np.isfinite(logits_NC).all(axis=1))
    if finite_N.all():
        return
    row = int(np.argmin(finite_N))
    column = int(np.argmin(np.isfinite(logits_NC[row])))
    raise InputError(
        f"sample {keys_N[row]}: logit {column} is {float(logits_NC[row, column])}"
        f" ({int((~finite_N).sum())} of {len(finite_N)} samples here are not finite)",
        hint="logits are stored as float16, up to +-65504: check the checkpoint and the preprocessing,"
        " and that the teacher runs in float32",
    )


def top1(logits_NC: Logits, label_N: Integers) -> float:
    """Return the fraction of samples whose largest logit (the first of equal ones) is the label's; nan for none."""
    return float(np.mean(correct(logits_NC, label_N), dtype=np.float64)) if len(logits_NC) else np.nan


def is_near_chance(top1: float, class_count: int) -> bool:
    """Return whether a teacher's top-1 is so low that a mismatch of classes or preprocessing is likely.

    The limit is twice chance; for fewer than ten classes, where that is high, chance plus 0.1: 0.6 for two classes.
    """
    return top1 < 1 / class_count + min(1 / class_count, 0.1)


class Calibration:
    """Top-1 and expected calibration error, fed part by part from the confidence and correct scores.

    Bin b of B holds confidences in (b/B, (b+1)/B]. Source: Guo et al. 2017, equation 3.
    """

    def __init__(self, bins: int = 15) -> None:
        self._edges = np.arange(1, bins) / bins
        self.count_B = np.zeros(bins, np.int64)
        self.confidence_B = np.zeros(bins, np.float64)
        self.correct_B = np.zeros(bins, np.float64)

    def add(self, confidence_N: Logits, correct_N: Logits) -> None:
        """Add samples: both (N,), as `compute_scores` returns them."""
        bin_N = np.searchsorted(self._edges, np.asarray(confidence_N, np.float64), side="left")
        bins = len(self.count_B)
        self.count_B += np.bincount(bin_N, minlength=bins)
        self.confidence_B += np.bincount(bin_N, weights=confidence_N, minlength=bins)
        self.correct_B += np.bincount(bin_N, weights=correct_N, minlength=bins)

    def add_logits(self, logits_NC: Logits, label_N: Integers) -> None:
        """Add samples: logits (N, C), labels (N,)."""
        scores = compute_scores(logits_NC, label_N, ["confidence", "correct"])
        self.add(scores["confidence"], scores["correct"])

    @property
    def count(self) -> int:
        """Number of samples added."""
        return int(self.count_B.sum())

    @property
    def top1(self) -> float:
        """Fraction of correct samples; nan if none were added."""
        return float(self.correct_B.sum() / self.count) if self.count else np.nan

    @property
    def ece(self) -> float:
        """Sum over bins of |accuracy - mean confidence| weighted by their share; nan if none were added."""
        return float(np.abs(self.correct_B - self.confidence_B).sum() / self.count) if self.count else np.nan


def _logit_score(name: str) -> LogitScore:
    entry = SCORES[name]
    if not isinstance(entry, LogitScore):
        raise UsageError(f"score {name!r} is not a logit score: it needs {', '.join(entry.needs)}")
    return entry


def _check_table(logits_NC: Logits, label_N: Integers | None) -> None:
    shape = logits_NC.shape[:1] if label_N is None else label_N.shape
    if logits_NC.ndim != 2 or logits_NC.shape[1] < 2 or shape != logits_NC.shape[:1]:
        raise ValueError(f"logits {logits_NC.shape} and labels {shape}: expected (N, C >= 2) and (N,)")
    if label_N is None:
        return
    outside_N = (label_N < 0) | (label_N >= logits_NC.shape[1])
    if outside_N.any():
        row = int(np.argmax(outside_N))
        raise InputError(
            f"row {row}: label {int(label_N[row])} is outside the {logits_NC.shape[1]} classes of the logits",
            hint="the teacher and the data set have different classes",
        )
