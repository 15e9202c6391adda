"""Compiled code, from a beton's bytes to views: turbojpeg, then Pillow's resize bit for bit, shift and flip.

Importing this module imports numba, so only the FFCV boundary imports it, when a loader is opened. Machine code is
stored in numba's cache: 10 s of compilation on first use, 1 s afterwards. That cache checks the file of a function but
not what the function calls, so everything that is compiled is in this file.

Pillow's resize (libImaging/Resample.c) is two passes of the same sum along columns and rows, each rounded to 8 bits.
The sum along rows vectorises (10x faster), so the sum along columns is computed on the transposed image. There is no
fastmath: it would change the coefficients.

No function may take a writable one-dimensional uint8 array. Every new ffcv.Loader sets `mutable = False` on numba's
shared object for that type (OSCacheManager.state_type), and code compiled for it then fails with a KeyError.
"""

import ctypes
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]
from numba.core import types
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

PRECISION_BITS = 22
"""Fixed-point bits of the coefficients: 32 minus 8 for the pixel and 2 for negative lobes."""
HALF = np.int32(1 << (PRECISION_BITS - 1))
TILE_PX = 32
DRAWN, REFUSED = 0, 1
TJPF_RGB, TJFLAG_ACCURATEDCT = np.int32(0), np.int32(4096)

# External symbols, not ctypes pointers: machine code that holds a pointer cannot be kept on disk.
P, LONG, INT = types.uintp, types.uint64, types.int32
new_handle: Any = types.ExternalFunction("tjInitDecompress", P())
free_handle: Any = types.ExternalFunction("tjDestroy", INT(P))
read_header: Any = types.ExternalFunction("tjDecompressHeader3", INT(P, P, LONG, P, P, P, P))
decompress: Any = types.ExternalFunction("tjDecompress2", INT(P, P, LONG, P, INT, INT, INT, INT, INT))


def compiled(function: Function, *, parallel: bool = False) -> Function:
    """Compile to nogil machine code, cached on disk if possible; parallel: with prange over numba's threads."""
    try:
        wrapped = numba.njit(nogil=True, error_model="numpy", parallel=parallel, cache=True)(function)
    except RuntimeError:
        wrapped = numba.njit(nogil=True, error_model="numpy", parallel=parallel)(function)
    return cast(Function, wrapped)


@compiled
def filter_weight(distance: float, bicubic: bool) -> float:
    """Return the resampling kernel's value: a triangle, or Keys' cubic with a = -0.5."""
    x = abs(distance)
    if not bicubic:
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@compiled
def coefficients(
    in_size: int, low: np.float32, high: np.float32, out_size: int, first: int, count: int, bicubic: bool
) -> tuple[Integers, Integers, NDArray[np.int32]]:
    """Return where each output sample starts reading, how many samples it reads, and their fixed-point weights.

    The output is samples first .. first + count - 1 of `out_size`, which cover [low, high) of the input; low and high
    are subtracted in float32 because Pillow does so. Returns (count,), (count,), (count, most taps).
    """
    scale = np.float64(np.float32(high - low)) / out_size
    filter_scale = max(scale, 1.0)
    support = (2.0 if bicubic else 1.0) * filter_scale
    most_taps = math.ceil(support) * 2 + 1
    start_S = np.empty(count, np.int64)
    taps_S = np.empty(count, np.int64)
    weight_ST = np.zeros((count, most_taps), np.int32)
    weight_T = np.empty(most_taps, np.float64)
    for i in range(count):
        center = low + (first + i + 0.5) * scale
        start = max(int(center - support + 0.5), 0)
        taps = min(int(center + support + 0.5), in_size) - start
        total = 0.0
        for t in range(taps):
            weight = filter_weight((t + start - center + 0.5) * (1.0 / filter_scale), bicubic)
            weight_T[t] = weight
            total += weight
        for t in range(taps):
            weight = weight_T[t] / total if total != 0.0 else weight_T[t]
            fixed = weight * (1 << PRECISION_BITS)
            weight_ST[i, t] = int(fixed - 0.5) if weight < 0 else int(fixed + 0.5)
        start_S[i] = start
        taps_S[i] = taps
    return start_S, taps_S, weight_ST


@compiled
def weighted_rows(
    source_RC: Bytes,
    offset: int,
    start_S: Integers,
    taps_S: Integers,
    weight_ST: NDArray[np.int32],
    out_SC: Bytes,
) -> None:
    """Write weighted sums of input rows, rounded to 8 bits, to the output rows; source row 0 is input row `offset`."""
    width = source_RC.shape[1]
    sum_C = np.empty(width, np.int32)
    for i in range(len(start_S)):
        sum_C[:] = HALF
        for t in range(taps_S[i]):
            weight = weight_ST[i, t]
            row = source_RC[start_S[i] - offset + t]
            for c in range(width):
                sum_C[c] = np.int32(sum_C[c] + np.int32(row[c]) * weight)
        row_out = out_SC[i]
        for c in range(width):
            row_out[c] = np.uint8(min(max(sum_C[c] >> PRECISION_BITS, 0), 255))


@compiled
def transpose(source_HW3: Bytes, y0: int, x0: int, out_WH3: Bytes) -> None:
    """Copy the rectangle at (x0, y0) transposed; tiles keep it in cache, unsigned indices skip numba's wraparound."""
    height, width = out_WH3.shape[1], source_HW3.shape[1]
    source = source_HW3.reshape(source_HW3.size)
    out = out_WH3.reshape(out_WH3.size)
    one, two, pixel, line = np.uintp(1), np.uintp(2), np.uintp(3), np.uintp(width * 3)
    for tile in range(0, height, TILE_PX):
        last = min(tile + TILE_PX, height)
        for x in range(out_WH3.shape[0]):
            read = np.uintp(((y0 + tile) * width + x0 + x) * 3)
            write = np.uintp((x * height + tile) * 3)
            for _ in range(tile, last):
                out[write] = source[read]
                out[write + one] = source[read + one]
                out[write + two] = source[read + two]
                read += line
                write += pixel


@compiled
def resample(
    pixels_HW3: Bytes, box_4: NDArray[np.float32], grid_4: NDArray[np.int32], bicubic: bool, size: int
) -> Bytes:
    """Resize box (x0, y0, x1, y1) to grid (width, height, left, top) and cut the square at (left, top) out of it."""
    height, width = pixels_HW3.shape[:2]
    x_start_S, x_taps_S, x_weight_ST = coefficients(width, box_4[0], box_4[2], grid_4[0], grid_4[2], size, bicubic)
    y_start_S, y_taps_S, y_weight_ST = coefficients(height, box_4[1], box_4[3], grid_4[1], grid_4[3], size, bicubic)
    x0, y0 = x_start_S[0], y_start_S[0]
    columns = x_start_S[size - 1] + x_taps_S[size - 1] - x0
    rows = y_start_S[size - 1] + y_taps_S[size - 1] - y0
    turned = np.empty((columns, rows, 3), np.uint8)
    transpose(pixels_HW3, y0, x0, turned)
    narrow = np.empty((size, rows, 3), np.uint8)
    weighted_rows(
        turned.reshape(columns, rows * 3), x0, x_start_S, x_taps_S, x_weight_ST, narrow.reshape(size, rows * 3)
    )
    upright = np.empty((rows, size, 3), np.uint8)
    transpose(narrow, 0, 0, upright)
    square = np.empty((size, size, 3), np.uint8)
    weighted_rows(upright.reshape(rows, size * 3), y0, y_start_S, y_taps_S, y_weight_ST, square.reshape(size, size * 3))
    return square


@compiled
def place(pixels_HW3: Bytes, top: int, left: int, dx: int, dy: int, flip: bool, out_SS3: Bytes) -> None:
    """Copy the square at (left, top), moved right by dx and down by dy over zeros, then mirrored."""
    size = out_SS3.shape[0]
    for y in range(size):
        row = out_SS3[y]
        if y - dy < 0 or y - dy >= size:
            row[:] = 0
            continue
        source = pixels_HW3[top + y - dy]
        for x in range(size):
            column = x - dx
            inside = column >= 0 and column < size
            target = size - 1 - x if flip else x
            for channel in range(3):
                row[target, channel] = source[left + column, channel] if inside else np.uint8(0)


@compiled
def render(
    pixels_HW3: Bytes,
    box_4: NDArray[np.float32],
    grid_4: NDArray[np.int32],
    shift_2: NDArray[np.int16],
    flip: bool,
    bicubic: bool,
    out_SS3: Bytes,
) -> None:
    """Draw one view of an image into `out_SS3`; the plan must have been checked against the image's size."""
    height, width = pixels_HW3.shape[:2]
    whole = box_4[0] == 0 and box_4[1] == 0 and box_4[2] == width and box_4[3] == height
    if whole and grid_4[0] == width and grid_4[1] == height:
        place(pixels_HW3, grid_4[3], grid_4[2], shift_2[0], shift_2[1], flip, out_SS3)
        return
    square = resample(pixels_HW3, box_4, grid_4, bicubic, out_SS3.shape[0])
    place(square, 0, 0, shift_2[0], shift_2[1], flip, out_SS3)


def link_turbojpeg(library: str) -> None:
    """Take turbojpeg's symbols from a shared object that links it; raises AttributeError or OSError if it does not.

    They are registered one by one: loading the object into the global scope would expose its OpenCV and BLAS to every
    library loaded later.
    """
    functions = ctypes.CDLL(library)
    for external in (new_handle, free_handle, read_header, decompress):
        address = ctypes.cast(getattr(functions, external.symbol), ctypes.c_void_p).value
        binding.add_symbol(external.symbol, address)


@compiled
def decode_jpeg(data: Bytes, pixels_HW3: Bytes) -> int:
    """Decode with the accurate DCT, equal to Pillow on real JPEGs (FFCV's fast DCT is off by up to 9 grey levels).

    Returns 0 if the image was decoded and has the size of `pixels_HW3`.
    """
    height, width = pixels_HW3.shape[:2]
    source, target = data.ctypes.data, pixels_HW3.ctypes.data
    header = np.zeros(4, np.int32)
    address = header.ctypes.data
    handle = new_handle()
    code = read_header(handle, source, data.size, address, address + 4, address + 8, address + 12)
    if code == 0 and (header[0] != width or header[1] != height):
        code = np.int32(-1)
    if code == 0:
        code = decompress(handle, source, data.size, target, width, 0, height, TJPF_RGB, TJFLAG_ACCURATEDCT)
    free_handle(handle)
    return int(code)


@compiled
def draw_views(pixels_HW3: Bytes, positions: Integers, first: int, last: int, plan: Any, out_bSS3: Bytes) -> None:
    """Draw the planned views of one image at positions first .. last - 1 of a batch, and mark them as drawn."""
    _, boxes_n4, grids_n4, shifts_n2, flips_n, bicubic, codes_n = plan
    for i in range(first, last):
        position = positions[i]
        render(
            pixels_HW3,
            boxes_n4[position],
            grids_n4[position],
            shifts_n2[position],
            flips_n[position],
            bicubic,
            out_bSS3[i],
        )
        codes_n[position] = DRAWN


@compiled
def draw_group(
    positions: Integers, first: int, last: int, file: Bytes, images: Any, plan: Any, out_bSS3: Bytes
) -> None:
    """Decode an image of a beton once and draw its views; if it cannot be decoded, its output stays untouched."""
    pointers_N, sizes_N, is_raw_N, heights_N, widths_N = images
    row = plan[0][positions[first]]
    start = pointers_N[row]
    data = file[start : start + sizes_N[row]]
    height, width = np.int64(heights_N[row]), np.int64(widths_N[row])
    if is_raw_N[row]:
        if data.size == height * width * 3:
            draw_views(data.reshape(height, width, 3), positions, first, last, plan, out_bSS3)
        return
    pixels = np.empty((height, width, 3), np.uint8)
    if decode_jpeg(data, pixels) == 0:
        draw_views(pixels, positions, first, last, plan, out_bSS3)


@compiled
def group_starts(positions: Integers, rows_n: Integers) -> Integers:
    """Return where runs of equal rows begin in a batch, followed by the length of the batch."""
    starts = np.empty(len(positions) + 1, np.int64)
    count = 0
    for i in range(len(positions)):
        if i == 0 or rows_n[positions[i]] != rows_n[positions[i - 1]]:
            starts[count] = i
            count += 1
    starts[count] = len(positions)
    return starts[: count + 1]


@compiled
def draw_positions(positions: Integers, file: Bytes, images: Any, plan: Any, out_bSS3: Bytes) -> None:
    """Draw a batch in this thread."""
    starts = group_starts(positions, plan[0])
    for group in range(len(starts) - 1):
        draw_group(positions, starts[group], starts[group + 1], file, images, plan, out_bSS3)


@partial(compiled, parallel=True)
def draw_in_parallel(positions: Integers, file: Bytes, images: Any, plan: Any, out_bSS3: Bytes) -> None:
    """Draw a batch in numba's threads, each image with all its views in one thread."""
    starts = group_starts(positions, plan[0])
    for group in numba.prange(len(starts) - 1):
        draw_group(positions, starts[group], starts[group + 1], file, images, plan, out_bSS3)


@compiled
def copy_targets(positions: Integers, file: Bytes, pointers_N: Integers, plan: Any, out_bC: NDArray[np.int16]) -> None:
    """Copy the stored logits of one view per row."""
    rows_n, views_n = plan
    size = out_bC.shape[1] * 2
    for i in range(len(positions)):
        start = pointers_N[rows_n[positions[i]]] + views_n[positions[i]] * size
        out = out_bC[i].view(np.uint8)
        for byte in range(size):
            out[byte] = file[start + byte]
