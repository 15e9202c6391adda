"""The only module that imports ffcv; it is imported late, when a loader is opened.

FFCV provides its file reader, a thread that works ahead, and slots of memory. These parts are ours:

- decoders: they draw the planned views with turbojpeg's accurate DCT and Pillow's resampling, so that pixels equal
  those of the Pillow pipeline byte for byte, with scratch memory for one image at a time;
- the order: a decoder gets positions, and looks up rows and views in arrays that are passed in the storage state, so
  rows may come in any number, in any order and more than once;
- the iterator: an exception in the thread reaches the consumer, and an abandoned epoch leaves no thread behind;
- compilation: FFCV compiles its glue again in every process and for every loader; ours stays Python around kernels
  that are compiled once per machine;
- torch's number of threads, which FFCV sets at import, in Loader() and in iter(), is restored.
"""

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from queue import Empty, Full
from threading import Lock
from typing import Any

import numba
import numba.typed
import numpy as np
import torch
from numpy.typing import NDArray

from manifests.betons import format as fmt
from manifests.betons.reader import Beton
from manifests.format.header import Preprocessing
from manifests.format.stored_form import StoredForm
from manifests.images.decode import MODE_RAW
from trainer.data.batches import Drawn, Request, RowColumns, ViewLoader, targets_of_rows
from trainer.data.kernels import REFUSED, copy_targets, draw_in_parallel, draw_positions, link_turbojpeg
from trainer.data.resample import draw_view
from trainer.data.views import MEAN_VIEW, ViewRecipe, plan_views


@contextmanager
def torch_untouched() -> Iterator[None]:
    """Restore torch's thread count, and silence deprecation warnings about FFCV's code."""
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def plain_dictionaries() -> Iterator[None]:
    """Give FFCV a plain dictionary for its two image modes: compiling a typed one takes 4 s at every import."""
    typed, numba.typed.Dict = numba.typed.Dict, dict
    try:
        yield
    finally:
        numba.typed.Dict = typed


with torch_untouched(), plain_dictionaries():
    from ffcv.libffcv import lib as libffcv
    from ffcv.loader import Loader, OrderOption
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.pipeline import PipelineSpec
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation


@contextmanager
def uncompiled() -> Iterator[None]:
    """Leave the glue of a loader as Python: compiling it takes 2 s per loader and makes no batch faster."""
    enabled = Compiler.is_enabled
    Compiler.set_enabled(False)
    try:
        yield
    finally:
        Compiler.set_enabled(enabled)


link_turbojpeg(libffcv._name)
POLL_S = 0.05
_ONE_AT_A_TIME = Lock()
"""Numba's fallback threading layer aborts the process if two threads enter it, and Loader() changes its types."""


class FfcvLoader(ViewLoader):
    """Batches through FFCV; built and compiled once, used for every epoch."""

    kind = "ffcv"

    def __init__(
        self,
        beton: Beton,
        columns: RowColumns,
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        workers: int | None,
        device: torch.device,
        reason: str,
        form: StoredForm | None = None,
    ) -> None:
        super().__init__(columns, recipe, device, reason)
        self._beton, self._preprocessing, self._form = beton, preprocessing, form
        self._epoch: Epoch | None = None
        self._images = (
            beton.image_pointer_N,
            beton.image_size_N,
            beton.modes_N == MODE_RAW,
            beton.heights_N,
            beton.widths_N,
        )
        no_targets = np.zeros(0, np.int64)
        self._target_pointer_N = no_targets if beton.target_pointer_N is None else beton.target_pointer_N
        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        threads = most if workers is None else max(1, min(workers, most))
        draw = draw_positions if threads == 1 else draw_in_parallel
        image = next(name for name, entry in beton.fields.items() if entry.type_id == fmt.IMAGE)
        pipelines: dict[str, Any] = dict.fromkeys(beton.fields)
        shape = (preprocessing.image_px, preprocessing.image_px, 3)
        pipelines[image] = PipelineSpec(image, decoder=Decoder(draw, shape, np.uint8, of_state=slice(1, 3)))
        if beton.target_shape is not None:
            decoder = Decoder(copy_targets, (beton.class_count,), np.int16, of_state=slice(3, 5))
            pipelines["target"] = PipelineSpec("target", decoder=decoder)
        with torch_untouched(), _ONE_AT_A_TIME, uncompiled():
            self._loader = Loader(
                str(beton.path),
                batch_size=1,
                num_workers=threads,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                seed=0,  # otherwise it draws one from numpy's global generator
                pipelines=pipelines,
                drop_last=False,
            )

    def _drawn(self, request: Request, batch_size: int) -> Generator[Drawn, None, None]:
        rows_n, view_n, target_view_n = request
        if len(rows_n) == 0:
            return
        beton, preprocessing = self._beton, self._preprocessing
        view_id_n, scored_n2 = self._columns.view_id_N[rows_n], beton.drawn_sizes(rows_n)
        widths_n, heights_n = beton.widths_N[rows_n], beton.heights_N[rows_n]
        plan = plan_views(self._recipe, preprocessing, view_id_n, view_n, widths_n, heights_n, scored_n2)
        self._loader.batch_size = min(batch_size, len(rows_n))
        bicubic = preprocessing.interpolation == "bicubic"
        code_n = np.full(len(rows_n), REFUSED, np.int8)
        state = (
            self._images,
            (rows_n, plan.box_n4, plan.grid_n4, plan.shift_n2, plan.flip_n, bicubic, code_n),
            self._target_pointer_N,
            (rows_n, np.maximum(target_view_n, 0)),
        )
        # The views of an image come in succession.
        pixels_of = lru_cache(maxsize=1)(beton.pixels)
        with torch_untouched():
            epoch = self._epoch = Epoch(self._loader, len(rows_n), state)
        with closing(epoch):
            for number, (images, *stored) in enumerate(epoch):
                start = number * self._loader.batch_size
                part = slice(start, start + len(images))
                # turbojpeg refuses broken images and harmless oddities alike; Pillow draws them, as for other readers.
                for offset in np.flatnonzero(code_n[part]).tolist():
                    pixels = pixels_of(int(rows_n[start + offset]))
                    draw_view(pixels, plan, start + offset, preprocessing.interpolation, images[offset])
                target = stored[0].view(np.float16) if stored else None
                is_mean_b = target_view_n[part] == MEAN_VIEW
                if target is not None and is_mean_b.any() and self._form is not None and self._form.codec is not None:
                    target = targets_of_rows(beton, rows_n[part], target_view_n[part], self._form)
                elif target is not None and is_mean_b.any():
                    # It overwrites what the kernel copied.
                    target[is_mean_b] = targets_of_rows(beton, rows_n[part][is_mean_b], target_view_n[part][is_mean_b])
                yield self._own(images), None if target is None else self._own(target)

    def close(self) -> None:
        """End the thread of an epoch that was not read to its end: it must not run when the interpreter ends."""
        if self._epoch is not None:
            self._epoch.close()

    def _own(self, slot: NDArray[Any]) -> torch.Tensor:
        """Return a copy on the device: FFCV refills the slot, so the copy must be done before the next batch."""
        if self._device.type == "cpu":
            return torch.from_numpy(slot.copy())
        return torch.from_numpy(slot).to(self._device)


class Epoch(EpochIterator):  # type: ignore[misc]
    """One pass over positions 0 .. count - 1; the `state` that decoders get says what they stand for."""

    def __init__(self, loader: Loader, count: int, state: tuple[Any, ...]) -> None:
        self._state = state
        self._error: BaseException | None = None
        self._left = False
        super().__init__(loader, np.arange(count))

    def start(self) -> None:
        """Add the state to FFCV's own, (file, region pointers, region sizes), before the thread runs."""
        self.storage_state = (self.memory_context.state, *self._state)
        super().start()

    def run(self) -> None:
        """Work ahead until all batches are done, the consumer has left, or something fails."""
        try:
            numba.set_num_threads(self.loader.num_workers)
            slots = self.loader.batches_ahead + 2
            for number, positions in enumerate(self.iter_ixes):
                with _ONE_AT_A_TIME:
                    result = self.run_pipeline(number, positions, number % slots, None)
                if not self._put(result):
                    return
        except BaseException as error:
            self._error = error
        self._put(None)

    def __next__(self) -> tuple[NDArray[Any], ...]:
        result: tuple[NDArray[Any], ...] | None = self.output_queue.get()
        if result is None:
            self.close()
            if self._error is not None:
                raise self._error
            raise StopIteration
        return result

    def close(self) -> None:
        """End the thread and wait for it; safe to call twice."""
        self.terminate_event.set()
        while self.is_alive():
            try:
                self.output_queue.get_nowait()
            except Empty:
                self.join(POLL_S)
        if not self._left:
            self._left = True
            self.memory_context.__exit__(None, None, None)

    def __del__(self) -> None:
        """Do nothing: the code that made the epoch closes it."""

    def _put(self, result: tuple[NDArray[Any], ...] | None) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(result, timeout=POLL_S)
            except Full:
                continue
            return True
        return False


class Decoder(Operation):  # type: ignore[misc]
    """A decoder that lets a kernel fill a slot per position: with the planned view, or with a target as stored.

    Targets are (C,) int16, the bits of float16 or words. of_state: the kernel's two inputs among the storage state.
    """

    def __init__(self, kernel: Callable[..., None], shape: tuple[int, ...], dtype: type, *, of_state: slice) -> None:
        super().__init__()
        self._kernel, self._shape, self._dtype, self._of_state = kernel, shape, np.dtype(dtype), of_state

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, AllocationQuery]:
        """Declare a slot per row."""
        state = replace(previous_state, jit_mode=True, shape=self._shape, dtype=self._dtype)
        return state, AllocationQuery(self._shape, self._dtype)

    def generate_code(self) -> Callable[..., Any]:
        """Return a closure over constants: everything that changes comes in `state`."""
        kernel, of_state = self._kernel, self._of_state

        def decode(positions, destination, _metadata, state):  # type: ignore[no-untyped-def]
            kernel(positions, state[0][0], *state[of_state], destination)
            return destination[: len(positions)]

        return decode
