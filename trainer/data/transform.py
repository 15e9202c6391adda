"""The evaluation view as a transform of one image, for datasets of other libraries."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.format.header import Preprocessing
from trainer.data.batches import evaluation_view
from trainer.models.normalise import normalise

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EvaluationTransform:
    """A PIL image, or (H, W, 3) uint8, to a normalised float32 (3, S, S): what a network is evaluated on."""

    preprocessing: Preprocessing

    def __call__(self, image: "Image | NDArray[np.uint8]") -> torch.Tensor:
        """Resize, cut out the centre, normalise."""
        pixels_HW3 = image if isinstance(image, np.ndarray) else np.array(image.convert("RGB"))
        view_SS3 = torch.from_numpy(evaluation_view(np.ascontiguousarray(pixels_HW3), self.preprocessing))
        return normalise(view_SS3.permute(2, 0, 1)[None], self.preprocessing)[0]
