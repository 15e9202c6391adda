"""Selectors by name: what each keeps, what it needs and its parameters.

A selector is a separate file in `selectors/` or in another package, and one line that imports it:

@selector("hardest", formula="per class the K_c hardest", source="...", score="loss")
def hardest(pool, groups, seed, parameters):
    return keep_first(pool, groups, -pool.difficulty_N, TOO_EASY)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifests.base.registry import Registry
from manifests.errors import InputError, UsageError
from prune_toolkit.selection.pool import Choice, Groups, Pool

SelectorFunction = Callable[[Pool, Groups, int, Mapping[str, Any]], Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a selector, given as text."""

    default: str
    help: str
    parse: Callable[[str], Any]
    """Returns the value of a text; raises UsageError if it is invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A selector and the facts needed to use it."""

    name: str
    formula: str
    source: str
    function: SelectorFunction
    score: str | None
    """The score it ranks by unless another is requested; None if it needs no score."""
    own_score: bool = False
    """True if that score defines it, so that no other can be requested."""
    needs: tuple[str, ...] = ()
    """The tables it requires: "score", "features"."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    further_scores: Callable[[Mapping[str, Any]], list[str]] | None = None
    """Names of the scores it reads from `Pool.scores`, given its parameters."""

    def resolve(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return parsed values of all parameters, including defaults; raises UsageError for an unknown or bad one.

        `str(value)` is the canonical text of a value, as written into the header.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise UsageError(f"selector {self.name!r} has no parameter {name!r}", hint=f"its parameters: {known}")
        return {
            name: parameter.parse(given.get(name, parameter.default)) for name, parameter in self.parameters.items()
        }

    def score_or(self, asked: str | None) -> str | None:
        """Return the score to rank by; raises UsageError if the selector cannot use the requested one."""
        if asked is None:
            return self.score
        if self.score is None:
            hint = "give scores to its parts: score=NAME" if self.further_scores else "leave out --score"
            raise UsageError(f"selector {self.name} does not rank by a score", hint=hint)
        if self.own_score and asked.rpartition("/")[2] != self.score:
            raise UsageError(
                f"selector {self.name} ranks by {self.score}, not by {asked}",
                hint="leave out --score; for the middle of another score use --selector medium",
            )
        return asked

    def choose(self, pool: Pool, groups: Groups, seed: int, values: Mapping[str, Any]) -> Choice:
        """Choose from a pool; raises UsageError or InputError if it lacks what the selector needs."""
        if "features" in self.needs and pool.features is None:
            raise UsageError(
                f"selector {self.name!r} needs features, and the manifest has none",
                hint="store them: prune score --features; or choose another selector: prune list selectors",
            )
        if self.score is not None:
            _check_score(self.name, pool)
        choice = self.function(pool, groups, seed, values)
        kept_G = np.bincount(groups.group_N[choice.keep_N], minlength=len(groups.keep_G))
        if not np.array_equal(kept_G, groups.keep_G):
            group = int(np.argmax(kept_G != groups.keep_G))
            raise UsageError(
                f"selector {self.name!r} is broken: it kept {int(kept_G[group]):,} samples of group {group}, "
                f"but the quota is {int(groups.keep_G[group]):,}",
                hint="report it to its author, or choose another selector: prune list selectors",
            )
        return choice


SELECTORS: Registry[Selector] = Registry("selector")


def selector(
    name: str,
    *,
    formula: str,
    source: str,
    score: str | None,
    own_score: bool = False,
    needs: tuple[str, ...] | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    further_scores: Callable[[Mapping[str, Any]], list[str]] | None = None,
) -> Callable[[SelectorFunction], Selector]:
    """Register a function (pool, groups, seed, parameters) -> Choice that keeps exactly `groups.keep_G` of each group.

    The choice must depend only on samples and seed, not on the order of rows.
    """

    def register(function: SelectorFunction) -> Selector:
        entry = Selector(
            name=name,
            formula=formula,
            source=source,
            function=function,
            score=score,
            own_score=own_score,
            needs=needs if needs is not None else (() if score is None else ("score",)),
            parameters=parameters or {},
            further_scores=further_scores,
        )
        return SELECTORS.add(name, entry)

    return register


def _check_score(name: str, pool: Pool) -> None:
    if pool.score_N is None:
        raise InputError(
            f"selector {name!r} ranks by a score, and the manifest has none",
            hint="make the scores: prune score; or choose without scores: --selector random",
        )
    missing_N = np.isnan(pool.score_N)
    if missing_N.any():
        first = int(pool.sample_id_N[missing_N].min())
        raise InputError(
            f"the score of sample {first} is nan ({int(missing_N.sum())} of {len(missing_N)} scores)",
            hint="score the data again, or rank by another score: --score",
        )
