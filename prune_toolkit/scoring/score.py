"""The registry of scores: an entry describes a score; its family computes it.

Families are logit_scores.py (logits), feature_scores.py (penultimate features) and dynamics_scores.py (records of a
training run). Each has its own decorator; a new file of scores must be named in this package's __init__.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from manifests.base.registry import Registry

if TYPE_CHECKING:
    from manifests.format.header import Harder, ScoreSpec


NEEDS_LABELS = "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The facts about a score."""

    name: str
    set: str
    """The table it is stored in: teacher, features or dynamics."""
    harder: "Harder"
    """The end of its range that means a harder sample."""
    formula: str
    source: str
    needs: tuple[str, ...]
    """Its inputs, such as logits, labels, features, or "dynamics: grand" for an optional column."""
    cost: str
    """The cost of these inputs, and of the score itself."""
    function: Callable[..., Any]
    family: ClassVar[str | None] = None
    """The set whose pass computes scores of this class; None: no pass does."""

    @classmethod
    def adding(
        cls, name: str, *, harder: "Harder", formula: str, source: str, needs: tuple[str, ...], cost: str
    ) -> Callable[[Callable[..., Any]], Self]:
        """Return a decorator that registers a function as a score of this family.

        Raises ValueError if the name is taken in any set.
        """
        facts = {"harder": harder, "formula": formula, "source": source, "needs": needs, "cost": cost}
        return partial(cls._add, name=name, facts=facts)

    @classmethod
    def _add(cls, function: Callable[..., Any], *, name: str, facts: dict[str, Any]) -> Self:
        entry = cls(name=name, set=str(cls.family), function=function, **facts)
        SCORES.add(name, entry)
        return entry

    @classmethod
    def registered(cls, *, unlabelled: bool = False) -> list[Self]:
        """Return the scores of this family, of unlabelled images only those that need no label."""
        entries = [entry for entry in SCORES.values() if isinstance(entry, cls)]
        return [entry for entry in entries if not (unlabelled and entry.needs_labels)]

    @property
    def needs_labels(self) -> bool:
        """True if it compares the teacher's answer with the label, which a teacher's own labels cannot serve for."""
        return NEEDS_LABELS in self.needs

    def spec(self, views: str | None = None) -> "ScoreSpec":
        """Return its header entry; `views` are the views it was averaged over, if there are several."""
        from manifests.format.header import ScoreSpec

        return ScoreSpec(
            set=self.set, name=self.name, formula=self.formula, source=self.source, harder=self.harder, views=views
        )


def _check_family(name: str, entry: Score) -> None:
    """Raise ValueError for a score that would be listed but never computed."""
    if entry.family is None or entry.set != entry.family:
        made = "that class is never computed" if entry.family is None else f"that class is of set {entry.family}"
        raise ValueError(
            f"score {name!r} is a {type(entry).__name__} of set {entry.set}, but {made}: "
            "register it with score, feature_score or dynamics_score"
        )


SCORES: Registry[Score] = Registry("score", _check_family)


def outside_scores(*set_names: str) -> dict[str, dict[str, str]]:
    """Return the plug-in scores of some sets with their origins, as `scores` of a configuration; {} without any.

    The result depends on them.
    """
    names = [name for name, entry in SCORES.items() if entry.set in set_names]
    origins = {name: origin for name in names if (origin := SCORES.origin(name)) is not None}
    return {"scores": origins} if origins else {}
