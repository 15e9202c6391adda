"""Parse the fraction of the samples to keep, as an exact number."""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from manifests.errors import UsageError

# Exponents have two digits: Fraction("1e-999999999") would not return for hours.
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?"
_KEEP = re.compile(rf"\s*(?:(?P<value>{_NUMBER}|\d+/\d+)\s*(?P<percent>%?))\s*", re.ASCII)
_MAX_TEXT = 64


def parse_fraction(text: str) -> Fraction | None:
    """Return the exact value of "0.29", "1/3", "50%" or "1e-2"; None for anything else."""
    match = _KEEP.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        return None
    try:
        value = Fraction(match["value"])
    except ZeroDivisionError:
        return None
    return value / 100 if match["percent"] else value


@dataclass(frozen=True, order=True)
class Keep:
    """An exact fraction to keep and the text it was typed as; equal fractions are equal, whatever their text."""

    text: str = field(compare=False)
    fraction: Fraction

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Parse "0.29", "1/3", "50%" or "1e-2"; UsageError unless 0 < keep <= 1."""
        fraction = parse_fraction(text)
        if fraction is None or not 0 < fraction <= 1:
            raise UsageError(
                f"keep is {text!r}: it must be a fraction above 0 and at most 1",
                hint="for half of the samples, write 0.5, 1/2 or 50%",
            )
        return cls(text, fraction)

    def __str__(self) -> str:
        return self.text

    @property
    def is_whole(self) -> bool:
        """True if nothing is left out."""
        return self.fraction == 1


WHOLE = Keep.parse("1")
