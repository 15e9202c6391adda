"""One spelling of each number, so that a sweep knows what it has by the text of its flags."""

from prune_toolkit.quotas.keep import Keep, parse_fraction


def spelled_keep(text: str) -> Keep:
    """0.1 for 0.10, .1, 10% and 1/10: the shortest decimal that is it, else a fraction; UsageError unless in (0, 1]."""
    keep = Keep.parse(text)
    spellings = (spelled_number(float(keep.fraction)), str(keep.fraction))
    found = (spelling for spelling in spellings if parse_fraction(spelling) == keep.fraction)
    return Keep(next(found, text), keep.fraction)


def spelled_number(number: float) -> str:
    """All the digits that a number has and no more, 1 for 1.0."""
    return repr(number + 0.0).removesuffix(".0")
