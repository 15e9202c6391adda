"""Given shares of several selectors, each choosing from the samples that the previous ones left."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.images.identity import mix64
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.selection.pool import KEPT, NOT_CHOSEN, Choice, Groups, Pool
from prune_toolkit.selection.selector import SELECTORS, Parameter, Selector, Values, selector

_EXAMPLE = 'such as --mix "0.7 medium, 0.2 random, 0.1 window position=1 score=el2n"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One selector of a mix and its share."""

    share: Fraction
    method: Selector
    parameters: Mapping[str, Any]
    score: str | None

    def __str__(self) -> str:
        given = {**self.parameters, **({} if self.score is None else {"score": self.score})}
        return " ".join([str(self.share), self.method.name, *(f"{name}={value}" for name, value in given.items())])


@dataclass(frozen=True, slots=True)
class Mix:
    """The parts of a mix, in the order they choose."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.parts))


def parse_mix(text: str) -> Mix:
    """Parse parts from "SHARE SELECTOR [NAME=VALUE ...], ..."; raises UsageError unless the shares add up to 1."""
    if not text.strip():
        raise UsageError("--mix is missing: give the selectors and their shares", hint=_EXAMPLE)
    parts = tuple(_parse_part(part) for part in text.split(","))
    if (total := sum(part.share for part in parts)) != 1:
        raise UsageError(f"the shares of the mix {text!r} add up to {total}, not to 1", hint=_EXAMPLE)
    return Mix(parts)


def _parse_part(text: str) -> Part:
    words = text.split()
    share = parse_fraction(words[0]) if words else None
    if len(words) < 2 or share is None or not 0 < share <= 1:
        raise UsageError(f"{text.strip()!r} in the mix is not SHARE SELECTOR [NAME=VALUE ...]", hint=_EXAMPLE)
    method = SELECTORS[words[1]]
    if method.name == NAME:
        raise UsageError("a mix cannot be part of a mix", hint="list its parts instead")
    given: dict[str, str] = {}
    for word in words[2:]:
        name, equals, value = word.partition("=")
        if not equals or name in given:
            raise UsageError(f"{word!r} in the mix is not NAME=VALUE, or is given twice", hint=_EXAMPLE)
        given[name] = value
    score = method.score_or(given.pop("score", None))
    return Part(share=share, method=method, parameters=method.resolve(given), score=score)


def shared_counts(shares: list[Fraction], keep_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many samples of each group each part takes, (P, G), adding up to keep (G,).

    A part gets its share of a group rounded down, and in some groups one more: the parts that are owed most so far. So
    even many groups that keep a few samples each add up to the shares.
    """
    whole = lcm(*(share.denominator for share in shares))
    weights = [int(share * whole) for share in shares]
    owed, counts = [0] * len(shares), np.zeros((len(shares), len(keep_G)), np.int64)
    for group, keep in enumerate(keep_G.tolist()):
        given = [weight * keep // whole for weight in weights]
        owed = [debt + weight * keep - count * whole for debt, weight, count in zip(owed, weights, given, strict=True)]
        for part in sorted(range(len(shares)), key=lambda part: -owed[part])[: keep - sum(given)]:
            given[part] += 1
            owed[part] -= whole
        counts[:, group] = given
    return counts


NAME = "mix"


@selector(
    NAME,
    formula="each part in turn keeps its share of every class's K_c, by its own rule, of what those before it left",
    source="ours",
    score=None,
    needs=("what its parts need",),
    parameters={"mix": Parameter(default="", help="SHARE SELECTOR [NAME=VALUE ...], ...", parse=parse_mix)},
    further_scores=lambda values: [part.score for part in values["mix"].parts if part.score is not None],
    needs_held_out=lambda values: any(part.method.needs_held_out(part.parameters) for part in values["mix"].parts),
)
def mix(pool: Pool, groups: Groups, seed: int, parameters: Values) -> Choice:
    """Keep given shares of several selectors."""
    parts: tuple[Part, ...] = parameters["mix"].parts
    counts_PG = shared_counts([part.share for part in parts], groups.keep_G)
    keep_N = np.zeros(len(pool.label_N), np.bool_)
    found: dict[str, str] = {}
    for number, (part, count_G) in enumerate(zip(parts, counts_PG, strict=True)):
        row_n = np.flatnonzero(~keep_N)
        rest = pool.take(row_n)
        if part.score is not None:
            column = rest.scores.get(part.score)
            rest = replace(
                rest,
                score_N=None if column is None else column.value_N,
                harder="high" if column is None else column.harder,
            )
        # A seed per part: otherwise the draws of one part would determine those of the next.
        own_seed = int(mix64(seed, number)) if number else seed
        choice = part.method.choose(rest, groups.take(row_n, count_G), own_seed, part.parameters)
        keep_N[row_n[choice.keep_N]] = True
        found |= {f"part {number + 1} {name}": value for name, value in choice.found.items()}
    return Choice(keep_N=keep_N, reason_N=np.where(keep_N, KEPT, NOT_CHOSEN).astype(np.int8), found=found)
