"""Batches through FFCV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from manifests.betons.reader import Beton
from manifests.format.header import Preprocessing
from trainer.data.views import ViewRecipe, plan_views

if TYPE_CHECKING:
    pass
from trainer.data.batches import MEAN_VIEW, Batch, RowColumns, targets_of_rows


class FfcvLoader:
    """Batches through FFCV; built and compiled once, used for every epoch."""

    kind: Literal["ffcv"] = "ffcv"

    def __init__(
        self,
        beton: Beton,
        columns: RowColumns,
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        workers: int | None,
        device: torch.device,
        reason: str,
    ) -> None:
        from trainer.data.ffcv_boundary import FfcvReader

        self.reason, self.count = reason, columns.count
        self._beton, self._columns, self._device = beton, columns, device
        self._recipe, self._preprocessing = recipe, preprocessing
        self._reader = FfcvReader(
            beton,
            size_px=preprocessing.image_px,
            interpolation=preprocessing.interpolation,
            threads=workers,
        )

    def batches(
        self,
        rows_n: NDArray[np.int64],
        *,
        view_n: ArrayLike = 0,
        target_view_n: ArrayLike = 0,
        batch_size: int,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches; see ViewLoader.batches."""
        rows_n, view_n, target_view_n = self._columns.check(rows_n, view_n, target_view_n, self._recipe)
        if drop_last:
            count = len(rows_n) // batch_size * batch_size
            rows_n, view_n, target_view_n = rows_n[:count], view_n[:count], target_view_n[:count]
        view_id_n = self._columns.view_id_N[rows_n]
        widths_n, heights_n = self._beton.widths_N[rows_n], self._beton.heights_N[rows_n]
        scored_n2 = self._beton.drawn_sizes(rows_n)
        plan = plan_views(self._recipe, self._preprocessing, view_id_n, view_n, widths_n, heights_n, scored_n2)
        start = 0
        # Where the mean is requested, it overwrites what the kernel copied.
        for images, target in self._reader.batches(rows_n, plan, np.maximum(target_view_n, 0), batch_size):
            part = slice(start, start + len(images))
            start = part.stop
            is_mean_b = target_view_n[part] == MEAN_VIEW
            if target is not None and is_mean_b.any():
                target[is_mean_b] = targets_of_rows(
                    self._beton, rows_n[part][is_mean_b], target_view_n[part][is_mean_b]
                )
            yield self._columns.batch(
                rows_n[part],
                self._own(images),
                None if target is None else self._own(target),
                self._device,
            )

    def close(self) -> None:
        """Do nothing: between epochs, only memory is held."""

    def _own(self, slot: NDArray[np.uint8] | NDArray[np.float16]) -> torch.Tensor:
        """Return a copy on the device: FFCV refills the slot, so the copy must be done before the next batch."""
        if self._device.type == "cpu":
            return torch.from_numpy(slot.copy())
        return torch.from_numpy(slot).to(self._device)
