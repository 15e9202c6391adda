"""SIGTERM, Ctrl-C and a closed terminal at random moments."""

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.checks import left_running, not_whole, problem_of, resumes
from campaign.lab import Command, Done, Lab
from campaign.outcomes import Outcome, fault
from campaign.trials import Moment, moments_of, tried

CODES = {signal.SIGTERM: 5, signal.SIGINT: 130, signal.SIGHUP: 5}
OBEYED_WITHIN_S = 30.0


@fault(
    "signals",
    tried="SIGTERM, Ctrl-C or SIGHUP at a random moment",
    promise="code 5 (130 for Ctrl-C) and a sentence, no traceback; then as after SIGKILL. While Python itself starts, "
    "it may end as any Python program does",
)
def signals(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Send each command one of the signals at each of its moments, and run it again."""
    trials = []
    for command in lab.commands:
        for row, moment in enumerate(moments_of(lab, command, generator, moments)):
            number = list(CODES)[row % len(CODES)]
            trials.append((command.name, f"{number.name} {moment}", partial(_send, lab, command, moment, number)))
    return tried(lab, trials)


def _send(lab: Lab, command: Command, moment: Moment, number: signal.Signals, folder: str) -> str:
    out = lab.out(folder)
    lab.prepare(command, out)
    running = lab.start(command, out, cold=moment.cold)
    time.sleep(moment.seconds)
    is_early = not _catches(running.pid, signal.SIGTERM)
    running.signal(number)
    done = running.finish(moment.seconds + OBEYED_WITHIN_S)
    return (
        ("" if is_early and _as_python(done, number) else problem_of(done, {CODES[number], 0}))
        or left_running(running)
        or not_whole(lab, command, out)
        or resumes(lab, command, out)
    )


def _as_python(done: Done, number: signal.Signals) -> bool:
    """Return whether a command ended as Python does before it runs any of our code."""
    return done.code in {-number, *((1,) if number == signal.SIGINT and "KeyboardInterrupt" in done.said else ())}


def _catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal; False for a zombie."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
