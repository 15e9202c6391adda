"""No fault at all: what every command makes, how long it takes, and that it makes the same again."""

import time
from collections.abc import Iterator
from random import Random

from campaign.checks import problem_of
from campaign.equal import difference, tree
from campaign.lab import POLL_S, Command, Lab
from campaign.outcomes import Outcome, fault

UNDISTURBED = "undisturbed"


@fault(
    UNDISTURBED,
    tried="nothing: once as a fork of a process that has imported everything, once by itself",
    promise="code 0, and the same bytes both times",
)
def undisturbed(lab: Lab, _generator: Random, _moments: int) -> Iterator[Outcome]:
    """Measure every command, one at a time; one that does not do well is left out of other trials."""
    for command in lab.commands:
        problem = measure(lab, command)
        if problem:
            lab.commands = tuple(each for each in lab.commands if each is not command)
        yield Outcome(command.name, "", problem)


def measure(lab: Lab, command: Command) -> str:
    """Measure how long a command takes, and what it makes: once as a fork, once by itself. Return what is wrong."""
    warm, cold = lab.out(lab.undisturbed(command).name), lab.out("cold")
    for out in (warm, cold):
        lab.prepare(command, out)
    before = tree(warm)
    running = lab.start(command, warm)
    started, begins = time.monotonic(), None
    while (code := running.ended()) is None:
        if begins is None and any(path.is_file() for path in warm.parent.rglob("*") if path.name not in before):
            begins = time.monotonic() - started
        time.sleep(POLL_S)
    done = running.done(code)
    lab.seconds[command.name] = time.monotonic() - started
    lab.begins[command.name] = lab.seconds[command.name] / 2 if begins is None else begins
    lab.made[command.name] = tree(warm)
    again = lab.run(command, cold, cold=True)
    lab.cold_seconds[command.name] = again.seconds
    return problem_of(done, {0}) or problem_of(again, {0}) or difference(tree(cold), lab.made[command.name])
