"""Means and standard deviations of image channels as people write them: 0.5; 1/255; 0.485,0.456,0.406."""

import math
from collections.abc import Iterable
from typing import Literal

from manifests.errors import UsageError

MAX_MEAN, MAX_STD = 1.0, 10.0
"""Beyond them a value cannot be on the scale of images in [0, 1]; 0..255 is usual elsewhere."""
_USES = {"mean": "is subtracted from images in [0, 1]", "std": "divides images in [0, 1]"}


def channel_values(value: object, what: Literal["mean", "std"]) -> tuple[float, ...]:
    """Return one number for all channels, or three for red, green and blue, on the scale of images in [0, 1].

    value: a number, a text of numbers and fractions separated by commas, or an iterable of them. Raises UsageError for
    anything else.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    try:
        numbers = tuple(_number(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        raise UsageError(f"{what} {value!r} is not a list of numbers", hint=_FORM) from None
    shown = ",".join(f"{number:g}" for number in numbers)
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{what} is one number, or three, not {shown or 'none'}", hint=_FORM)
    if what == "std" and min(numbers) <= 0:
        raise UsageError(f"std must be above 0, not {shown}", hint=_FORM)
    if max(map(abs, numbers)) > (MAX_STD if what == "std" else MAX_MEAN):
        raise UsageError(
            f"{what} {shown} is on the scale 0..255; here it {_USES[what]}",
            hint=f"--{what} " + ",".join(f"{number:g}/255" for number in numbers),
        )
    return numbers


def _number(part: object) -> float:
    if isinstance(part, bool):
        raise TypeError(part)
    above, slash, below = str(part).partition("/")
    return float(above) / float(below) if slash else float(above)


_FORM = "--mean 0.5 --std 0.5, --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, or --mean 0 --std 1/255"
