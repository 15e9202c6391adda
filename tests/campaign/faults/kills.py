"""SIGKILL at random moments: what a process cannot prepare for."""

import signal
import time
from collections.abc import Iterator
from functools import partial
from random import Random

from campaign.checks import left_running, not_whole, resumes
from campaign.lab import Command, Lab
from campaign.outcomes import Outcome, fault
from campaign.trials import Moment, moments_of, tried


@fault(
    "kills",
    tried="SIGKILL at a random moment",
    promise="what lies there is never taken for a finished result unless it is one; the same command, run again, "
    "ends with code 0, the same bytes and nothing left over",
)
def kills(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Kill every command at each of its moments, and run it again."""
    return tried(
        lab,
        [
            (command.name, str(moment), partial(_kill, lab, command, moment))
            for command in lab.commands
            for moment in moments_of(lab, command, generator, moments)
        ],
    )


def _kill(lab: Lab, command: Command, moment: Moment, folder: str) -> str:
    out = lab.out(folder)
    lab.prepare(command, out)
    running = lab.start(command, out, cold=moment.cold)
    time.sleep(moment.seconds)
    running.signal(signal.SIGKILL)
    running.finish()
    return left_running(running) or not_whole(lab, command, out) or resumes(lab, command, out)
