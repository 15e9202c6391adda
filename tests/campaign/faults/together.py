"""Several processes of the same command in the same folder at once."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from campaign.checks import as_undisturbed, left_running, not_whole, problem_of, resumes
from campaign.lab import Command, Lab
from campaign.outcomes import Outcome, fault
from campaign.trials import Trial, tried

REFUSED = (2, 3, 4)
TRIALS_OF = 5
"""One trial of each form for so many moments."""


@fault(
    "together",
    tried="two or three processes of one command into one folder at once, one of them killed in every second trial",
    promise="each ends with code 0, or is refused with a sentence if the command does not share its work; at last the "
    "same bytes, and nothing left over",
)
def together(lab: Lab, generator: Random, moments: int) -> Iterator[Outcome]:
    """Start each command two and three times, with ranks too where it has them; kill one of them or none."""
    trials: list[Trial] = []
    for command in lab.commands:
        for _ in range(-(-moments // TRIALS_OF // command.part)):
            for processes in (2, 3):
                for has_ranks in {False, command.shares}:
                    starts = [generator.uniform(0, lab.seconds[command.name] / 2) for _ in range(processes - 1)]
                    killed = generator.uniform(0, lab.seconds[command.name])
                    for after in (None, killed):
                        said = f"{processes} {'ranks' if has_ranks else 'processes'}" + (
                            "" if after is None else f", one killed after {after:.2f} s"
                        )
                        trial = partial(_try, lab, command, [0.0, *starts], after, has_ranks)
                        trials.append((command.name, said, trial))
    return tried(lab, trials)


def _try(
    lab: Lab, command: Command, starts_s: Sequence[float], killed_s: float | None, has_ranks: bool, folder: str
) -> str:
    out = lab.out(folder)
    lab.prepare(command, out)
    processes, begun = [], time.monotonic()
    waits = sorted(starts_s)
    for rank, start_s in enumerate(waits):
        time.sleep(max(0.0, start_s - (time.monotonic() - begun)))
        ranks = ("--rank", str(rank), "--world-size", str(len(waits))) if has_ranks else ()
        processes.append(lab.start(replace(command, words=(*command.words, *ranks)), out))
    victim = processes[0] if killed_s is not None else None
    if victim is not None and killed_s is not None:
        time.sleep(max(0.0, killed_s - (time.monotonic() - begun)))
        victim.signal(signal.SIGKILL)
    done = {process: process.finish() for process in processes}
    codes = {0} if command.shares else {0, *REFUSED}
    for process, each in done.items():
        problem = "" if process is victim else problem_of(each, codes)
        if problem := problem or left_running(process):
            return problem
    if victim is not None:
        return not_whole(lab, command, out) or resumes(lab, command, out)
    if all(each.code for each in done.values()):
        return f"none of them did it: {done[processes[0]].said.strip()[-200:]}"
    return as_undisturbed(lab, command, out)
