"""What a call changes of torch in this process, changed back: a notebook goes on after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Give torch's random numbers, and its settings for CUDA kernels, back as they were."""
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
