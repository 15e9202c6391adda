"""DOT: SGD that keeps the gradients of the cross-entropy and of the distillation term in momentum buffers of their own.

    v_task <- (mu - delta) v_task + g_task + lambda w          v_kd <- (mu + delta) v_kd + g_kd
    w <- w - lr (v_task + v_kd)

Zhao et al. 2023 (ICCV), "DOT: A Distillation-Oriented Trainer"; as in the authors' code, weight decay (lambda) belongs
to the task. Both gradients come from one forward pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.loop.distributed import Ranks, mean_over_ranks

Tensors = list[Tensor] | tuple[Tensor, ...]


class DOT(torch.optim.Optimizer):
    """The two buffers; `kd_gradients` are set before each step, those of the task are in `grad` as ever."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        lr: float,
        momentum: float,
        delta: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """Nesterov looks ahead in each buffer with its own momentum; delta 0 is SGD."""
        super().__init__(
            parameters,
            {
                "lr": lr,
                "task_momentum": momentum - delta,
                "kd_momentum": momentum + delta,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )
        self.kd_gradients: Sequence[Tensor | None] = ()
        """One per parameter; None for one that the network does not use."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move along both buffers; a parameter that is not used stays."""
        [group] = self.param_groups
        both = zip(group["params"], self.kd_gradients, strict=True)
        used = [(weight, weight.grad, kd) for weight, kd in both if weight.grad is not None and kd is not None]
        if not used:
            return
        weights, gradients, kd = (list(each) for each in zip(*used, strict=True))
        states = [self.state[weight] for weight in weights]
        task = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        moves = (
            _moved(states, "momentum_buffer", task, group["task_momentum"], group["nesterov"]),
            _moved(states, "kd_momentum_buffer", kd, group["kd_momentum"], group["nesterov"]),
        )
        for move in moves:
            torch._foreach_add_(weights, move, alpha=-group["lr"])


def _moved(states: list[dict[str, Any]], name: str, gradients: Tensors, momentum: float, nesterov: bool) -> Tensors:
    """Update the buffer of each parameter, 0 before the first step, and return the directions of the step."""
    buffers = [
        state.setdefault(name, torch.zeros_like(gradient)) if name not in state else state[name]
        for state, gradient in zip(states, gradients, strict=True)
    ]
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, gradients)
    return torch._foreach_add(gradients, buffers, alpha=momentum) if nesterov else buffers


def keep_kd_gradients(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ranks: Ranks,
    task_loss: Tensor,
    kd_loss: Tensor | None,
) -> Tensor:
    """Give the optimiser the gradients of the KD term, averaged over ranks, and return the task's loss for its step.

    Without a KD term, as in a phase of hard labels, its gradient is 0, and its buffer fades.

    With GradScaler, KD gradients that overflowed make this loss nan: the step is left out as a whole, and the scale
    falls.
    """
    assert isinstance(optimizer, DOT)
    if kd_loss is None:
        optimizer.kd_gradients = [torch.zeros_like(weight) for weight in optimizer.param_groups[0]["params"]]
        return task_loss
    # Unlike backward, `grad` does not call the hooks by which DistributedDataParallel averages: those are the task's.
    gradients = torch.autograd.grad(
        scaler.scale(kd_loss), optimizer.param_groups[0]["params"], retain_graph=True, allow_unused=True
    )
    used = mean_over_ranks(ranks, [each for each in gradients if each is not None])
    if scaler.is_enabled():
        finite = torch.stack([each.isfinite().all() for each in used]).all()
        task_loss = task_loss * torch.where(finite, 1.0, torch.nan)
        torch._foreach_div_(used, scaler.get_scale())
    left = iter(used)
    optimizer.kd_gradients = [None if each is None else next(left) for each in gradients]
    return task_loss
