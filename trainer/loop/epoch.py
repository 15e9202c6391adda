"""One epoch of optimiser steps, and where its time went."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import InputError
from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.loop.distributed import Ranks, sum_over_ranks
from trainer.loop.dot import DOT, keep_kd_gradients
from trainer.loop.schedules import Schedule
from trainer.loop.student import Student
from trainer.losses import sample_losses, sample_terms
from trainer.models.normalise import normalise

CHECK_STEPS = 100
"""Steps between checks of the losses: each check waits for the device."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The result of one epoch of training over all ranks; times are of this rank."""

    loss: float
    """Mean training loss; if samples are scaled, weighted by their factors."""
    top1: float
    """Fraction of the augmented training images that the student classified correctly during training.

    Of a mixed image, the class with the larger share is the right one.
    """
    steps: int
    samples: int
    """Images shown, over all ranks."""
    learning_rate: float
    """Learning rate of the last step."""
    waiting_s: float
    """Time spent waiting for the next batch."""
    compute_s: float
    images_per_s: float

    @property
    def training_s(self) -> float:
        """Return the seconds of waiting and computing."""
        return self.waiting_s + self.compute_s


def train_epoch(
    student: Student,
    batches: Iterable[Batch],
    *,
    config: TrainConfig,
    schedule: Schedule,
    epoch: int,
    ranks: Ranks,
    target_of: Callable[[Batch], Tensor | None],
    mixed_of: Callable[[int, Batch], tuple[Batch, Tensor, Tensor | None]] | None = None,
    on_batch: Callable[[int], None] | None = None,
    scale_N: NDArray[np.float32] | None = None,
    observe: Callable[[Batch, Tensor, Tensor], None] | None = None,
) -> EpochResult:
    """Take one step per batch; raises InputError with epoch and step if a loss is not finite.

    target_of: returns the target logits (n, C) of a batch, stored or from a live teacher. mixed_of: replaces it; gets
    the step of the epoch counted from 0 as well, and returns the batch to take instead, its labels (n,) or (n, C), and
    its target logits. scale_N: (N,) factor of each row's loss. observe: gets each batch with the student's logits (n,
    C) and the losses (n,) before weight and scale.
    """
    student.network.train()
    device = student.device
    losses: list[Tensor] = []
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    waiting_s, started = 0.0, time.perf_counter()
    iterator = iter(batches)
    first_step = step = epoch * schedule.steps_per_epoch
    parts_gradients = isinstance(student.optimizer, DOT)
    rate = 0.0
    while True:
        asked = time.perf_counter()
        batch = next(iterator, None)
        waiting_s += time.perf_counter() - asked
        if batch is None:
            break
        stands_for: Tensor | int = len(batch.label)
        if scale_N is not None:
            scale = torch.from_numpy(scale_N[batch.rows]).to(device)
            batch, stands_for = replace(batch, weight=batch.weight * scale), scale.sum()
        if mixed_of is None:
            label, target = batch.label, target_of(batch)
        else:
            batch, label, target = mixed_of(step - first_step, batch)
        with student.autocast():
            logits = student.network(normalise(batch.images, student.info.preprocessing, torch.float32))
            of_batch = {"label": label, "weight": batch.weight, "kd_weight": batch.kd_weight}
            if not parts_gradients:
                loss_n = sample_losses(config, logits, target, **of_batch, epoch=epoch)
                loss = stepped = (batch.weight * loss_n).mean()
            else:
                task_n, kd_n = sample_terms(config, logits, target, **of_batch, epoch=epoch)
                loss_n = task_n if kd_n is None else task_n + kd_n
                task = (batch.weight * task_n).mean()
                kd = None if kd_n is None else (batch.weight * kd_n).mean()
                loss = task if kd is None else task + kd
        if parts_gradients:
            stepped = keep_kd_gradients(student.optimizer, student.scaler, ranks, task, kd)
        rate = schedule.learning_rate(step)
        student.step(stepped, rate)
        if observe is not None:
            observe(batch, logits.detach(), loss_n.detach())
        losses.append(loss.detach())
        count = len(batch.label)
        sums[0] += losses[-1].double() * count
        sums[1] += (logits.detach().argmax(dim=1) == batch.label).sum()
        sums[2] += count
        sums[3] += stands_for
        step += 1
        if on_batch is not None:
            on_batch(count * ranks.world_size)
        if len(losses) == CHECK_STEPS:
            _check_finite(losses, epoch, step - first_step)
            losses.clear()
    _check_finite(losses, epoch, step - first_step)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed_s = time.perf_counter() - started
    loss_sum, hit_sum, count_sum, all_sum = sum_over_ranks(ranks, sums).tolist()
    return EpochResult(
        loss=loss_sum / all_sum,
        top1=hit_sum / count_sum,
        steps=step - first_step,
        samples=int(count_sum),
        learning_rate=rate,
        waiting_s=waiting_s,
        compute_s=elapsed_s - waiting_s,
        images_per_s=count_sum / elapsed_s,
    )


def _check_finite(losses: list[Tensor], epoch: int, steps_done: int) -> None:
    if not losses:
        return
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0, 0])
        step = steps_done - len(losses) + first + 1
        raise InputError(
            f"the loss is {float(losses[first])} at step {step} of epoch {epoch + 1}",
            hint="lower --lr, give --warmup-epochs, or train in --precision fp32; the last whole epoch is kept",
        )
