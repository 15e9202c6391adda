"""The rows that each step shows: a pure function of (seed, epoch), sliced so that ranks share each global batch."""

import math
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from trainer.config import TrainConfig


class Stream(IntEnum):
    """Separate random streams of one --seed; a number is never reused for something else."""

    INIT = 1
    ORDER = 2
    VIEWS = 3
    DROPOUT = 4
    PRUNE = 5
    MIX = 6


def stream_seed(seed: int, stream: Stream, *words: int) -> int:
    """Return a 63-bit seed for one stream of `seed`; `words` are, for example, an epoch and a rank."""
    state = np.random.SeedSequence([seed, int(stream), *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def stream_generator(seed: int, stream: Stream, *words: int) -> np.random.Generator:
    """Return the generator of one stream of `seed`; `words` are, for example, an epoch."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, *words])))


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the permutation of `count` rows that one epoch shows; (count,) int64."""
    return stream_generator(seed, Stream.ORDER, epoch).permutation(count).astype(np.int64)


def rank_rows(order_N: NDArray[np.int64], *, batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Return a rank's contiguous slice of every whole global batch, batch after batch.

    Global batch b is order_N[b * batch_size : (b + 1) * batch_size]; an incomplete last one is left out.
    batch_size must be a multiple of world_size.
    """
    steps = len(order_N) // batch_size
    batches = order_N[: steps * batch_size].reshape(steps, world_size, batch_size // world_size)
    return np.ascontiguousarray(batches[:, rank].reshape(-1))


def rank_share(count: int, *, rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the validation rows of a rank: contiguous, every row on exactly one rank."""
    return np.arange(count * rank // world_size, count * (rank + 1) // world_size, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The division of an epoch into global batches."""

    batch_size: int
    """Samples per step over all ranks; smaller than requested if there are fewer samples."""
    steps_per_epoch: int
    world_size: int

    @property
    def rank_batch_size(self) -> int:
        """Return the samples per step on one rank."""
        return self.batch_size // self.world_size


def batch_plan(count: int, batch_size: int, world_size: int) -> BatchPlan:
    """Cut `count` samples into whole batches; raises UsageError if ranks cannot share a batch evenly."""
    if batch_size % world_size:
        raise UsageError(
            f"--batch-size {batch_size} counts all ranks and cannot be shared by {world_size} of them",
            hint=f"take a multiple of {world_size}",
        )
    if count < world_size:
        raise UsageError(f"{count} samples are too few for {world_size} ranks", hint="start fewer ranks")
    size = min(batch_size, count - count % world_size)
    return BatchPlan(batch_size=size, steps_per_epoch=count // size, world_size=world_size)


def epoch_samples(count: int, keep: float | None) -> int:
    """Return how many of `count` samples an epoch shows: floor(keep * N + 1/2), at least 1; all if keep is None.

    The result is exact: keep is read as the simplest close fraction, so .29 of 50 is 14.5.
    """
    share = Fraction(1) if keep is None else Fraction(keep).limit_denominator(10**6)
    return max(1, math.floor(share * count + Fraction(1, 2)))


def epoch_batches(config: TrainConfig, count: int, world_size: int) -> BatchPlan:
    """Return how an epoch over `count` samples is cut into batches; raises UsageError if ranks cannot share them."""
    return batch_plan(epoch_samples(count, config.keep), config.batch_size, world_size)
