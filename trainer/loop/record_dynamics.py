"""The record of a run's dynamics: the student's result on every sample in each epoch, trained on or not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.errors import InputError, UsageError
from manifests.format.dynamics import (
    ABS_KL,
    DYNAMICS_FORMAT,
    GRAND,
    KL_FORMAT,
    DynamicsInfo,
    read_dynamics,
    write_epoch,
)
from trainer.data.batches import Batch
from trainer.data.order import rank_share
from trainer.data.task import Task
from trainer.loop.distributed import from_main, share_buffers, sum_over_ranks
from trainer.loop.dynamics_facts import FACTS, gradient_norms, logit_facts
from trainer.loop.predictions import Predictions
from trainer.loop.run_folder import RunFolder
from trainer.loop.session import TrainingSession
from trainer.models.normalise import normalise


class Recorder:
    """Computes an epoch's record after its steps, on all ranks together; rank 0 writes it."""

    def __init__(self, session: TrainingSession, folder: RunFolder, epochs_done: int) -> None:
        self._session, self._folder = session, folder
        sample_id_N = sample_ids(session.task)
        self._order_N = np.argsort(sample_id_N)
        self._sample_id_N = sample_id_N[self._order_N]
        self._stepped: tuple[int, ...] | None = ()
        """Number of samples that each epoch trained on, known to rank 0; None if an older record lacks it."""
        if session.config.record_grand > epochs_done:
            self._try_gradients()
        from_main(session.ranks, lambda: self._go_on(epochs_done))
        if session.config.record_kl and epochs_done < session.config.epochs:
            shape = (len(sample_id_N), len(session.task.class_names))
            session.predictions = Predictions(folder.path, shape, session.ranks, epochs_done=epochs_done)

    def __call__(self, number: int) -> None:
        """Record an epoch, counted from 0, whose steps the session has just taken; does not change the weights."""
        count, seen = len(self._sample_id_N), self._session.seen
        fact_NK = np.full((count, len(FACTS)), np.nan, np.float32)
        fact_NK[seen.row_n] = seen.fact_nK
        left_n = np.setdiff1d(np.arange(count), seen.row_n)
        fact_NK[left_n] = self._of_rows(left_n, number, self._facts_of, len(FACTS))
        columns = dict(zip(FACTS, fact_NK.T, strict=True))
        if number < self._session.config.record_grand:
            columns[GRAND] = self._of_rows(np.arange(count), None, self._norms_of, 1)[:, 0]
        # All ranks have all values, so all stop if one is not finite.
        in_order = {name: self._finite(name, values[self._order_N]) for name, values in columns.items()}
        if self._session.ranks.is_main:
            if self._session.predictions is not None and number:
                in_order[ABS_KL] = self._session.predictions.changes(number)[self._order_N]
            if self._stepped is not None:
                self._stepped = (*self._stepped, len(seen.row_n))
            write_epoch(self._folder.path, self._info(number), number, self._sample_id_N, in_order)

    def finish(self) -> None:
        """Remove what is no longer needed after the last epoch."""
        if self._session.predictions is not None and self._session.ranks.is_main:
            self._session.predictions.remove()

    def _of_rows(
        self, row_n: NDArray[np.int64], number: int | None, values_of: Callable[[Batch], Tensor], width: int
    ) -> NDArray[np.float32]:
        """Return values (n, width) of rows in evaluation mode, computing each row on one rank."""
        session, ranks, student = self._session, self._session.ranks, self._session.student
        share_buffers(ranks, student.model)
        student.model.eval()
        values_nK = torch.zeros((len(row_n), width), device=student.device)
        mine = rank_share(len(row_n), rank=ranks.rank, world_size=ranks.world_size)
        start = int(mine[0]) if len(mine) else 0
        for batch in session.look(row_n[mine], number):
            values_nK[start : start + len(batch.rows)] = values_of(batch)
            start += len(batch.rows)
        return sum_over_ranks(ranks, values_nK).cpu().numpy()

    def _facts_of(self, batch: Batch) -> Tensor:
        student = self._session.student
        with torch.inference_mode(), student.autocast():
            logits = student.model(normalise(batch.images, student.info.preprocessing))
        if self._session.predictions is not None:
            self._session.predictions.add(batch.rows, logits)
        return logit_facts(logits, batch.label)

    def _norms_of(self, batch: Batch) -> Tensor:
        student = self._session.student
        return gradient_norms(student.model, normalise(batch.images, student.info.preprocessing), batch.label)[:, None]

    def _try_gradients(self) -> None:
        """Raise UsageError before the first step instead of after the first epoch."""
        student = self._session.student
        side_px, was_training = student.info.preprocessing.image_px, student.model.training
        student.model.eval()
        try:
            images = torch.zeros((2, 3, side_px, side_px), device=student.device)
            gradient_norms(student.model, images, torch.zeros(2, dtype=torch.int64, device=student.device))
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"--record-grand: {student.info.spec} cannot be differentiated sample by sample: "
                f"{str(error).splitlines()[0][:200]}",
                hint="leave --record-grand out; --record-dynamics alone needs no gradients",
            ) from error
        finally:
            student.model.train(was_training)

    def _go_on(self, epochs_done: int) -> None:
        """Raise InputError if the epochs before this one are not recorded."""
        if epochs_done == 0:
            return
        info = read_dynamics(self._folder.path).info
        if info.run != self._folder.digest or info.epochs_recorded < epochs_done:
            raise InputError(
                f"{self._folder.path} has trained {epochs_done} epochs, but its record of dynamics "
                f"({info.epochs_recorded} epochs) is incomplete or of another run",
                hint="start over with --fresh",
            )
        self._stepped = None if info.stepped is None else info.stepped[:epochs_done]

    def _info(self, number: int) -> DynamicsInfo:
        manifest, config = self._session.task.manifest, self._session.config
        header = manifest.header
        return DynamicsInfo(
            format=KL_FORMAT if config.record_kl else DYNAMICS_FORMAT,
            fingerprint=header.data.fingerprint,
            manifest=manifest.id,
            count=header.data.count,
            rows=len(self._sample_id_N),
            student=config.student,
            seed=config.seed,
            run=self._folder.digest,
            epochs_recorded=number + 1,
            grand_epochs=min(config.record_grand, number + 1),
            columns=(*FACTS, *([GRAND] if config.record_grand else []), *([ABS_KL] if config.record_kl else [])),
            stepped=self._stepped,
        )

    def _finite(self, name: str, values_N: NDArray[Any]) -> NDArray[Any]:
        if not np.isfinite(values_N).all():
            sample = int(self._sample_id_N[np.flatnonzero(~np.isfinite(values_N))[0]])
            raise InputError(
                f"{name} of sample {sample} is not finite: the student's logits are out of range",
                hint="lower --lr, give --warmup-epochs, or train in --precision fp32; the last whole epoch is kept",
            )
        return values_N


def sample_ids(task: Task) -> NDArray[np.int64]:
    """Return the manifest's sample_id of each row of the beton (N,); raises UsageError if the beton lacks it."""
    column = task.beton.columns.get("sample_id")
    if column is None or len(np.unique(column)) < len(column):
        raise UsageError(
            f"--record-dynamics: {task.beton.path} does not say which samples its rows are",
            hint="write it again: prune index --beton, prune select or prune label",
        )
    return column
