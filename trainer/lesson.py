"""What takes the steps of a run: a student, what it is shown, and what that is taught with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from trainer.epoch import EpochResult, train_epoch
from trainer.loading import Batch, ViewLoader, open_loader
from trainer.losses import LOSSES
from trainer.order import Stream, batch_plan, epoch_order, rank_rows, stream_seed
from trainer.run_record import State
from trainer.schedules import Schedule
from trainer.soft_labels import dense_logits
from trainer.student import build_student, set_tf32, worker_count
from trainer.teacher import Teacher, load_teacher
from trainer.training_views import TrainingViews

if TYPE_CHECKING:
    from manifests.beton import Beton
    from manifests.sources.base import Source
    from trainer.distributed import Ranks
    from trainer.recipes import TrainConfig
    from trainer.task import Task
    from trainer.views import ViewRecipe

_TEACHER_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what a run computes; no part of what it computes."""

    device: str = "auto"
    loader: str = "auto"
    workers: int | None = None


def live_teacher(task: Task, config: TrainConfig, checkpoint: Path | None, device: torch.device) -> Teacher | None:
    """The teacher of policy online, in the precision and memory format of the student; None for other policies."""
    if config.teacher is None:
        return None
    teacher = load_teacher(
        config.teacher,
        list(task.class_names),
        checkpoint=checkpoint,
        image_px=config.image_px,
        device=str(device),
        dtype=_TEACHER_DTYPES[config.precision],
        exact=False,
        channels_last=config.channels_last,
    )
    return replace(teacher, module=cast(nn.Module, torch.compile(teacher.module))) if config.compile else teacher


class Lesson:
    """A student before or between two epochs, and a loader of the views it learns from; close it after use."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        teacher: Teacher | None,
        machine: Machine,
        ranks: Ranks,
        device: torch.device,
        state: State,
    ) -> None:
        self._task, self._config, self._teacher = task, config, teacher
        self._machine, self._ranks = machine, ranks
        self.plan = batch_plan(task.beton.count, config.batch_size, ranks.world_size)
        self.steps = config.total_steps(self.plan.steps_per_epoch)
        self.schedule = Schedule(
            name=config.schedule,
            lr=config.lr,
            epochs=self.steps / self.plan.steps_per_epoch,
            steps_per_epoch=self.plan.steps_per_epoch,
            warmup_epochs=config.warmup_epochs,
            milestones=config.milestones,
            gamma=config.gamma,
        )
        set_tf32(config, device)
        self.student = build_student(
            config,
            class_names=task.class_names,
            preprocessing=task.preprocessing(config.image_px),
            state=state,
            device=device,
            ranks=ranks,
        )
        self._views = TrainingViews.of(
            task,
            policy=config.policy,
            seed=config.seed,
            augment=config.augment,
            pad_px=config.pad_px,
            scale_min=config.scale_min,
            flip=config.flip,
        )
        self.loader = self.open(task.beton, self._views.recipe, machine.loader)
        try:
            # Compilation and the start of worker processes are no part of any time that is told.
            for _ in self._batches(state.epochs_done, steps=1):
                pass
        except BaseException:
            self.close()
            raise

    def open(self, data: Beton | Source, recipe: ViewRecipe, kind: str) -> ViewLoader:
        """A loader of images as this student takes them."""
        return open_loader(
            data,
            kind=kind,
            recipe=recipe,
            preprocessing=self.student.info.preprocessing,
            workers=worker_count(self._machine.workers, self._ranks),
            device=self.student.device,
        )

    def close(self) -> None:
        """Give the loader's processes and memory back."""
        self.loader.close()

    def epoch(self, number: int, *, steps: int, on_batch: Callable[[int], None]) -> EpochResult:
        """Take the first `steps` steps of an epoch."""
        config, ranks = self._config, self._ranks
        # Seeding every epoch, dropout needs no generator state in the checkpoint.
        torch.manual_seed(stream_seed(config.seed, Stream.DROPOUT, number, ranks.rank))
        return train_epoch(
            self.student,
            self._batches(number, steps),
            config=config,
            schedule=self.schedule,
            epoch=number,
            ranks=ranks,
            target_of=self._target_of,
            on_batch=on_batch,
        )

    def _batches(self, number: int, steps: int) -> Iterator[Batch]:
        plan, ranks = self.plan, self._ranks
        order_N = epoch_order(self._config.seed, number, self._task.beton.count)
        rows_n = rank_rows(order_N, batch_size=plan.batch_size, rank=ranks.rank, world_size=ranks.world_size)
        rows_n = rows_n[: steps * plan.rank_batch_size]
        view_n, target_view_n = self._views.of_epoch(number, rows_n)
        return self.loader.batches(
            rows_n, view_n=view_n, target_view_n=target_view_n, batch_size=plan.rank_batch_size, drop_last=True
        )

    def _target_of(self, batch: Batch) -> Tensor | None:
        if not LOSSES[self._config.loss].needs_targets:
            return None
        if self._teacher is not None:
            return self._teacher(batch.images)
        if batch.target is None:
            return None
        return dense_logits(
            batch.target, self._task.stored.top_k, len(self._task.class_names), self._config.temperature
        )
