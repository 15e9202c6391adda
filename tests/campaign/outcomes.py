"""What a fault is, what came of one trial, and the table of all."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from campaign.lab import Lab


@dataclass(frozen=True)
class Outcome:
    """One trial: a command under one fault."""

    command: str
    moment: str
    """What makes the trial repeatable beside the seed: "after 0.31 s", "image_px: 65535", ..."""
    problem: str = ""
    """What was wrong; empty if the command did as it should."""
    unpromised: str = ""
    """What happened that is documented as not promised; neither good nor wrong."""
    skipped: str = ""
    """Why it was not tried, in words for the table."""


Trials = Callable[[Lab, Random, int], Iterator[Outcome]]
"""(lab, generator, moments) -> the outcomes of a fault. `moments` is the number of trials for each command."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault, in the words of the table in docs/reliability.md."""

    name: str
    tried: str
    promise: str
    trials: Trials
    compares: bool = True
    """Whether it needs to know what commands make undisturbed, and how long they take."""


FAULTS: dict[str, Fault] = {}


def fault(name: str, *, tried: str, promise: str, compares: bool = True) -> Callable[[Trials], Trials]:
    """Register the trials of a fault."""

    def register(trials: Trials) -> Trials:
        FAULTS[name] = Fault(name, tried, promise, trials, compares)
        return trials

    return register


def table(found: Iterable[tuple[str, Outcome]]) -> str:
    """Return the table of docs/reliability.md: a row for each fault, with how many trials survived."""
    outcomes = defaultdict(list)
    for name, outcome in found:
        outcomes[name].append(outcome)
    lines = ["| fault | commands | trials | as promised | what is promised |", "|---|---:|---:|---:|---|"]
    for name, fault_outcomes in outcomes.items():
        tried = [outcome for outcome in fault_outcomes if not outcome.skipped]
        commands = len({outcome.command for outcome in tried})
        good = sum(not outcome.problem and not outcome.unpromised for outcome in tried)
        what = FAULTS[name]
        skipped = "".join(f" (skipped: {why})" for why in sorted({each.skipped for each in fault_outcomes} - {""}))
        others = Counter(outcome.unpromised for outcome in tried if outcome.unpromised)
        promise = what.promise + "".join(f" ({count:,} by {name})" for name, count in sorted(others.items()))
        lines.append(f"| {what.tried}{skipped} | {commands} | {len(tried):,} | {good:,} | {promise} |")
    return "\n".join(lines)
