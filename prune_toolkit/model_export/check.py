"""An exported network against the module it was made from: the same images, and the largest difference of logits."""

import math
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from manifests.base.progress import Progress
from manifests.errors import InputError
from prune_toolkit.images.readers import ImagesAtHand
from prune_toolkit.model_export.exportable import Exportable
from prune_toolkit.model_export.formats import Network

IMAGES = 256
BATCHES = (1, 31, *(32,) * 7)
"""Sizes of the batches they are shown in: the batch axis must be dynamic."""
TOLERANCE = 1e-3
"""Largest difference that is accepted, as a share of the largest logit. Runtimes add up in another order, which makes
about 1e-6; another normalisation, or batch norm in training mode, makes more."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the logits of two networks are apart."""

    images: int
    largest: float
    largest_logit: float
    """Largest absolute logit of the module."""

    @property
    def is_small(self) -> bool:
        """Whether it is only rounding; nan is not."""
        return self.largest <= TOLERANCE * self.largest_logit


def noise_images(image_px: int) -> torch.Tensor:
    """Return uint8 noise (256, 3, S, S), always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (IMAGES, 3, image_px, image_px), dtype=torch.uint8, generator=generator)


def images_of(data: ImagesAtHand, model: Exportable, workers: int) -> torch.Tensor:
    """Return up to 256 images spread over the data, as the student was evaluated on them, uint8 (n, 3, S, S)."""
    ids = data.readable(np.arange(data.count))
    if not len(ids):
        raise InputError("none of the images to check on can be read")
    chosen = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), IMAGES)).astype(np.int64))]
    reader = data.open(model.info.preprocessing, device=torch.device("cpu"), workers=workers, loader="torch")
    with closing(reader):
        shown = [pixels.clone() for _, pixels in reader.batches(chosen, IMAGES)]
    if not shown:
        raise InputError("none of the images to check on can be read")
    return torch.cat(shown).contiguous()


def difference(model: Exportable, exported: Network, images: torch.Tensor) -> Difference:
    """Compare logits on uint8 images (n, 3, S, S); InputError if the module's own are not finite."""
    largest, largest_logit = 0.0, 0.0
    with torch.inference_mode(), Progress(len(images), "checking") as progress:
        for batch in _cut(images):
            ours = model.logits(batch)
            if not bool(ours.isfinite().all()):
                raise InputError("the student's logits are not finite", hint="check that its weights are not damaged")
            theirs = exported(model.inputs(batch))
            apart = (theirs - ours).abs().max().item() if theirs.shape == ours.shape else math.nan
            largest_logit = max(largest_logit, ours.abs().max().item())
            # nan is neither above nor below, and stays.
            if not apart <= largest:
                largest = apart
            if math.isnan(largest):
                break
            progress.advance(len(batch))
    return Difference(images=len(images), largest=largest, largest_logit=largest_logit)


def _cut(images: torch.Tensor) -> list[torch.Tensor]:
    ends = [min(end, len(images)) for end in np.cumsum(BATCHES).tolist()]
    return [images[start:end] for start, end in pairwise((0, *ends)) if start < end]
