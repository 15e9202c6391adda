"""Batches through torch's DataLoader, with Pillow and numpy alone: works without ffcv and numba, and on any source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from manifests.beton import Beton
from manifests.errors import InputError, PruneError
from manifests.header import Preprocessing
from manifests.images import ImageProblem, decode_rgb
from trainer.loading import Batch, RowColumns
from trainer.resample import draw_view, place_block
from trainer.views import ViewRecipe, plan_views

if TYPE_CHECKING:
    from manifests.sources.base import Source

PROCESS_ROWS = 4096
"""Fewer images to decode than this are done sooner than worker processes have started."""

Request = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Rows, views and target views of a batch."""
Drawn = tuple[torch.Tensor, torch.Tensor | None]


class TorchLoader:
    """Batches through a DataLoader whose dataset draws whole batches; worker processes are spawned and kept."""

    kind: Literal["torch"] = "torch"

    def __init__(
        self,
        data: Beton | Source,
        columns: RowColumns,
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        workers: int,
        device: torch.device,
        reason: str,
    ) -> None:
        self.reason, self.count = reason, columns.count
        self._columns, self._recipe, self._device = columns, recipe, device
        self._requests = _Requests()
        encoded = columns.count if not isinstance(data, Beton) else int((data.modes_N == 0).sum())
        processes = workers if encoded >= PROCESS_ROWS else 0
        self._loader: Any = torch.utils.data.DataLoader[Any](
            ViewDataset(data, columns.view_id_N, recipe, preprocessing),
            batch_sampler=self._requests,  # type: ignore[arg-type]
            num_workers=processes,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            persistent_workers=processes > 0,
            multiprocessing_context="spawn" if processes else None,
            generator=torch.Generator(),  # else every pass draws from the global one
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
        """As ViewLoader.batches."""
        rows_n, view_n, target_view_n = self._columns.check(rows_n, view_n, target_view_n, self._recipe)
        stop = len(rows_n) // batch_size * batch_size if drop_last else len(rows_n)
        parts = [slice(start, min(start + batch_size, stop)) for start in range(0, stop, batch_size)]
        self._requests.batches = [(rows_n[part], view_n[part], target_view_n[part]) for part in parts]
        for part, drawn in zip(parts, self._loader, strict=True):
            if isinstance(drawn, PruneError):
                raise drawn
            images, target = drawn
            target = None if target is None else target.to(self._device)
            yield self._columns.batch(rows_n[part], images.to(self._device), target, self._device)

    def close(self) -> None:
        """End the worker processes."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None


class _Requests:
    """The batch sampler: what the next pass asks for."""

    def __init__(self) -> None:
        self.batches: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_it_is(drawn: Drawn | PruneError) -> Drawn | PruneError:
    return drawn


class ViewDataset(torch.utils.data.Dataset[Any]):
    """Draws a batch at a time; crosses to a worker process as the paths and arrays it is made of."""

    def __init__(
        self,
        data: Beton | Source,
        view_id_N: NDArray[np.uint64],
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
    ) -> None:
        self._data, self._view_id_N = data, view_id_N
        self._recipe, self._preprocessing = recipe, preprocessing

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if isinstance(self._data, Beton):
            state["_data"] = self._data.path
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not hasattr(self._data, "read") and not isinstance(self._data, Beton):
            self._data = Beton.open(self._data)

    def __getitems__(self, request: Request) -> Drawn | PruneError:
        """(n, S, S, 3) uint8 and (n, C) float16; an error comes back as a value, whole across processes."""
        rows_n, view_n, target_view_n = request
        try:
            images = self._draw(rows_n, view_n)
            target = None
            if isinstance(self._data, Beton) and self._data.target_shape is not None:
                stored_nVC = self._data.targets(rows_n)
                target = torch.from_numpy(stored_nVC[np.arange(len(rows_n)), target_view_n])
            return torch.from_numpy(images), target
        except PruneError as error:
            return error

    def _draw(self, rows_n: NDArray[np.int64], view_n: NDArray[np.int64]) -> NDArray[np.uint8]:
        view_id_n, size_px = self._view_id_N[rows_n], self._preprocessing.image_px
        out_nSS3 = np.empty((len(rows_n), size_px, size_px, 3), np.uint8)
        interpolation = self._preprocessing.interpolation
        if isinstance(self._data, Beton):
            width_n, height_n = self._data.widths_N[rows_n], self._data.heights_N[rows_n]
            plan = plan_views(self._recipe, self._preprocessing, view_id_n, view_n, width_n, height_n)
            if plan.is_whole(width_n, height_n).all() and (block := self._data.raw_block(rows_n)) is not None:
                left, top = plan.grid_n4[0, 2:].tolist()
                return place_block(block[:, top : top + size_px, left : left + size_px], plan.shift_n2, plan.flip_n)
            for position, row in enumerate(rows_n.tolist()):
                draw_view(self._data.pixels(row), plan, position, interpolation, out_nSS3[position])
            return out_nSS3
        for position, pixels in enumerate(self._decoded(self._data, rows_n.tolist())):
            width, height = (np.array([side], np.int32) for side in pixels.shape[1::-1])
            one = slice(position, position + 1)
            plan = plan_views(self._recipe, self._preprocessing, view_id_n[one], view_n[one], width, height)
            draw_view(pixels, plan, 0, interpolation, out_nSS3[position])
        return out_nSS3

    @staticmethod
    def _decoded(source: Source, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row, image in zip(rows, source.read(rows), strict=True):
            try:
                if isinstance(image, ImageProblem):
                    raise image
                yield decode_rgb(image)
            except ImageProblem as problem:
                raise InputError(
                    f"{source.name}: {source.keys[row]}: {problem}",
                    hint="remove it, or index the data: an index leaves unreadable images out",
                ) from None
