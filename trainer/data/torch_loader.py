"""Batches through torch's DataLoader, with Pillow and numpy: works without ffcv and numba, and for every source."""

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifests.betons.reader import Beton
from manifests.errors import InputError, PruneError
from manifests.format.header import Preprocessing
from manifests.format.stored_form import StoredForm
from manifests.images.decode import MODE_JPEG, ImageProblem, Pixels, RawImage, decode_rgb
from manifests.sources.base import Source
from trainer.data.batches import Drawn, Request, RowColumns, ViewLoader, targets_of_rows
from trainer.data.resample import draw_view, place_block
from trainer.data.views import ViewPlan, ViewRecipe, plan_views

PROCESS_ROWS = 4096
"""Decoding fewer images than this takes less time than starting worker processes."""


class TorchLoader(ViewLoader):
    """Batches through a DataLoader whose data set draws whole batches; worker processes are spawned and kept."""

    kind = "torch"

    def __init__(
        self,
        data: Beton | Source,
        columns: RowColumns,
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        workers: int,
        device: torch.device,
        reason: str,
        form: StoredForm | None = None,
    ) -> None:
        super().__init__(columns, recipe, device, reason)
        self._requests: list[Request] = []
        processes = workers if _to_decode(data, columns.count) >= PROCESS_ROWS else 0
        self._loader: Any = torch.utils.data.DataLoader[Any](
            ViewDataset(data, columns.view_id_N, recipe, preprocessing, form),
            sampler=self._requests,
            batch_size=None,
            num_workers=processes,
            persistent_workers=processes > 0,
            multiprocessing_context="spawn" if processes else None,
            generator=torch.Generator(),  # otherwise every pass draws from the global one
        )

    def _drawn(self, request: Request, batch_size: int) -> Generator[Drawn, None, None]:
        rows_n, view_n, target_view_n = request
        parts = [slice(start, start + batch_size) for start in range(0, len(rows_n), batch_size)]
        self._requests[:] = [(rows_n[part], view_n[part], target_view_n[part]) for part in parts]
        for drawn in self._loader:
            if isinstance(drawn, PruneError):
                raise drawn
            images, target = drawn
            yield images.to(self._device), None if target is None else target.to(self._device)

    def close(self) -> None:
        """End the worker processes."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None


class ViewDataset(torch.utils.data.Dataset[Any]):
    """A data set that draws one batch at a time; it is pickled for worker processes as paths and arrays."""

    def __init__(
        self,
        data: Beton | Source,
        view_id_N: NDArray[np.uint64],
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        form: StoredForm | None = None,
    ) -> None:
        """`form`: that of the stored labels, needed for means over views if it is not float16."""
        self._form = form
        self._data, self._view_id_N = data, view_id_N
        self._recipe, self._preprocessing = recipe, preprocessing

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": self._data.path if isinstance(self._data, Beton) else self._data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["_data"], Path):
            self._data = Beton.open(state["_data"])

    def __getitem__(self, request: Request) -> Drawn | PruneError:
        """Return images (n, S, S, 3) uint8 and targets as in `Batch`.

        An error is returned, so that it crosses processes intact.
        """
        rows_n, view_n, target_view_n = request
        try:
            images = self._draw(rows_n, view_n)
            target = None
            if isinstance(self._data, Beton) and self._data.target_shape is not None:
                target = torch.from_numpy(targets_of_rows(self._data, rows_n, target_view_n, self._form))
            return torch.from_numpy(images), target
        except PruneError as error:
            return error

    def _draw(self, rows_n: NDArray[np.int64], view_n: NDArray[np.int64]) -> NDArray[np.uint8]:
        view_id_n, size_px = self._view_id_N[rows_n], self._preprocessing.image_px
        plan_of = partial(plan_views, self._recipe, self._preprocessing)
        # Each run of equal rows is one image, which is read and decoded once.
        starts_g = np.flatnonzero(np.diff(rows_n, prepend=-1))
        rows = rows_n[starts_g].tolist()
        images: Iterable[NDArray[np.uint8]]
        plan: ViewPlan | None = None
        if isinstance(self._data, Beton):
            block, images = self._data.raw_block(rows_n[starts_g]), map(self._data.pixels, rows)
            width_n, height_n = self._data.widths_N[rows_n], self._data.heights_N[rows_n]
            plan = plan_of(view_id_n, view_n, width_n, height_n, self._data.drawn_sizes(rows_n))
        else:
            read = self._data.read(rows)
            block, images = _pixel_block(read), self._decoded(self._data, rows, read)
            if block is not None:
                height_n, width_n = (np.full(len(rows_n), side, np.int32) for side in block.shape[1:3])
                plan = plan_of(view_id_n, view_n, width_n, height_n)
        ends_g = np.append(starts_g[1:], len(rows_n))
        if block is not None and plan is not None and plan.is_whole(width_n, height_n).all():
            left, top = plan.grid_n4[0, 2:].tolist()
            square = block[:, top : top + size_px, left : left + size_px]
            if len(square) < len(rows_n):
                square = np.repeat(square, ends_g - starts_g, axis=0)
            return place_block(square, plan.shift_n2, plan.flip_n)
        out_nSS3 = np.empty((len(rows_n), size_px, size_px, 3), np.uint8)
        for start, end, pixels in zip(starts_g.tolist(), ends_g.tolist(), images, strict=True):
            if plan is None:
                height_v, width_v = (np.full(end - start, side, np.int32) for side in pixels.shape[:2])
                drawn, first = plan_of(view_id_n[start:end], view_n[start:end], width_v, height_v), 0
            else:
                drawn, first = plan, start
            for offset in range(end - start):
                out_SS3 = out_nSS3[start + offset]
                draw_view(pixels, drawn, first + offset, self._preprocessing.interpolation, out_SS3)
        return out_nSS3

    @staticmethod
    def _decoded(source: Source, rows: list[int], read: list[RawImage | ImageProblem]) -> Iterator[NDArray[np.uint8]]:
        for row, image in zip(rows, read, strict=True):
            try:
                if isinstance(image, ImageProblem):
                    raise image
                yield decode_rgb(image)
            except ImageProblem as problem:
                raise InputError(
                    f"{source.name}: {source.keys[row]}: {problem}",
                    hint="remove it, or index the data first: an index leaves unreadable images out",
                ) from None


def _pixel_block(read: list[RawImage | ImageProblem]) -> NDArray[np.uint8] | None:
    """Return (n, H, W, 3) if all images are pixels of one shape, else None."""
    arrays = [image.array for image in read if isinstance(image, Pixels)]
    if not arrays or len(arrays) < len(read) or len({array.shape for array in arrays}) > 1:
        return None
    block = np.stack(arrays)
    block = block if block.ndim == 4 else block[..., None]
    return block if block.shape[3] == 3 else np.repeat(block, 3, axis=3)


def _to_decode(data: Beton | Source, count: int) -> int:
    """Return how many images are stored encoded; for a source, the first image decides for all."""
    if isinstance(data, Beton):
        return int((data.modes_N == MODE_JPEG).sum())
    return count if count and not isinstance(data.read([0])[0], Pixels) else 0
