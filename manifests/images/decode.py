"""Images as stored in a data set: encoded bytes or pixels, decoded completely or reported as a problem.

Everything here is thread-safe: no state of Pillow is changed, and the size of an image is checked here before its
pixels are allocated.
"""

import io
import math
import os
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manifests.images.jpeg import exif_orientation, ignore_pillow_warnings, jpeg_info

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 400_000_000
"""Of one image. Pillow holds 4 bytes per pixel, the result 3 more: 2.8 GB."""
_LARGE_PIXELS = 64_000_000
_PIXELS_PER_BYTE = {"JPEG": 512, "PNG": 8 * 1032}
"""Pixels that one byte of a file can hold at most: Huffman coding spends a bit on each block of 64 pixels (DC; baseline
and progressive), and deflate cannot pack more than 1032 bytes, of eight pixels each, into one."""
MODE_JPEG, MODE_RAW = 0, 1
_REASON_CHARACTERS = 200
_BITS_PER_SAMPLE = 258
_BAND_BYTES = 4 << 20
_COPYABLE_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A file's bytes: JPEG, PNG, WebP, BMP, TIFF, PPM, GIF, AVIF or JPEG 2000."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels as stored: (H, W), (H, W, 1) or (H, W, 3) uint8."""

    array: NDArray[np.uint8]


RawImage = Encoded | Pixels


class ImageProblem(Exception):  # noqa: N818 - a fact about a sample, recorded in its row; not a failure of the run
    """The reason why an image cannot be used, in one line without paths or addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetonImage:
    """An image in the form a beton stores: mode 0 JPEG bytes, mode 1 height * width * 3 raw bytes."""

    mode: int
    data: NDArray[np.uint8]
    """1-D."""
    width: int
    height: int


def decode_rgb(image: RawImage) -> NDArray[np.uint8]:
    """Decode to a new contiguous (H, W, 3) uint8 array, turned upright by its EXIF orientation.

    Grey, palette, CMYK and alpha are converted to RGB like Pillow's convert("RGB"), 16 bits per channel keep their
    upper 8, an animation yields its first frame. Raises ImageProblem if the image cannot be decoded completely, or has
    more than MAX_PIXELS (WebP and tiled TIFF: more than Pillow's own limit of 179 million).
    """
    if isinstance(image, Pixels):
        array = image.array if image.array.ndim == 3 else image.array[:, :, None]
        return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.array(array, order="C")
    ignore_pillow_warnings()
    try:
        return _decode(image.data)
    except ImageProblem:
        raise
    except Exception as error:
        raise ImageProblem(_reason(error)) from None


def beton_form(image: RawImage, max_side: int | None = None) -> BetonImage:
    """Return an image in its beton form: JPEG bytes if a beton's decoder reads them unchanged, else raw pixels.

    A JPEG is copied byte for byte if it is whole, 8-bit SOF0/1/2, has 1 or 3 components in usual sampling, needs no
    EXIF rotation and no side is longer than `max_side` px. Any other image is decoded, shrunk to `max_side`
    (Lanczos) if larger, and stored raw. Raises ImageProblem if it cannot be decoded.
    """
    info = jpeg_info(image.data) if isinstance(image, Encoded) else None
    if isinstance(image, Encoded) and info is not None:
        _check_size(info.width, info.height)
        upright = info.whole and info.exif_orientation == 1 and min(info.width, info.height) > 0
        plain = info.precision == 8 and info.sof in (0xC0, 0xC1, 0xC2) and _usual_sampling(info.sampling)
        if upright and plain and (max_side is None or max(info.width, info.height) <= max_side):
            data = np.frombuffer(image.data, np.uint8)
            return BetonImage(mode=MODE_JPEG, data=data, width=info.width, height=info.height)
    pixels = decode_rgb(image)
    if max_side is not None and max(pixels.shape[:2]) > max_side:
        pixels = _shrink(pixels, max_side)
    height, width = pixels.shape[:2]
    return BetonImage(mode=MODE_RAW, data=pixels.reshape(-1), width=width, height=height)


def is_image(head: bytes) -> bool:
    """Return whether a file that starts with these bytes (16 or more) is of a known format."""
    return _opener(head) is not None


def is_16_bit(data: bytes) -> bool:
    """Return whether an encoded PNG, TIFF, PGM or JPEG 2000 has 16 bits per channel, without decoding its pixels."""
    ignore_pillow_warnings()
    if data.startswith(b"\x89PNG"):
        return data[24:25] == b"\x10"
    if (opened := _opener(data)) is None:
        return False
    try:
        with opened(io.BytesIO(data)) as picture:
            if picture.format == "TIFF":
                return 16 in (picture.tag_v2.get(_BITS_PER_SAMPLE) or ())
            return bool(_is_deep_grey(picture))
    except Exception:
        return False


def _opener(data: bytes) -> Callable[[io.BytesIO], Any] | None:
    return next((open_ for begin, open_ in _formats().items() if re.match(begin, data, re.DOTALL)), None)


def _decode(data: bytes) -> NDArray[np.uint8]:
    if not data:
        raise ImageProblem("the file is empty")
    opened = _opener(data)
    if opened is None:
        raise ImageProblem("not an image of a known format")
    with opened(io.BytesIO(data)) as picture:
        _check_size(*picture.size)
        _check_bytes(picture.size, picture.format, data)
        with _one_large_image(os.getpid()) if math.prod(picture.size) > _LARGE_PIXELS else nullcontext():
            picture.load()
            pixels = _to_rgb(picture)
        if picture.format == "JPEG":
            info = jpeg_info(data)
            orientation = 1 if info is None else info.exif_orientation
        elif picture.format == "TIFF":
            orientation = 1  # Pillow turned it while loading
        else:
            orientation = exif_orientation(picture.info.get("exif") or b"")
    return np.ascontiguousarray(_upright(pixels, orientation))


@cache
def _one_large_image(pid: int) -> threading.Lock:
    """Return the lock of a process; a forked one must not wait for a thread that it does not have.

    It is held while a large image is decoded, so that the memory of a process does not grow with its threads.
    """
    return threading.Lock()


def _to_rgb(picture: "Image") -> NDArray[np.uint8]:
    if _is_deep_grey(picture):
        grey = (np.asarray(picture).astype(np.int32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ImageProblem("pixels of 32 bits a channel have no agreed range")
    picture.info.pop("transparency", None)
    return _in_bands(picture)


def _is_deep_grey(picture: "Image") -> bool:
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format != "TIFF")


def _in_bands(picture: "Image") -> NDArray[np.uint8]:
    """Return pixels (H, W, 3), converted in bands: converting a large image at once needs two more copies of it."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_BYTES // (3 * max(width, 1)))
    for top in range(0, height, rows):
        band = picture if rows >= height else picture.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turned = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


def shrunk_sizes(size_n2: ArrayLike, max_side: int) -> NDArray[np.int64]:
    """Return (n, 2) widths and heights, shrunk so that no side is longer than `max_side`; those that fit stay."""
    size_n2 = np.asarray(size_n2, np.int64)
    longer_n1 = np.maximum(size_n2.max(axis=1, keepdims=True, initial=0), 1)
    return np.where(longer_n1 > max_side, np.maximum(np.rint(size_n2 * (max_side / longer_n1)), 1), size_n2).astype(int)


def _shrink(pixels: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = pixels.shape[:2]
    size = tuple(shrunk_sizes([[width, height]], max_side)[0].tolist())
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _usual_sampling(sampling: tuple[tuple[int, int], ...]) -> bool:
    if len(sampling) == 1:
        return True
    return len(sampling) == 3 and sampling[0] in _COPYABLE_SAMPLING and sampling[1:] == ((1, 1), (1, 1))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageProblem(
            f"{width}x{height} px is more than {MAX_PIXELS // 1_000_000} megapixels: it takes "
            f"{7 * width * height / 1e9:.1f} GB to decode"
        )


def _check_bytes(size: tuple[int, int], kind: str | None, data: bytes) -> None:
    """Refuse a file that is too short for its pixels, before memory is allocated for them."""
    if kind == "JPEG" and ((info := jpeg_info(data)) is None or info.sof not in (0xC0, 0xC1, 0xC2)):
        # Arithmetic coding has no such limit.
        return
    (width, height), size_bytes = size, len(data)
    if width * height > size_bytes * _PIXELS_PER_BYTE.get(kind or "", MAX_PIXELS):
        raise ImageProblem(
            f"cannot be decoded: {size_bytes:,} bytes cannot hold {width}x{height} px, which take "
            f"{7 * width * height / 1e9:.1f} GB"
        )


@cache
def _formats() -> dict[bytes, Callable[[io.BytesIO], Any]]:
    """Return openers by how a file begins; Image.open is not used because it enforces a process-wide size limit."""
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Jpeg2KImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    return {
        rb"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
        rb"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
        rb"RIFF....WEBP": WebPImagePlugin.WebPImageFile,
        rb"BM": BmpImagePlugin.BmpImageFile,
        rb"II[*+]\0|MM\0[*+]": TiffImagePlugin.TiffImageFile,
        rb"P[1-6]\s": PpmImagePlugin.PpmImageFile,
        rb"GIF8[79]a": GifImagePlugin.GifImageFile,
        rb"....ftypavi[fs]": _open_avif,
        rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n": Jpeg2KImagePlugin.Jpeg2KImageFile,
    }


def _open_avif(stream: io.BytesIO) -> Any:
    try:
        from PIL.AvifImagePlugin import AvifImageFile
    except ImportError:
        raise ImageProblem("AVIF is not decoded by this version of Pillow") from None
    return AvifImageFile(stream)


def _reason(error: Exception) -> str:
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
    return f"cannot be decoded: {text or type(error).__name__}"[:_REASON_CHARACTERS]
