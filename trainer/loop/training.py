"""A training run, from its first epoch or its last checkpoint to run.json.

train-student --manifest selection --student resnet8x4 --val data
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from manifests.base.progress import Progress, note
from manifests.errors import UsageError
from trainer.config import TrainConfig
from trainer.data.task import Task, Validation
from trainer.data.views import EVALUATION
from trainer.loop.budget import MatchTime, keep_steps, kept_steps, timed_trial
from trainer.loop.distributed import Ranks, from_main, process_group
from trainer.loop.epoch_config import changing_values
from trainer.loop.evaluation import Evaluator, loader_for
from trainer.loop.record_dynamics import Recorder
from trainer.loop.run_folder import BEST_NAME, LAST_NAME, RUN_NAME, Row, RunFolder, State, epoch_name
from trainer.loop.run_report import check_report, epoch_line, run_report
from trainer.loop.session import Machine, TrainingSession, live_teacher
from trainer.loop.student import choose_device
from trainer.models.weights import save_student
from trainer.teachers.teacher import Teacher
from trainer.teachers.teacher_spec import TeacherSpec

__all__ = ["Machine", "train"]


def train(
    task: Task,
    config: TrainConfig,
    *,
    validation: Validation | None,
    out: Path,
    machine: Machine,
    fresh: bool = False,
    teacher_spec: TeacherSpec | None = None,
    match: MatchTime | None = None,
) -> dict[str, Any]:
    """Train a student and return the content of run.json; an unfinished run of the same configuration is resumed.

    teacher_spec: what else is known of the live teacher, if `config` names one. match: take the time of another run;
    `config` then has no number of steps. Under torchrun this process is one of the ranks. Raises UsageError if `out`
    holds another run, InputError if the loss is not finite, IncompleteError if another rank is lost.
    """
    task.check(config)
    ranks = Ranks.from_environment()
    device = choose_device(machine.device, ranks)
    if config.precision == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs CUDA", hint="take --precision bf16 or fp32")
    with process_group(ranks, device):
        teacher = live_teacher(task, config, teacher_spec, device)
        config = _identified(config, teacher, teacher_spec)
        open_session = partial(TrainingSession, task, teacher=teacher, machine=machine, ranks=ranks, device=device)
        if match is not None:
            folder = RunFolder(out, task.resolved(config, validation))
            with_steps = _matched(match, folder, ranks, lambda: open_session(config, state=State()), fresh=fresh)
            config, fresh = _identified(with_steps, teacher, teacher_spec), False
        folder = RunFolder(out, task.resolved(config, validation))
        state, report = from_main(ranks, lambda: (folder.open(fresh=fresh), folder.finished()))
        if report is not None:
            check_report(report, out / RUN_NAME)
            if ranks.is_main:
                note(f"{out} already holds this run, finished; to train it again, give --fresh")
            return report
        started = time.perf_counter()
        with ExitStack() as opened:
            session = opened.enter_context(closing(open_session(config, state=state)))
            run = _Run(session, folder, state, validation, match, opened, started)
            while run.state.epochs_done < config.epochs:
                run.epoch()
            return run.finish()


def _identified(config: TrainConfig, teacher: Teacher | None, spec: TeacherSpec | None) -> TrainConfig:
    """Return the configuration with the loaded teacher's spec, weights and said outputs, whatever its file's name."""
    if teacher is None:
        return config
    said = {*(config.teacher_images or {})}
    if teacher.info.stated is not None and "mean" not in teacher.info.unknown:
        said |= {"mean", "std"}
    images = {name: value for name, value in teacher.preprocessing.model_dump().items() if name in said}
    return replace(
        config,
        teacher=teacher.info.spec,
        teacher_weights=teacher.weights_sha256,
        teacher_images=images or None,
        teacher_outputs=teacher.reading.card() if spec is not None and spec.says_outputs else None,
    )


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
    """The parts of a run and its state."""

    def __init__(
        self,
        session: TrainingSession,
        folder: RunFolder,
        state: State,
        validation: Validation | None,
        match: MatchTime | None,
        opened: ExitStack,
        started: float,
    ) -> None:
        """opened: closes what the run opens. started: the time from which the first epoch counts."""
        self.session, self.folder, self.state = session, folder, state
        self.validation, self.match, self._clock = validation, match, started
        self.evaluator: Evaluator | None = None
        if validation is not None:
            kind = loader_for(validation, session.machine.loader, session.config.image_px)
            loader = opened.enter_context(closing(session.open(validation.data, EVALUATION, kind)))
            self.evaluator = Evaluator(session, validation, loader)
        self.recorder = Recorder(session, folder, state.epochs_done) if session.config.record_dynamics else None
        self._progress: Progress | None = None
        if session.ranks.is_main:
            steps = max(0, session.steps - state.epochs_done * session.plan.steps_per_epoch)
            self._progress = opened.enter_context(Progress(steps * session.plan.batch_size, "training"))

    def epoch(self) -> None:
        """Train one epoch, evaluate, and record both."""
        session, number, progress = self.session, self.state.epochs_done, self._progress
        # --steps cuts the last epoch short, infobatch leaves samples out.
        steps = min(session.plan.steps_per_epoch, session.steps - number * session.plan.steps_per_epoch)
        trained = session.epoch(number, steps=steps, on_batch=None if progress is None else progress.advance)
        if progress is not None:
            progress.shorten(steps * session.plan.batch_size - trained.samples)
        started = time.perf_counter()
        if self.recorder is not None:
            self.recorder(number)
        recorded = time.perf_counter()
        is_due = (number + 1) % session.config.eval_every == 0 or number + 1 == session.config.epochs
        metrics = self.evaluator() if self.evaluator is not None and is_due else None
        evaluated = time.perf_counter()
        total_s, self._clock = evaluated - self._clock, evaluated
        row: Row = {
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
            "recording_s": recorded - started if self.recorder is not None else 0.0,
            "evaluation_s": evaluated - recorded,
            "total_s": total_s,
            **changing_values(session.config, number),
            **({} if session.config.unsure_below is None else {"unsure": session.unsure_share}),
        }
        history = [*self.state.history, row]
        self.state = replace(self.state, history=history, losses=session.losses, **session.student.state())
        if session.ranks.is_main:
            # Weights go first: if the run is killed in between, the resumed run writes the same.
            if self.state.best is row:
                self._save(BEST_NAME)
            if number + 1 in session.config.keep_epochs:
                self._save(epoch_name(number + 1))
            self.folder.record(self.state)
            note(epoch_line(row, session.config, self.state.best, session.plan, unlabelled=session.task.is_unlabelled))

    def finish(self) -> dict[str, Any]:
        """Save the student of the last epoch and write run.json; returns its content."""
        if self.recorder is not None:
            self.recorder.finish()
        report = run_report(
            self.session, self.state, resolved=self.folder.resolved, validation=self.validation, match=self.match
        )
        if not self.session.ranks.is_main:
            return report
        self._save(LAST_NAME)
        self.folder.write_metrics(self.state.history)
        return self.folder.finish(report)

    def _save(self, name: str) -> None:
        row, student = self.state.history[-1], self.session.student
        facts = {
            "manifest_id": self.session.task.manifest.id,
            "run_digest": self.folder.digest,
            "epoch": str(row["epoch"]),
            "val_top1": "" if row["val_top1"] is None else f"{row['val_top1']:.6f}",
        }
        save_student(self.folder.path / name, student.model, student.info, facts)
