"""The budget of `prune label --view-budget`: how many labels there are, shared within each part of 8,192 samples.

A part's share follows from the number of samples kept in it and before it. So parts can be made in any order, by any
number of processes, in one go each, and all labels together are exactly as many as were asked for.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from manifests.betons.labelled_views import LEAST_LABELS, MOST_VIEWS
from manifests.errors import UsageError
from manifests.format.header import ViewBudget
from prune_toolkit.labelling.view_rules import VIEW_RULES, ViewRule
from prune_toolkit.quotas.keep import parse_fraction
from prune_toolkit.quotas.quotas import total_count

DEFAULT_RULE = "covariance"
FIRST_VIEWS = 5
"""Least and default number: view 0, and two pairs of augmented ones, by which the noise of their estimates is known."""


@dataclass(frozen=True, kw_only=True)
class BudgetFlags:
    """The options of a budget as they were given; None for defaults."""

    view_budget: str | None = None
    view_rule: str | None = None
    first_views: int | None = None
    view_temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A number of labels per sample, and the rule that shares them."""

    rule: str
    text: str
    """The mean as it was typed."""
    mean: Fraction
    """Labels per sample on average, view 0 included."""
    first_views: int
    """Views of every sample that the teacher sees before the others are chosen."""
    least: int
    """Labels of a sample that has the fewest."""
    temperature: float

    @classmethod
    def of(cls, flags: BudgetFlags, views: int, policy: str, codec: str | None) -> "Budget | None":
        """Return the budget of these options for V views; None without --view-budget.

        Raises UsageError for options that cannot be, or that need a budget.
        """
        if flags.view_budget is None:
            given = {
                "--view-rule": flags.view_rule,
                "--first-views": flags.first_views,
                "--view-temperature": flags.view_temperature,
            }
            for flag, value in given.items():
                if value is not None:
                    raise UsageError(f"{flag} {value} needs --view-budget B", hint="B labels per sample on average")
            return None
        name = flags.view_rule or DEFAULT_RULE
        rule = VIEW_RULES[name]
        mean = parse_fraction(flags.view_budget)
        what = f"--view-budget {flags.view_budget}"
        if mean is None:
            raise UsageError(f"{what}: not a number of labels per sample", hint="for example 4, 2.5 or 5/2")
        if policy == "single":
            raise UsageError(f"{what}: --policy single labels only view 0", hint="leave out one of the two")
        if policy == "mean" and codec == "features":
            raise UsageError(
                f"{what}: features of different views per sample are not averaged",
                hint="take another --codec, or --policy replay",
            )
        if views > MOST_VIEWS:
            raise UsageError(f"--views {views}: {what} chooses among at most {MOST_VIEWS}", hint="take fewer --views")
        temperature = 1.0 if flags.view_temperature is None else flags.view_temperature
        if not 0 < temperature <= 1000:
            raise UsageError(f"--view-temperature {temperature:g}: above 0, and at most 1000")
        first = _first_views(rule, flags.first_views, views)
        if rule.sees_all and mean.denominator != 1:
            raise UsageError(
                f"{what}: --view-rule {name} labels equally many views of each", hint="take a whole number"
            )
        # A mean takes no more room if it is over all views that were seen.
        least, why = LEAST_LABELS, "view 0 and one other"
        if policy == "mean" and not rule.sees_all:
            least, why = first, "the --first-views, which all means are over"
        if not (least <= mean < views if rule.sees_all else least < mean < views):
            raise UsageError(
                f"{what}: it must be {'at least' if rule.sees_all else 'above'} {least} ({why}) and below {views}, the "
                "--views to choose from",
                hint="without --view-budget, all --views of each sample are labelled",
            )
        text = flags.view_budget.strip()
        return cls(rule=name, text=text, mean=mean, first_views=first, least=least, temperature=temperature)

    def resolved(self) -> dict[str, Any]:
        """Return what the result depends on."""
        return {
            "rule": self.rule,
            "mean": str(self.mean),
            "first_views": self.first_views,
            "temperature": self.temperature,
        }

    def share(self, before: int, count: int) -> int:
        """Return the labels of `count` samples, given how many are kept in the parts before theirs."""
        return total_count(self.mean, before + count) - total_count(self.mean, before)

    def total(self, count: int) -> int:
        """Return the labels of all `count` kept samples."""
        return total_count(self.mean, count)

    def shown(self, count: int, labels: int | None = None) -> int:
        """Return how many images of `count` samples the teacher sees at most, for some number of labels or the mean.

        It is fewer where samples have more labels than first views: these need no others.
        """
        if VIEW_RULES[self.rule].sees_all:
            return count * self.first_views
        return (self.total(count) if labels is None else labels) + count * (self.first_views - self.least)

    def block(self, samples: int) -> ViewBudget:
        """Return the header block for all kept samples, without what only their labels say."""
        return ViewBudget(
            rule=self.rule,
            mean=self.text,
            first_views=self.first_views,
            temperature=self.temperature,
            labels=self.total(samples),
        )


def _first_views(rule: ViewRule, asked: int | None, views: int) -> int:
    """Return how many views of each sample are seen first; raises UsageError for a number that cannot be."""
    if rule.sees_all:
        if asked is not None:
            raise UsageError(
                f"--first-views {asked}: --view-rule {rule.name} sees all {views} views",
                hint="leave out one of the two",
            )
        return views
    if views < FIRST_VIEWS:
        raise UsageError(
            f"--views {views}: a --view-budget by {rule.name} chooses from {FIRST_VIEWS} or more",
            hint="fewer do not tell how much of their differences is chance: --views 16, or leave out --view-budget",
        )
    first = FIRST_VIEWS if asked is None else asked
    if not FIRST_VIEWS <= first <= views:
        raise UsageError(
            f"--first-views {first}: from {FIRST_VIEWS} to {views}, the --views to choose from",
            hint=f"fewer than {FIRST_VIEWS} do not tell how much of their differences is chance",
        )
    return first
