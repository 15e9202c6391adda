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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
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
from manifests.images.decode import MODE_RAW
from trainer.data.kernels import REFUSED, copy_targets, draw_in_parallel, draw_positions, link_turbojpeg
from trainer.data.resample import draw_view
from trainer.data.views import ViewPlan


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

Batch = tuple[NDArray[np.uint8], NDArray[np.float16] | None]


class FfcvReader:
    """A reader that draws planned views of a beton's rows on `threads` cores (None: all)."""

    def __init__(self, beton: Beton, *, size_px: int, interpolation: str, threads: int | None) -> None:
        self._beton, self._size_px, self._interpolation = beton, size_px, interpolation
        self._images = (
            beton.image_pointer_N,
            beton.image_size_N,
            beton.modes_N == MODE_RAW,
            beton.heights_N,
            beton.widths_N,
        )
        no_targets = np.zeros(0, np.int64)
        self._target_pointer_N = no_targets if beton.target_pointer_N is None else beton.target_pointer_N
        image = next(name for name, entry in beton.fields.items() if entry.type_id == fmt.IMAGE)
        pipelines: dict[str, Any] = dict.fromkeys(beton.fields)
        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        threads = most if threads is None else max(1, min(threads, most))
        pipelines[image] = PipelineSpec(image, decoder=ViewDecoder(size_px, threads))
        if beton.target_shape is not None:
            pipelines["target"] = PipelineSpec("target", decoder=TargetDecoder(beton.class_count))
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

    def batches(
        self, rows_n: NDArray[np.int64], plan: ViewPlan, target_view_n: NDArray[np.int64], batch_size: int
    ) -> Iterator[Batch]:
        """Yield images (b, S, S, 3) uint8 and targets (b, C) float16 or None, in the order of the rows.

        The arrays are FFCV's slots, valid until the next batch is requested. Raises InputError at the batch whose image
        cannot be decoded.
        """
        if len(rows_n) == 0:
            return
        self._loader.batch_size = min(batch_size, len(rows_n))
        bicubic = self._interpolation == "bicubic"
        code_n = np.full(len(rows_n), REFUSED, np.int8)
        state = (
            self._images,
            (rows_n, plan.box_n4, plan.grid_n4, plan.shift_n2, plan.flip_n, bicubic, code_n),
            self._target_pointer_N,
            (rows_n, target_view_n),
        )
        with torch_untouched():
            epoch = Epoch(self._loader, len(rows_n), state)
        with closing(epoch):
            for number, result in enumerate(epoch):
                images = result[0]
                start = number * self._loader.batch_size
                refused = np.flatnonzero(code_n[start : start + len(images)])
                self._draw_with_pillow(rows_n, plan, start, refused, images)
                yield images, result[1].view(np.float16) if len(result) > 1 else None

    def _draw_with_pillow(
        self,
        rows_n: NDArray[np.int64],
        plan: ViewPlan,
        start: int,
        refused: NDArray[np.int64],
        out_bSS3: NDArray[np.uint8],
    ) -> None:
        """Draw with Pillow, as other readers do: turbojpeg refuses broken images and harmless oddities alike."""
        decoded, pixels = -1, np.empty((0, 0, 3), np.uint8)
        for offset in refused.tolist():
            position = start + offset
            row = int(rows_n[position])
            if row != decoded:
                decoded, pixels = row, self._beton.pixels(row)
            draw_view(pixels, plan, position, self._interpolation, out_bSS3[offset])


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


class ViewDecoder(Operation):  # type: ignore[misc]
    """A decoder that draws the view of each position."""

    def __init__(self, size_px: int, threads: int) -> None:
        super().__init__()
        self._size_px = size_px
        self._draw = draw_positions if threads == 1 else draw_in_parallel

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, AllocationQuery]:
        """Declare a square of RGB bytes per row."""
        shape, dtype = (self._size_px, self._size_px, 3), np.dtype(np.uint8)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """Return a closure over constants: everything that changes comes in `state`."""
        draw = self._draw

        def decode(positions, destination, _metadata, state):  # type: ignore[no-untyped-def]
            draw(positions, state[0][0], state[1], state[2], destination)
            return destination[: len(positions)]

        return decode


class TargetDecoder(Operation):  # type: ignore[misc]
    """A decoder that copies one view's target per position as stored: (C,) int16, the bits of float16 or words."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self._class_count = class_count

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, AllocationQuery]:
        """Declare as many values per row as are stored per view."""
        shape, dtype = (self._class_count,), np.dtype(np.int16)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """Return a closure over constants, as in ViewDecoder."""
        copy = copy_targets

        def decode(positions, destination, _metadata, state):  # type: ignore[no-untyped-def]
            copy(positions, state[0][0], state[3], state[4], destination)
            return destination[: len(positions)]

        return decode
