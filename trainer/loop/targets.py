"""The target logits of a batch: stored or from a live teacher, then revised."""

from dataclasses import dataclass

from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.data.dense_labels import dense_logits
from trainer.data.stored import StoredLabels
from trainer.losses import LOSSES
from trainer.losses.revise import revise
from trainer.teachers.teacher import Teacher


@dataclass(frozen=True)
class Targets:
    """The targets under the configuration of an epoch."""

    config: TrainConfig
    stored: StoredLabels
    class_count: int
    teacher: Teacher | None

    def __call__(self, batch: Batch) -> Tensor | None:
        """Return target logits (n, C) at T = 1 for a softmax at the temperature; None if the loss uses none."""
        config, entry = self.config, LOSSES[self.config.loss]
        if not entry.needs_targets:
            return None
        if self.teacher is not None:
            target = self.teacher(batch.images)
        elif batch.target is None:
            return None
        else:
            label = batch.label if entry.needs_label_logit or config.revise_eta is not None else None
            target = dense_logits(batch.target, self.stored.top_k, self.class_count, config.temperature, label)
        if config.revise_eta is None:
            return target
        return revise(
            target, batch.label, eta=config.revise_eta, temperature=config.temperature, scope=config.revise_scope
        )
