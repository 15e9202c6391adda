"""Facts about a JPEG, read from its markers without decoding pixels, and the orientation in EXIF."""

import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any

_ORIENTATION_TAG = 0x0112
_PILLOW_MODULES = re.compile(r"PIL\.")
SOI, EOI, SOS, APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_NOT_SOF = (0xC4, 0xC8, 0xCC)
_STANDALONE = (0x01, SOI, *range(0xD0, 0xD8))
# A real file has tens; the limit keeps a hostile one from costing seconds.
_MAX_MARKERS = 10_000
# In entropy-coded data FF 00 is a stuffed byte, FF FF a fill byte and FF D0..D7 a restart marker.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegInfo:
    """The frame header and other facts that determine how a JPEG has to be read."""

    width: int
    """Width in the frame header, before any rotation."""
    height: int
    sof: int
    """Second byte of the frame marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, others rare."""
    precision: int
    """Bits per channel."""
    components: int
    sampling: tuple[tuple[int, int], ...]
    """(horizontal, vertical) sampling factors, one pair per component."""
    exif_orientation: int
    """1..8; 1 when absent or out of range."""
    whole: bool
    """True if the segments have no gaps, with one frame, at least one scan, and the end marker."""


def jpeg_info(data: bytes) -> JpegInfo | None:
    """Read the markers of a JPEG; None if it is not one, or ends before its frame header."""
    if data[:2] != b"\xff\xd8":
        return None
    frame: bytes | None = None
    sof = 0
    orientation: int | None = None
    clean, scans, ended = True, 0, False
    position = 2
    for _ in range(_MAX_MARKERS):
        start = data.find(b"\xff", position)
        if start < 0:
            break
        clean = clean and start == position
        position = start
        while data[position : position + 1] == b"\xff":
            position += 1
        if position >= len(data):
            break
        marker = data[position]
        position += 1
        if marker == EOI:
            ended = True
            break
        if marker == 0 or marker in _STANDALONE:
            clean = False
            continue
        size = int.from_bytes(data[position : position + 2])
        if size < 2 or position + size > len(data):
            break
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_SOF:
            clean = clean and frame is None
            if frame is None:
                frame, sof = data[position + 2 : position + size], marker
        elif marker == APP1 and orientation is None and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = exif_orientation(data[position + 8 : position + size])
        position += size
        if marker == SOS:
            scans += 1
            found = _NEXT_MARKER.search(data, position)
            if found is None:
                break
            position = found.start()
    if frame is None or len(frame) < 6 or len(frame) != 6 + 3 * frame[5]:
        return None
    precision, height, width, components = struct.unpack_from(">BHHB", frame)
    return JpegInfo(
        width=width,
        height=height,
        sof=sof,
        precision=precision,
        components=components,
        sampling=tuple((factors >> 4, factors & 15) for factors in frame[7::3]),
        exif_orientation=orientation or 1,
        whole=clean and ended and scans > 0,
    )


def exif_orientation(exif: bytes) -> int:
    """Return the orientation 1..8 in an EXIF block (with or without its "Exif" prefix); 1 if it cannot be read."""
    from PIL.Image import Exif

    ignore_pillow_warnings()
    block = Exif()
    try:
        block.load(exif)
        orientation = block.get(_ORIENTATION_TAG)
    # The errors Pillow raises for a broken block are not documented: SyntaxError and struct.error have been seen.
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def ignore_pillow_warnings() -> None:
    """Silence Pillow's warnings about odd metadata of images whose pixels decode completely.

    warnings.catch_warnings is not thread-safe: it restores a list that another thread may have changed. A permanent
    filter, moved back to the front if necessary, has no such race.
    """
    entry: Any = ("ignore", None, Warning, _PILLOW_MODULES, 0)
    if warnings.filters[:1] != [entry]:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
