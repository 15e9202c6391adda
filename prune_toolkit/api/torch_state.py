"""Restore torch's global state after a call, since a notebook continues in the same process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Restore torch's random state and its settings of CUDA kernels on exit."""
    devices = torch.cuda.device_count()
    with torch.random.fork_rng(devices=range(devices)):
        if not devices:
            yield
            return
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
