"""Evaluation of a student on its validation set: each sample counts once, whatever the number of ranks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from manifests.betons.reader import Beton
from manifests.images.decode import MODE_RAW
from trainer.data.batches import ViewLoader
from trainer.data.order import rank_share
from trainer.data.task import Validation
from trainer.loop.distributed import share_buffers, sum_over_ranks
from trainer.loop.session import TrainingSession
from trainer.models.normalise import normalise

CACHE_BYTES = 1 << 30
"""Decoded validation images up to this size in all stay in memory: they are the same in every epoch."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of a classifier on one set of samples."""

    top1: float
    """Fraction of samples whose largest logit is the label's."""
    top5: float
    """Fraction whose label is among the five largest logits, or among all if there are fewer classes."""
    loss: float
    """Mean cross-entropy at T = 1, without label smoothing."""
    count: int


def batch_sums(logits_NC: Tensor, label_N: Tensor) -> Tensor:
    """Return the sums of loss, top-1 hits, top-5 hits and samples of a batch; (4,) float64 on the logits' device."""
    logits_NC = logits_NC.float()
    loss_N = F.cross_entropy(logits_NC, label_N, reduction="none")
    top1_N = logits_NC.argmax(dim=1) == label_N
    top5_Nk = logits_NC.topk(min(5, logits_NC.shape[1]), dim=1).indices
    top5_N = (top5_Nk == label_N[:, None]).any(dim=1)
    count = torch.tensor(len(label_N), dtype=torch.float64, device=logits_NC.device)
    return torch.stack([loss_N.double().sum(), top1_N.double().sum(), top5_N.double().sum(), count])


def metrics_of(sums: Tensor) -> Metrics:
    """Return the metrics from the (4,) sums over all batches and ranks."""
    loss, top1, top5, count = sums.tolist()
    return Metrics(top1=top1 / count, top5=top5 / count, loss=loss / count, count=int(count))


def fits_in_memory(count: int, image_px: int) -> bool:
    """Return whether `count` decoded images fit into CACHE_BYTES."""
    return count * 3 * image_px**2 <= CACHE_BYTES


def loader_for(validation: Validation, asked: str, image_px: int) -> str:
    """Return the loader kind for validation images: torch for sources, and for raw images that are read only once.

    Compiling the FFCV loader takes seconds, reading 10,000 raw images into memory takes half a second.
    """
    if not isinstance(validation.data, Beton):
        return "torch"
    is_raw = bool((validation.data.modes_N == MODE_RAW).all())
    return "torch" if asked == "auto" and is_raw and fits_in_memory(validation.count, image_px) else asked


class Evaluator:
    """Computes top-1, top-5 and loss on view 0; reads the images once if they fit into CACHE_BYTES."""

    def __init__(self, session: TrainingSession, validation: Validation, loader: ViewLoader) -> None:
        ranks, student = session.ranks, session.student
        self._ranks, self._student, self._loader = ranks, student, loader
        self._batch_size = session.plan.rank_batch_size
        self._rows_n = rank_share(validation.count, rank=ranks.rank, world_size=ranks.world_size)
        self._label_map = torch.from_numpy(validation.label_map).to(student.device)
        self._keep = fits_in_memory(len(self._rows_n), student.info.preprocessing.image_px)
        self._cache: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self) -> Metrics:
        """Evaluate on all ranks together; leaves the student in evaluation mode."""
        student = self._student
        share_buffers(self._ranks, student.model)
        student.model.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=student.device)
        with torch.inference_mode(), student.autocast():
            for images, label in self._batches():
                pixels = normalise(images, student.info.preprocessing, torch.float32)
                sums += batch_sums(student.model(pixels), label)
        return metrics_of(sum_over_ranks(self._ranks, sums))

    def _batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        if self._cache is not None:
            return self._cache
        batches = self._loader.batches(self._rows_n, view_n=0, batch_size=self._batch_size)
        read = ((batch.images, self._label_map[batch.label]) for batch in batches)
        if not self._keep:
            return read
        self._cache = list(read)
        return self._cache
