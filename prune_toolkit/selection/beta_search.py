"""Search the mode and sharpness of a Beta draw from which a linear student of the teacher's features learns most.

First all modes at a middle sharpness, then all sharpnesses at the best mode, then modes beside the best one at the
best sharpness; of each pair the mean over a few draws, the same random numbers for all pairs. IF-Beta searches the
mode on a grid too, and the sharpness by policy gradient: on one number, a grid finds the same with less noise.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.errors import UsageError
from manifests.format.header import Search
from manifests.images.identity import mix64
from prune_toolkit.selection.beta_weights import Floats, draw_order, log_weights
from prune_toolkit.selection.held_out import SCORE_THEM, check_unseen
from prune_toolkit.selection.linear_student import Learning
from prune_toolkit.selection.pool import Choice, Groups, Pool, rank_in_group
from prune_toolkit.selection.search_journal import Losses, Pair, tried_of

AUTO = "auto"
MODES = tuple(tenth / 10 for tenth in range(11))
SHARPNESSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
FIRST_SHARPNESS = 4.0
BESIDE = 0.05
"""Distance of the last modes that are tried from the best one."""
DRAWS = 8
NOISE = 2.0
"""A pair has to be ahead of a random draw by this many standard errors."""
DIGITS = 6
"""Decimals of the losses that are stored: the last bits depend on the linear algebra of a machine."""
_STREAM = 0xBE7A
_TRIED: dict[str, Losses] = {}
"""Searches of this process by their digests: a sweep makes selections of many seeds, whose search is the same."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search."""

    mode: float
    sharpness: float
    search: Search

    def told_with(self, choice: Choice) -> Choice:
        """Return a choice that says what was found."""
        found = {"mode": f"{self.mode:g}", "sharpness": f"{self.sharpness:g}"}
        return replace(choice, found=found, search=self.search)


def search(pool: Pool, groups: Groups, percentile_N: Floats, *, mode: float | str, sharpness: float | str) -> Found:
    """Find what is `auto`, mode or sharpness or both; the same for every seed of the selection.

    Pairs are compared on one half of the held-out images. A random draw, sharpness 0, is the result unless the best
    pair is ahead of it by more than noise on the other half, which had no say in choosing it.

    Raises UsageError without features, or without held-out images that the teacher never saw.
    """
    if pool.features is None or pool.logits is None:
        raise UsageError(
            "mode and sharpness auto need features and logits, and the manifest lacks them",
            hint="store them: prune score --features; or give --mode and --sharpness",
        )
    held = pool.held_out
    if held is None:
        raise UsageError(
            "mode and sharpness auto are judged on images that the teacher never saw, and none are given",
            hint=f"{SCORE_THEM}; or give --mode and --sharpness",
        )
    features_ND, logits_NC = pool.features.of(pool.sample_id_N), pool.logits.of(pool.sample_id_N)
    check_unseen(held, logits_NC, pool.label_N)
    students = Learning.of(features_ND, pool.label_N, held.features_MD, held.label_M, pool.class_count)
    learned = (features_ND, pool.label_N, held.features_MD, held.label_M)
    trials = _Trials(
        pool,
        groups,
        percentile_N,
        students,
        _digest(*learned, pool.content_hash_N16, percentile_N, groups.group_N, groups.keep_G),
    )
    with Progress(_most(mode, sharpness), "searching mode and sharpness", unit="pairs") as progress:
        for pair in _pairs(mode, sharpness, trials):
            trials.losses(pair)
            progress.advance(1)
    best = trials.best(trials.tried)
    gain, error = trials.gain(best)
    if best[1] and not gain > NOISE * error:
        note(
            f"mode {best[0]:g} and sharpness {best[1]:g} were best, but on the other half of the held-out images they "
            f"are {gain:.4f} nats ahead of a random draw, within noise ({error:.4f}): drawing at random, sharpness 0"
        )
        best = (best[0], 0.0)
    told = Search(tried=tried_of(trials.tried), gain=round(gain, DIGITS), error=round(error, DIGITS))
    return Found(mode=best[0], sharpness=best[1], search=told)


def _pairs(mode: float | str, sharpness: float | str, trials: "_Trials") -> Iterator[Pair]:
    """Yield the pairs to try; the later ones depend on the losses of the earlier ones."""
    yield (0.5, 0.0)
    first = FIRST_SHARPNESS if isinstance(sharpness, str) else sharpness
    modes = MODES if isinstance(mode, str) else (mode,)
    yield from ((tried, first) for tried in modes)
    if isinstance(sharpness, str):
        best_mode = trials.best(pair for pair in trials.tried if pair[1])[0]
        yield from ((best_mode, tried) for tried in SHARPNESSES if tried != first)
    if isinstance(mode, str):
        best = trials.best(pair for pair in trials.tried if pair[1])
        yield from ((round(best[0] + step, 2), best[1]) for step in (-BESIDE, BESIDE) if 0 <= best[0] + step <= 1)


def _most(mode: float | str, sharpness: float | str) -> int:
    modes = len(MODES) + 2 if isinstance(mode, str) else 1
    return 1 + modes + (len(SHARPNESSES) - 1 if isinstance(sharpness, str) else 0)


class _Trials:
    """The losses of linear students by pair, kept in the journal of the held-out images if there is one."""

    def __init__(self, pool: Pool, groups: Groups, percentile_N: Floats, students: Learning, digest: str) -> None:
        assert pool.held_out is not None
        self.pool, self.groups, self.percentile_N, self.students = pool, groups, percentile_N, students
        self.tried: Losses = {}
        self.journal = pool.held_out.journal
        self.digest = digest
        self.known = _TRIED.setdefault(self.digest, {}) if self.journal is None else self.journal.tried(self.digest)
        self.searched_M = np.arange(len(students.held_label_M)) % 2 == 0

    def losses(self, pair: Pair) -> list[float]:
        """Return the loss of each draw on the half that is searched, in nats."""
        if pair not in self.tried:
            known = self.known.get(pair, [])
            is_new = len(known) != DRAWS
            if is_new:
                known = [round(float(loss_M.mean()), DIGITS) for loss_M in self._losses(pair, self.searched_M)]
            self.tried[pair] = self.known[pair] = known
            if is_new and self.journal is not None:
                self.journal.write(self.digest, self.tried)
        return self.tried[pair]

    def _drawn(self, pair: Pair, draw: int) -> NDArray[np.int64]:
        """Return the rows that a draw keeps, in the order of their content, whatever that of the pool."""
        weight_N = log_weights(self.percentile_N, *pair)
        order_N = draw_order(self.pool, weight_N, int(mix64(_STREAM, draw)))
        rank_N = rank_in_group(self.pool, self.groups.group_N, order_N)
        return np.flatnonzero(rank_N < self.groups.keep_G[self.groups.group_N])

    def best(self, pairs: Iterable[Pair]) -> Pair:
        """Return the pair of the least mean loss; of equal ones the least sharp, then the easiest."""
        return min(pairs, key=lambda pair: (math.fsum(self.tried[pair]), pair[1], pair[0]))

    def gain(self, pair: Pair) -> tuple[float, float]:
        """Return how far a pair is ahead of a random draw on the other half, in nats, and the standard error of that.

        The error is that of the draws and of the images together.
        """
        if not pair[1]:
            return 0.0, 0.0
        gain_dm = self._losses((0.5, 0.0), ~self.searched_M) - self._losses(pair, ~self.searched_M)
        squared = [each.var(ddof=1) / len(each) for each in (gain_dm.mean(axis=1), gain_dm.mean(axis=0))]
        return float(gain_dm.mean()), math.sqrt(sum(squared))

    def _losses(self, pair: Pair, image_M: NDArray[np.bool_]) -> Floats:
        """Return the loss of some held-out images, (DRAWS, m)."""
        return np.stack([self.students.loss_M(self._drawn(pair, draw))[image_M] for draw in range(DRAWS)])


def _digest(*arrays: NDArray[np.generic]) -> str:
    """Return a hexadecimal digest of all that the losses depend on besides the pair."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
