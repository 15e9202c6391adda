"""What every command promises, whatever happens to it. Each function returns what is wrong, empty if nothing is."""

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from campaign.equal import difference, tree
from campaign.lab import Command, Done, Lab, Running

GONE_S = 10.0
"""Within this time everything that a command started has ended."""


REFUSED, NEVER_CHANGED = 2, "what is there is never changed"


def problem_of(done: Done, codes: Collection[int]) -> str:
    """Check that a command ended with one of these codes, not by itself with a traceback, and said why."""
    last = done.said.strip().splitlines()[-1:] or [""]
    if done.hung:
        return "hung"
    if "Traceback" in done.said or "Exception ignored" in done.said:
        return f"a traceback: {last[0]}"
    if done.code not in codes:
        return f"code {done.code}, not {' or '.join(map(str, sorted(codes)))}: {last[0]}"
    if done.code > 0 and not last[0]:
        return f"code {done.code} without a word"
    return ""


def left_running(running: Running) -> str:
    """Check that nothing is left of a command's process group; what is left is killed."""
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return ""
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    return "a process was left running"


def not_whole(lab: Lab, command: Command, out: Path) -> str:
    """Check that what lies there under a final name is whole: a manifest with a header is the undisturbed one."""
    found, wanted = tree(out), lab.made[command.name]
    headers = [key for key in found if key.endswith("manifest.json") and found[key] != wanted.get(key)]
    if headers and not command.changes:
        return f"{headers[0]} is there, and not the undisturbed one"
    for header in (key for key in found if key.endswith("manifest.json")):
        folder = header.removesuffix("manifest.json")
        files = [entry["path"] for entry in wanted[header]["files"]]  # type: ignore[index]
        kept = [path for path in files if folder + path in wanted]
        if bad := [path for path in kept if found.get(folder + path) != wanted[folder + path]]:
            return f"{header} is there, but {bad[0]} is not whole"
    return ""


def resumes(lab: Lab, command: Command, out: Path) -> str:
    """Check that the same command, run again, ends well, and leaves what it makes undisturbed and nothing else."""
    done = lab.run(command, out)
    is_refused = command.once and done.code == REFUSED and NEVER_CHANGED in done.said
    return problem_of(done, {REFUSED if is_refused else 0}) or as_undisturbed(lab, command, out)


def as_undisturbed(lab: Lab, command: Command, out: Path) -> str:
    """Check that what is there is what the command makes undisturbed, byte by byte, and nothing else."""
    scratch = [path.name for path in (lab.scratch / "tmp").glob(f".*.{os.uname().nodename}.*")] if lab.jobs == 1 else []
    return difference(tree(out), lab.made[command.name]) or (
        f"left among temporary files: {scratch}" if scratch else ""
    )
