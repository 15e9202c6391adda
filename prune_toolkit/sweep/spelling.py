"""One spelling per number, so that a sweep recognises finished work by the text of its flags."""

from prune_toolkit.quotas.keep import Keep, parse_fraction


def spelled_keep(text: str) -> Keep:
    """Return 0.1 for 0.10, .1, 10% and 1/10: the shortest exact decimal, else a fraction; UsageError outside (0, 1]."""
    keep = Keep.parse(text)
    spellings = (spelled_number(float(keep.fraction)), str(keep.fraction))
    found = (spelling for spelling in spellings if parse_fraction(spelling) == keep.fraction)
    return Keep(next(found, text), keep.fraction)


def spelled_number(number: float) -> str:
    """Return the shortest text of a number with all its digits, 1 for 1.0."""
    return repr(number + 0.0).removesuffix(".0")
