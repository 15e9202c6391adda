"""A training run, from its first epoch or its last checkpoint to run.json.

train-student --manifest selection --student resnet8x4 --val data
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.base.progress import Progress, note
from trainer.data.views import EVALUATION
from trainer.loop.budget import MatchTime, keep_steps, kept_steps, timed_trial
from trainer.loop.distributed import Ranks, from_main, process_group
from trainer.loop.epoch import EpochResult
from trainer.loop.evaluation import Evaluator, loader_for
from trainer.loop.record_dynamics import Recorder
from trainer.loop.run_folder import BEST_NAME, LAST_NAME, Row, RunFolder, State
from trainer.loop.run_report import epoch_line, run_report
from trainer.loop.session import Machine, TrainingSession, live_teacher
from trainer.loop.student import check_precision, choose_device
from trainer.models.weights import save_student

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.data.task import Task, Validation
    from trainer.loop.metrics import Metrics
    from trainer.models.teacher import Teacher

__all__ = ["Machine", "train"]


def train(
    task: Task,
    config: TrainConfig,
    *,
    validation: Validation | None,
    out: Path,
    machine: Machine | None = None,
    fresh: bool = False,
    checkpoint: Path | None = None,
    match: MatchTime | None = None,
) -> dict[str, Any]:
    """Train a student and return the content of run.json; an unfinished run of the same configuration is resumed.

    checkpoint: weights of the live teacher, if `config` names one. match: take the time of another run; `config` then
    has no number of steps. Under torchrun this process is one of the ranks. Raises UsageError if `out` holds another
    run, InputError if the loss is not finite, IncompleteError if another rank is lost.
    """
    machine = machine or Machine()
    task.check(config)
    ranks = Ranks.from_environment()
    device = choose_device(machine.device, ranks)
    check_precision(config, device)
    with process_group(ranks, device):
        teacher = live_teacher(task, config, checkpoint, device)
        config = _identified(config, teacher)

        def open_session(config: TrainConfig, state: State) -> TrainingSession:
            return TrainingSession(
                task, config, teacher=teacher, machine=machine, ranks=ranks, device=device, state=state
            )

        if match is not None:
            folder = RunFolder(out, task.resolved(config, validation))
            with_steps = _matched(match, folder, ranks, lambda: open_session(config, State()), fresh=fresh)
            config, fresh = _identified(with_steps, teacher), False
        folder = RunFolder(out, task.resolved(config, validation))
        state, report = from_main(ranks, lambda: (folder.open(fresh=fresh), folder.finished()))
        if report is not None:
            if ranks.is_main:
                note(f"{out} already holds this run, finished; to train it again, give --fresh")
            return report
        run = _Run(
            task,
            config,
            open_session=lambda: open_session(config, state),
            teacher=teacher,
            validation=validation,
            machine=machine,
            ranks=ranks,
            folder=folder,
            state=state,
            match=match,
        )
        with run:
            while run.state.epochs_done < config.epochs:
                run.epoch()
            return run.finish()


def _identified(config: TrainConfig, teacher: Teacher | None) -> TrainConfig:
    """Return the configuration with the loaded teacher's spec and weights, whatever its file is called."""
    if teacher is None:
        return config
    return replace(config, teacher=teacher.info.spec, teacher_weights=teacher.weights_sha256)


def _matched(
    match: MatchTime, folder: RunFolder, ranks: Ranks, open_session: Callable[[], TrainingSession], *, fresh: bool
) -> TrainConfig:
    """Return the configuration with the number of steps that fit, from a trial or from that of an interrupted run."""
    steps = from_main(ranks, lambda: None if fresh else kept_steps(folder.path, folder.digest))
    if steps is None:
        from_main(ranks, lambda: folder.open(fresh=fresh))
        with closing(open_session()) as session:
            step_s = timed_trial(session, ranks, match.seconds)
        steps = max(1, int(match.seconds / step_s))
        config = match.configure(steps)
        if ranks.is_main:
            keep_steps(folder.path, folder.digest, match, steps, step_s)
            note(f"a step takes {1000 * step_s:.3g} ms: {steps:,} of them fit into {match.seconds:.4g} s")
        return config
    return match.configure(steps)


class _Run:
    """The parts of a run and its state; a context manager that closes them."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        open_session: Callable[[], TrainingSession],
        teacher: Teacher | None,
        validation: Validation | None,
        machine: Machine,
        ranks: Ranks,
        folder: RunFolder,
        state: State,
        match: MatchTime | None,
    ) -> None:
        self._clock = time.perf_counter()
        self.task, self.config, self.validation = task, config, validation
        self.teacher, self.match = teacher, match
        self.ranks, self.folder, self.state = ranks, folder, state
        self._opened = ExitStack()
        self.session = session = self._opened.enter_context(closing(open_session()))
        try:
            self.evaluator = self._evaluator(machine)
            self.recorder = self._recorder()
            steps = max(0, session.steps - state.epochs_done * session.plan.steps_per_epoch)
            images = steps * session.plan.batch_size
            self._progress = self._opened.enter_context(Progress(images, "training")) if ranks.is_main else None
        except BaseException:
            self._opened.close()
            raise

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def epoch(self) -> None:
        """Train one epoch, evaluate, and record both."""
        number, session = self.state.epochs_done, self.session
        steps = self._steps_of(number)
        trained = session.epoch(number, steps=steps, on_batch=self._advance)
        if self._progress is not None:
            self._progress.shorten(steps * session.plan.batch_size - trained.samples)
        recording_s = self._record_dynamics(number)
        started = time.perf_counter()
        metrics = self._evaluate(number)
        row = self._row(number, trained, metrics, recording_s, time.perf_counter() - started)
        history = [*self.state.history, row]
        self.state = replace(self.state, history=history, losses=session.losses, **session.student.state())
        if self.ranks.is_main:
            self._record(row)

    def finish(self) -> dict[str, Any]:
        """Save the student of the last epoch and write run.json; returns its content."""
        report = run_report(
            self.task,
            self.config,
            self.session,
            self.state,
            resolved=self.folder.resolved,
            teacher=self.teacher,
            validation=self.validation,
            match=self.match,
        )
        if self.ranks.is_main:
            self._save(LAST_NAME)
            self.folder.write_metrics(self.state.history)
            return self.folder.finish(report)
        return report

    def _evaluator(self, machine: Machine) -> Evaluator | None:
        if self.validation is None:
            return None
        kind = loader_for(self.validation, machine.loader, self.config.image_px)
        loader = self._opened.enter_context(closing(self.session.open(self.validation.data, EVALUATION, kind)))
        return Evaluator(
            self.validation,
            loader,
            self.session.student,
            ranks=self.ranks,
            batch_size=self.session.plan.rank_batch_size,
        )

    def _recorder(self) -> Recorder | None:
        if not self.config.record_dynamics:
            return None
        return Recorder(
            self.task,
            self.config,
            self.session,
            ranks=self.ranks,
            folder=self.folder,
            epochs_done=self.state.epochs_done,
        )

    def _steps_of(self, number: int) -> int:
        """Return the most steps an epoch can take: --steps cuts the last epoch short, infobatch leaves samples out."""
        steps_per_epoch = self.session.plan.steps_per_epoch
        return min(steps_per_epoch, self.session.steps - number * steps_per_epoch)

    def _evaluate(self, number: int) -> Metrics | None:
        is_due = (number + 1) % self.config.eval_every == 0 or number + 1 == self.config.epochs
        return self.evaluator() if self.evaluator is not None and is_due else None

    def _record_dynamics(self, number: int) -> float:
        """Record the dynamics of an epoch; return the seconds it takes, 0 if nothing is recorded."""
        if self.recorder is None:
            return 0.0
        started = time.perf_counter()
        self.recorder(number)
        return time.perf_counter() - started

    def _advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(count)

    def _row(
        self, number: int, trained: EpochResult, metrics: Metrics | None, recording_s: float, evaluation_s: float
    ) -> Row:
        now = time.perf_counter()
        total_s, self._clock = now - self._clock, now
        return {
            "epoch": number + 1,
            "steps": trained.steps,
            "samples_shown": trained.samples,
            "lr": trained.learning_rate,
            "train_loss": trained.loss,
            "train_top1": trained.top1,
            "val_top1": metrics.top1 if metrics is not None else None,
            "val_top5": metrics.top5 if metrics is not None else None,
            "val_loss": metrics.loss if metrics is not None and math.isfinite(metrics.loss) else None,
            "images_per_s": trained.images_per_s,
            "waiting_for_data_s": trained.waiting_s,
            "compute_s": trained.compute_s,
            "recording_s": recording_s,
            "evaluation_s": evaluation_s,
            "total_s": total_s,
        }

    def _record(self, row: Row) -> None:
        # The best weights go first: if the run is killed in between, the resumed run finds the same epoch best again.
        if self.state.best is row:
            self._save(BEST_NAME)
        self.folder.record(self.state)
        note(epoch_line(row, self.config, self.state.best, self.session.plan))

    def _save(self, name: str) -> None:
        row = self.state.history[-1]
        facts = {
            "manifest_id": self.task.manifest.id,
            "run_digest": self.folder.digest,
            "epoch": str(row["epoch"]),
            "val_top1": "" if row["val_top1"] is None else f"{row['val_top1']:.6f}",
        }
        student = self.session.student
        save_student(self.folder.path / name, student.model, student.info, facts)
