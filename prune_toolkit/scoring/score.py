"""The registry of scores: a score says what it is; how it is computed is up to its family.

Families are logit_scores.py (logits), feature_scores.py (penultimate features) and dynamics_scores.py (what a training
run recorded). Each has its own decorator; a new file of scores is named in this package's __init__.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from manifests.base.registry import Registry

if TYPE_CHECKING:
    from manifests.format.header import Harder, ScoreSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What must be known of a score to use it."""

    name: str
    set: str
    """The table it is stored in: teacher, features or dynamics."""
    harder: "Harder"
    """Which end of it means a harder sample."""
    formula: str
    source: str
    needs: tuple[str, ...]
    """What it is computed from, such as logits, features, or "dynamics: grand" for a column that is optional."""
    cost: str
    """What these cost to have, and what comes on top."""
    function: Callable[..., Any]
    family: ClassVar[str | None] = None
    """The one set whose pass computes scores of this class; None: no pass does."""

    @classmethod
    def adding(
        cls, name: str, *, harder: "Harder", formula: str, source: str, needs: tuple[str, ...], cost: str
    ) -> Callable[[Callable[..., Any]], Self]:
        """Register a function as a score of this family; ValueError when its name is taken in any set."""
        facts = {"harder": harder, "formula": formula, "source": source, "needs": needs, "cost": cost}
        return partial(cls._add, name=name, facts=facts)

    @classmethod
    def _add(cls, function: Callable[..., Any], *, name: str, facts: dict[str, Any]) -> Self:
        entry = cls(name=name, set=str(cls.family), function=function, **facts)
        SCORES.add(name, entry)
        return entry

    @classmethod
    def registered(cls) -> list[Self]:
        """The scores of this family."""
        return [entry for entry in SCORES.values() if isinstance(entry, cls)]

    def spec(self, views: str | None = None) -> "ScoreSpec":
        """What a header says of it; `views` are those it is the mean over, where there is more than one."""
        from manifests.format.header import ScoreSpec

        return ScoreSpec(
            set=self.set, name=self.name, formula=self.formula, source=self.source, harder=self.harder, views=views
        )


def _check_family(name: str, entry: Score) -> None:
    """ValueError for a score that would be listed and never computed."""
    if entry.family is None or entry.set != entry.family:
        made = "none is computed from it" if entry.family is None else f"one of those is of set {entry.family}"
        raise ValueError(
            f"score {name!r} is a {type(entry).__name__} of set {entry.set}, but {made}: "
            "register it with score, feature_score or dynamics_score"
        )


SCORES: Registry[Score] = Registry("score", _check_family)


def outside_scores(set_name: str) -> dict[str, str]:
    """Scores of a set that are not this toolkit's own, and where they come from: what was computed depends on them."""
    of_set = [name for name, entry in SCORES.items() if entry.set == set_name]
    return {name: origin for name in of_set if (origin := SCORES.origin(name)) is not None}
