"""A training run, from its first epoch or its last checkpoint to run.json.

train-student --manifest selection --student resnet8x4 --val data
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from manifests.console import Progress, note
from trainer.checkpoint import save_student
from trainer.distributed import Ranks, from_main, process_group
from trainer.epoch import EpochResult, train_epoch
from trainer.evaluation import Evaluator, loader_for
from trainer.loading import EVALUATION, ViewLoader, open_loader
from trainer.order import Stream, batch_plan, epoch_order, rank_rows, stream_seed
from trainer.report import epoch_line, run_report
from trainer.run_record import BEST_NAME, LAST_NAME, Row, RunFolder, State
from trainer.schedules import Schedule
from trainer.student import build_student, choose_device, set_tf32, worker_count
from trainer.training_views import TrainingViews

if TYPE_CHECKING:
    from manifests.beton import Beton
    from manifests.sources.base import Source
    from trainer.metrics import Metrics
    from trainer.recipes import TrainConfig
    from trainer.task import Task, Validation
    from trainer.views import ViewRecipe


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what a run computes; no part of what it computes."""

    device: str = "auto"
    loader: str = "auto"
    workers: int | None = None


def train(
    task: Task,
    config: TrainConfig,
    *,
    validation: Validation | None,
    out: Path,
    machine: Machine | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Train a student and return what run.json says; goes on where a run of the same configuration stopped.

    Under torchrun this process is one of the ranks. UsageError when `out` holds another run, InputError when
    the loss stops being finite, IncompleteError when another rank is lost.
    """
    machine = machine or Machine()
    task.check(config)
    ranks = Ranks.from_environment()
    device = choose_device(machine.device, ranks)
    folder = RunFolder(out, task.resolved(config, validation))
    with process_group(ranks, device):
        state, report = from_main(ranks, lambda: (folder.open(fresh=fresh), folder.finished()))
        if report is not None:
            if ranks.is_main:
                note(f"{out} holds this run already, finished; --fresh trains it again")
            return report
        with _Run(
            task,
            config,
            validation=validation,
            machine=machine,
            ranks=ranks,
            device=device,
            folder=folder,
            state=state,
        ) as run:
            while run.state.epochs_done < config.epochs:
                run.epoch()
            return run.finish()


class _Run:
    """The parts of a run and where it stands; opened and closed as a context manager."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        validation: Validation | None,
        machine: Machine,
        ranks: Ranks,
        device: torch.device,
        folder: RunFolder,
        state: State,
    ) -> None:
        self._clock = time.perf_counter()
        self.task, self.config, self.validation = task, config, validation
        self.ranks, self.folder, self.state = ranks, folder, state
        self.plan = batch_plan(task.beton.count, config.batch_size, ranks.world_size)
        self.schedule = Schedule(
            name=config.schedule,
            lr=config.lr,
            epochs=config.epochs,
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
        self.views = TrainingViews.of(task, config)
        self._opened = ExitStack()
        try:
            self.loader = self._open(task.beton, self.views.recipe, machine.loader, machine.workers)
            self.evaluator = self._evaluator(machine)
            images = (config.epochs - state.epochs_done) * self.plan.steps_per_epoch * self.plan.batch_size
            self._progress = self._opened.enter_context(Progress(images, "training")) if ranks.is_main else None
        except BaseException:
            self._opened.close()
            raise

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def epoch(self) -> None:
        """Train one epoch, evaluate, and put both on record."""
        number = self.state.epochs_done
        order_N = epoch_order(self.config.seed, number, self.task.beton.count)
        rows_n = rank_rows(
            order_N,
            batch_size=self.plan.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        view_n, target_view_n = self.views.of_epoch(number, rows_n)
        # Seeding every epoch, dropout needs no generator state in the checkpoint.
        torch.manual_seed(stream_seed(self.config.seed, Stream.DROPOUT, number, self.ranks.rank))
        trained = train_epoch(
            self.student,
            self.loader.batches(
                rows_n,
                view_n=view_n,
                target_view_n=target_view_n,
                batch_size=self.plan.rank_batch_size,
                drop_last=True,
            ),
            config=self.config,
            schedule=self.schedule,
            epoch=number,
            ranks=self.ranks,
            on_batch=self._advance,
        )
        started = time.perf_counter()
        metrics = self._evaluate(number)
        evaluation_s = time.perf_counter() - started
        row = self._row(number, trained, metrics, evaluation_s)
        self.state = replace(self.state, history=[*self.state.history, row], **self.student.state())
        if self.ranks.is_main:
            self._record(row)

    def finish(self) -> dict[str, Any]:
        """Save the student of the last epoch and write run.json; returns its content."""
        report = run_report(
            self.task,
            self.config,
            self.plan,
            self.student,
            self.state,
            resolved=self.folder.resolved,
            validation=self.validation,
            loader=self.loader.kind,
        )
        if self.ranks.is_main:
            self._save(LAST_NAME)
            self.folder.write_metrics(self.state.history)
            return self.folder.finish(report)
        return report

    def _open(self, data: Beton | Source, recipe: ViewRecipe, kind: str, workers: int | None) -> ViewLoader:
        loader = open_loader(
            data,
            kind=kind,
            recipe=recipe,
            preprocessing=self.student.info.preprocessing,
            workers=worker_count(workers, self.ranks),
            device=self.student.device,
        )
        return self._opened.enter_context(closing(loader))

    def _evaluator(self, machine: Machine) -> Evaluator | None:
        if self.validation is None:
            return None
        kind = loader_for(self.validation, machine.loader, self.config.image_px)
        return Evaluator(
            self.validation,
            self._open(self.validation.data, EVALUATION, kind, machine.workers),
            self.student,
            ranks=self.ranks,
            batch_size=self.plan.rank_batch_size,
        )

    def _evaluate(self, number: int) -> Metrics | None:
        is_due = (number + 1) % self.config.eval_every == 0 or number + 1 == self.config.epochs
        return self.evaluator() if self.evaluator is not None and is_due else None

    def _advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(count)

    def _row(self, number: int, trained: EpochResult, metrics: Metrics | None, evaluation_s: float) -> Row:
        now = time.perf_counter()
        total_s, self._clock = now - self._clock, now
        last_step = (number + 1) * self.plan.steps_per_epoch - 1
        return {
            "epoch": number + 1,
            "lr": self.schedule.learning_rate(last_step),
            "train_loss": trained.loss,
            "train_top1": trained.top1,
            "val_top1": metrics.top1 if metrics is not None else None,
            "val_top5": metrics.top5 if metrics is not None else None,
            "val_loss": metrics.loss if metrics is not None and math.isfinite(metrics.loss) else None,
            "images_per_s": trained.images_per_s,
            "waiting_for_data_s": trained.waiting_s,
            "compute_s": trained.compute_s,
            "evaluation_s": evaluation_s,
            "total_s": total_s,
        }

    def _record(self, row: Row) -> None:
        # The best weights go first: killed in between, the resumed run finds the same epoch best again.
        if self.state.best is row:
            self._save(BEST_NAME)
        self.folder.record(self.state)
        note(epoch_line(row, self.config.epochs, self.state.best))

    def _save(self, name: str) -> None:
        row = self.state.history[-1]
        facts = {
            "manifest_id": self.task.manifest.id,
            "run_digest": self.folder.digest,
            "epoch": str(row["epoch"]),
            "val_top1": "" if row["val_top1"] is None else f"{row['val_top1']:.6f}",
        }
        save_student(self.folder.path / name, self.student.model, self.student.info, facts)
