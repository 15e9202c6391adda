"""The session that takes the steps of a run: a student, the views it sees, and their targets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manifests.betons.reader import Beton
from manifests.format.header import Preprocessing
from manifests.sources.base import Source
from trainer.config import TrainConfig
from trainer.data.batches import Batch, ViewLoader
from trainer.data.label_decoder import LabelDecoder
from trainer.data.loaders import open_loader
from trainer.data.order import Stream, epoch_batches, rank_rows, stream_seed
from trainer.data.policies import TrainingViews
from trainer.data.task import Task
from trainer.data.views import ViewRecipe
from trainer.loop.distributed import Ranks, gather_batches
from trainer.loop.dynamic import DYNAMIC, EpochPlan, epoch_plan, last_positions
from trainer.loop.dynamics_facts import logit_facts
from trainer.loop.epoch import EpochResult, train_epoch
from trainer.loop.epoch_config import epoch_config
from trainer.loop.label_phases import is_hard
from trainer.loop.mixed_batch import mixed
from trainer.loop.mixing import draw_mix
from trainer.loop.predictions import Predictions
from trainer.loop.restore import check_losses
from trainer.loop.run_folder import State
from trainer.loop.schedules import Schedule
from trainer.loop.student import build_student, set_tf32, worker_count
from trainer.loop.targets import Targets
from trainer.teachers.teacher import Teacher, load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

_TEACHER_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device, loader and threads of a run, which do not change what it computes."""

    device: str = "auto"
    loader: str = "auto"
    workers: int | None = None


def live_teacher(task: Task, config: TrainConfig, spec: TeacherSpec | None, device: torch.device) -> Teacher | None:
    """Return the teacher for the policy online, in the student's precision and memory format; else None."""
    if config.teacher is None:
        return None
    teacher = load_teacher(
        replace(spec or TeacherSpec(network=config.teacher), image_px=config.image_px),
        list(task.class_names),
        device=str(device),
        dtype=_TEACHER_DTYPES[config.precision],
        exact=False,
        channels_last=config.channels_last,
    )
    return replace(teacher, module=cast(nn.Module, torch.compile(teacher.module))) if config.compile else teacher


def shown_views(task: Task, config: TrainConfig) -> Preprocessing:
    """Return how images are prepared for the student, resized as it is said of a live teacher, who sees the same."""
    said = config.teacher_images or {}
    resized = {name: said[name] for name in ("interpolation", "resize_px") if name in said}
    return task.preprocessing(config.image_px).model_copy(update=resized)


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """Facts about the samples that an epoch showed."""

    row_n: NDArray[np.int64]
    """The rows of all ranks, each once."""
    fact_nK: NDArray[np.float32]
    """`logit_facts` of the logits in the step, in training mode."""


class TrainingSession:
    """A student between epochs, and a loader of the views that it learns from; close it after use."""

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
        self.task, self.config, self.teacher = task, config, teacher
        self.machine, self.ranks = machine, ranks
        self.plan = epoch_batches(config, task.beton.count, ranks.world_size)
        self.steps = config.total_steps(self.plan.steps_per_epoch)
        """Steps of the whole run; for an arm without a fixed number of steps, the most it can take."""
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
            preprocessing=shown_views(task, config),
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
        self._keeps_losses = config.dynamic is not None and DYNAMIC[config.dynamic].needs_losses
        self._observes = config.record_dynamics or self._keeps_losses
        check_losses(state.losses, task.beton.count)
        self.losses: Tensor | None = state.losses
        """(N,) last loss of each row if an arm uses it, the same on all ranks; None before the first."""
        self.predictions: Predictions | None = None
        """Where the predictions of each epoch go, if how far they move is recorded."""
        self.seen: EpochFacts
        """Facts about the last epoch, if they are recorded or an arm uses losses."""
        self.unsure_share: float | None = None
        """Share of the last epoch's labels of which the teacher was unsure; None if none were looked at."""
        self._logits = LabelDecoder(task.form)
        self.loader = self.open(task.beton, self._views.recipe, machine.loader)
        try:
            # Compilation and the start of worker processes are not part of any reported time.
            for batch in self._batches(state.epochs_done, self._plan(state.epochs_done, steps=1)):
                if teacher is not None:
                    teacher.check(batch.images)
        except BaseException:
            self.close()
            raise

    def open(self, data: Beton | Source, recipe: ViewRecipe, kind: str) -> ViewLoader:
        """Open a loader of images as this student takes them."""
        return open_loader(
            data,
            kind=kind,
            recipe=recipe,
            preprocessing=self.student.info.preprocessing,
            workers=worker_count(self.machine.workers, self.ranks),
            device=self.student.device,
            form=self.task.form if data is self.task.beton else None,
        )

    def close(self) -> None:
        """Release the loader's processes and memory."""
        self.loader.close()

    def epoch(self, number: int, *, steps: int, on_batch: Callable[[int], None] | None = None) -> EpochResult:
        """Take the first `steps` steps of an epoch, fewer if a dynamic arm leaves fewer."""
        config, ranks = epoch_config(self.config, number), self.ranks
        # Seeded in every epoch, so that the checkpoint needs no generator state for dropout.
        torch.manual_seed(stream_seed(config.seed, Stream.DROPOUT, number, ranks.rank))
        plan = self._plan(number, steps)
        target_of = Targets(config, self._logits, self.teacher)
        observed: list[Tensor] = []
        if self.predictions is not None:
            self.predictions.begin(number)
        is_last = self._last_shown(plan)

        def observe(batch: Batch, logits_nC: Tensor, loss_n: Tensor) -> None:
            columns = [loss_n.float()[:, None]]
            if config.record_dynamics:
                columns.append(logit_facts(logits_nC, batch.label))
            observed.append(torch.cat(columns, dim=1))
            if self.predictions is not None:
                is_last_n = next(is_last)
                self.predictions.add(batch.rows[is_last_n], logits_nC[torch.from_numpy(is_last_n).to(logits_nC.device)])

        def mixed_of(step: int, batch: Batch) -> tuple[Batch, Tensor, Tensor | None]:
            count, side_px = len(batch.rows), batch.images.shape[-1]
            mix = draw_mix(config, epoch=number, step=step, rank=ranks.rank, count=count, side_px=side_px)
            if mix is None:
                return batch, batch.label, target_of(batch)
            return mixed(batch, mix, target_of, config=config, class_count=len(self.task.class_names))

        result = train_epoch(
            self.student,
            self._batches(number, plan),
            config=config,
            # In an epoch with fewer steps, each step is a larger part of the epoch.
            schedule=replace(self.schedule, steps_per_epoch=plan.steps_per_epoch),
            epoch=number,
            ranks=ranks,
            target_of=target_of,
            mixed_of=None if config.mix_prob is None else mixed_of,
            on_batch=on_batch,
            scale_N=plan.scale_N,
            observe=observe if self._observes else None,
        )
        self.unsure_share = target_of.unsure_share(ranks)
        if self._observes:
            self._remember(plan, torch.cat(observed))
        return result

    def _last_shown(self, plan: EpochPlan) -> Iterator[NDArray[np.bool_]]:
        """Yield which rows of each of this rank's batches are not shown again in the epoch."""
        ranks, position_n = self.ranks, np.arange(len(plan.order_n))
        mine_n = rank_rows(position_n, batch_size=plan.batch_size, rank=ranks.rank, world_size=ranks.world_size)
        is_last_n = np.isin(mine_n, last_positions(plan.order_n))
        yield from is_last_n.reshape(-1, plan.batch_size // ranks.world_size)

    def _remember(self, plan: EpochPlan, observed_nK: Tensor) -> None:
        """Gather what the ranks observed, and store each row's last loss."""
        values_nK = gather_batches(self.ranks, observed_nK, plan.batch_size // self.plan.world_size).cpu()
        # For a row that was shown twice, the last time counts.
        last_n = last_positions(plan.order_n)
        self.seen = EpochFacts(row_n=plan.order_n[last_n], fact_nK=values_nK[last_n, 1:].numpy())
        if self._keeps_losses:
            losses = torch.full((self.task.beton.count,), torch.nan) if self.losses is None else self.losses.clone()
            losses[self.seen.row_n] = values_nK[last_n, 0]
            self.losses = losses

    def look(self, row_n: NDArray[np.int64], number: int | None) -> Iterator[Batch]:
        """Yield batches of rows in the views that epoch `number` shows, or in view 0 if None; takes no step."""
        view_n = 0 if number is None else self._views_of(number, row_n)[0]
        return self.loader.batches(row_n, view_n=view_n, batch_size=self.plan.rank_batch_size)

    def _plan(self, number: int, steps: int) -> EpochPlan:
        return epoch_plan(
            self.config,
            number,
            count=self.task.beton.count,
            plan=self.plan,
            steps=steps,
            loss_N=None if self.losses is None else self.losses.numpy(),
        )

    def _views_of(self, number: int, row_n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._views.of_epoch(number, row_n, uses_targets=not is_hard(self.config, number))

    def _batches(self, number: int, plan: EpochPlan) -> Iterator[Batch]:
        ranks = self.ranks
        rows_n = rank_rows(plan.order_n, batch_size=plan.batch_size, rank=ranks.rank, world_size=ranks.world_size)
        view_n, target_view_n = self._views_of(number, rows_n)
        return self.loader.batches(
            rows_n,
            view_n=view_n,
            target_view_n=target_view_n,
            batch_size=plan.batch_size // ranks.world_size,
            drop_last=True,
        )
