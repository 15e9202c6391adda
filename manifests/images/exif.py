"""EXIF as Pillow reads it, which decodes no pixel for that."""

import re
import warnings
from typing import Any

_ORIENTATION_TAG = 0x0112
_PILLOW_MODULES = re.compile(r"PIL\.")


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 in an EXIF block (with or without its "Exif" prefix); 1 when there is none to be read."""
    from PIL.Image import Exif

    ignore_pillow_warnings()
    block = Exif()
    try:
        block.load(exif)
        orientation = block.get(_ORIENTATION_TAG)
    # What Pillow raises for a broken block is not documented: SyntaxError and struct.error have been seen.
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def ignore_pillow_warnings() -> None:
    """Silence what Pillow says about odd metadata of images whose pixels decode completely.

    warnings.catch_warnings is not thread-safe: it restores a list that another thread has changed. A filter that
    stays, put back in front when something moved it, has no such moment.
    """
    entry: Any = ("ignore", None, Warning, _PILLOW_MODULES, 0)
    if warnings.filters[:1] != [entry]:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
