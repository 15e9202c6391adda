"""The target logits of a batch: stored or live, then revised, and replaced where the teacher is unsure."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.batches import Batch
from trainer.data.label_decoder import LabelDecoder
from trainer.loop.distributed import Ranks, sum_over_ranks
from trainer.losses import LOSSES
from trainer.losses.revise import revise
from trainer.losses.unsure import is_unsure, softened
from trainer.teachers.teacher import Teacher


@dataclass(frozen=True)
class Targets:
    """The targets of one epoch, under its configuration."""

    config: TrainConfig
    decode: LabelDecoder
    teacher: Teacher | None
    _unsure: list[Tensor] = field(default_factory=list)
    """(n,) of each batch: whether the teacher was unsure."""

    def __call__(self, batch: Batch) -> Tensor | None:
        """Return target logits (n, C) at T = 1 for a softmax at the temperature; None if the loss uses none."""
        config, entry = self.config, LOSSES[self.config.loss]
        temperature = config.temperature
        if not entry.needs_targets:
            return None
        live = None if self.teacher is None else self.teacher(batch.images)
        if live is None and batch.target is None:
            return None
        label = batch.label if entry.needs_label_logit or config.revise_eta is not None else None
        target = self._logits(batch, live, temperature, label)
        if config.revise_eta is not None:
            target = revise(
                target, batch.label, eta=config.revise_eta, temperature=temperature, scope=config.revise_scope
            )
        if config.unsure_below is None or config.unsure_smoothing is None:
            return target
        unsure_n = is_unsure(self._logits(batch, live, 1.0), config.unsure_below)
        self._unsure.append(unsure_n)
        return softened(target, batch.label, unsure_n, smoothing=config.unsure_smoothing, temperature=temperature)

    def unsure_share(self, ranks: Ranks) -> float | None:
        """Return the share of the labels so far, of all ranks, of which the teacher was unsure; None without any."""
        if not self._unsure:
            return None
        unsure_n = torch.cat(self._unsure).double()
        unsure, count = sum_over_ranks(ranks, torch.stack([unsure_n.sum(), torch.ones_like(unsure_n).sum()])).tolist()
        return float(unsure / count)

    def _logits(self, batch: Batch, live: Tensor | None, temperature: float, label: Tensor | None = None) -> Tensor:
        """Return the teacher's logits (n, C), for a softmax at a temperature."""
        if live is not None:
            return live
        assert batch.target is not None
        return self.decode(batch.target, temperature, label)
