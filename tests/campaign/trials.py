"""Trials at random moments, several at a time."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from campaign.lab import Command, Lab
from campaign.outcomes import Outcome

COLD_EVERY = 5
"""One trial in so many starts the command as a process of its own: imports are a moment too."""


@dataclass(frozen=True)
class Moment:
    """When a fault meets a command: seconds after its start."""

    seconds: float
    cold: bool = False

    def __str__(self) -> str:
        return f"after {self.seconds:.2f} s{' from a cold start' if self.cold else ''}"


def moments_of(lab: Lab, command: Command, generator: Random, moments: int) -> list[Moment]:
    """Draw the moments of a command: one in five in a cold start, the others mostly while it writes."""
    found = []
    for number in range(-(-moments // command.part)):
        if number % COLD_EVERY == COLD_EVERY - 1:
            found.append(Moment(generator.uniform(0, lab.cold_seconds[command.name]), cold=True))
        else:
            begin = 0.0 if number % COLD_EVERY == 0 else lab.begins[command.name]
            found.append(Moment(generator.uniform(begin, max(begin, lab.seconds[command.name]))))
    return found


Trial = tuple[str, str, Callable[[str], str]]
"""The name of a command, the moment in words, and what tries it: takes the name of a folder and returns the problem."""


def tried(lab: Lab, trials: Iterable[Trial]) -> Iterator[Outcome]:
    """Try all, `lab.jobs` at a time, each in a folder of its own."""

    def one(each: Trial) -> Outcome:
        command, moment, trial = each
        folder = f"trial-{next(lab.numbers)}"
        try:
            problem = trial(folder)
        except Exception as error:
            problem = f"the trial itself failed: {error!r}"
        if not problem:
            shutil.rmtree(lab.scratch / folder, ignore_errors=True)
        return Outcome(command, moment, f"{problem} ({folder})" if problem else "")

    with ThreadPoolExecutor(lab.jobs) as pool:
        yield from pool.map(one, trials)
