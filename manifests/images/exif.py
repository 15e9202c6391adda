"""EXIF, read by Pillow without decoding pixels."""

import re
import warnings
from typing import Any

_ORIENTATION_TAG = 0x0112
_PILLOW_MODULES = re.compile(r"PIL\.")


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
