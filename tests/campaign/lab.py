"""The inputs of all trials, made once by the commands themselves, and the commands that write something."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 120
"""A command that takes longer hangs."""


@dataclass(frozen=True)
class Command:
    """A command that writes: its words, in which OUT is the path it makes, run in the folder of the lab."""

    name: str
    words: tuple[str, ...]
    program: str = "prune_toolkit"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """As of subprocess: negative for a signal."""
    said: str
    """Everything on stderr and stdout."""
    seconds: float
    hung: bool = False


@dataclass
class Lab:
    """A folder of inputs that no trial may change, and a folder for what trials write."""

    inputs: Path
    scratch: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """What each command takes undisturbed."""
    made: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """What each command makes undisturbed."""

    def out(self, name: str) -> Path:
        """Return a path for OUT in a folder of its own, empty."""
        place = self.scratch / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place / "out"

    def start(self, command: Command, out: Path, **environment: str) -> subprocess.Popen[str]:
        """Start a command as a shell would, in a process group of its own."""
        words = [str(out) if word == "OUT" else word for word in command.words]
        return subprocess.Popen(
            [sys.executable, "-m", command.program, *words],
            cwd=self.inputs,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: Command, out: Path, **environment: str) -> Done:
        """Run a command to its end."""
        return finish(self.start(command, out, **environment))


def finish(process: subprocess.Popen[str], started: float | None = None) -> Done:
    """Wait for a command; one that hangs is killed, and says so."""
    started = time.monotonic() if started is None else started
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
        hung = False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        hung = True
    return Done(process.returncode, said, time.monotonic() - started, hung)
