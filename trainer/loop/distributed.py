"""Ranks under torchrun: the place of this process among them, sums over all ranks, and decisions of rank 0 for all."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from manifests.errors import IncompleteError, PruneError, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)
"""Time that a rank waits for another one that neither answers nor dies."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The place of this process among the processes of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """Return the ranks from torchrun's RANK, WORLD_SIZE and LOCAL_RANK; without them, a single process."""
        try:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
            return cls(
                rank=int(os.environ.get("RANK", "0")),
                world_size=world_size,
                local_rank=int(os.environ.get("LOCAL_RANK", "0")),
                local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
            )
        except ValueError as error:
            raise UsageError(f"RANK, WORLD_SIZE or LOCAL_RANK is not a number: {error}") from None

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Join the ranks (nccl on CUDA, gloo elsewhere); if one is lost, the others raise IncompleteError."""
    if ranks.world_size == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        # The group is not destroyed, because that would wait for the lost rank. Its threads can abort Python's shutdown
        # (seen once on Python 3.13, exit code 134), so the process exits before that.
        if _is_lost_rank(error):
            atexit.register(os._exit, IncompleteError.exit_code)
            raise IncompleteError(
                f"rank {ranks.rank}: another rank stopped: {str(error).splitlines()[0][:200]}",
                hint="its own message says why; run the same command again to resume after the last whole epoch",
            ) from error
        raise
    dist.destroy_process_group()


def _is_lost_rank(error: RuntimeError) -> bool:
    import torch.distributed as dist

    signs = ("connection closed", "connection reset", "broken pipe", "timed out", "nccl")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


def from_main(ranks: Ranks, decide: Callable[[], T]) -> T:
    """Call `decide` on rank 0 only; every rank returns its result, or raises its error."""
    if ranks.world_size == 1:
        return decide()
    import torch.distributed as dist

    answer: list[Any] = [None, None]
    if ranks.is_main:
        try:
            answer[0] = decide()
        except PruneError as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    result: T = answer[0]
    return result


def sum_over_ranks(ranks: Ranks, values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks, on every rank."""
    if ranks.world_size > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values


def mean_over_ranks(ranks: Ranks, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the mean of each tensor over all ranks, on every rank; all are of one dtype."""
    if ranks.world_size == 1 or not tensors:
        return tensors
    import torch

    # One message instead of one for each tensor.
    flat = sum_over_ranks(ranks, torch.cat([tensor.reshape(-1) for tensor in tensors])) / ranks.world_size
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather_batches(ranks: Ranks, values_nK: torch.Tensor, rank_batch_size: int) -> torch.Tensor:
    """Return on every rank the rows (n, K) of all ranks, in the order of the global batches.

    n is the same on all ranks, a multiple of rank_batch_size, a rank's share of a batch; returns (world_size * n, K).
    """
    if ranks.world_size == 1:
        return values_nK
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(values_nK) for _ in range(ranks.world_size)]
    dist.all_gather(parts, values_nK.contiguous())
    batches = [part.reshape(-1, rank_batch_size, values_nK.shape[1]) for part in parts]
    return torch.stack(batches, dim=1).reshape(-1, values_nK.shape[1])


def share_buffers(ranks: Ranks, model: torch.nn.Module) -> None:
    """Copy the buffers of rank 0 to every rank (BatchNorm's running statistics differ between ranks)."""
    if ranks.world_size > 1:
        import torch.distributed as dist

        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
