"""The inputs of all trials, and how commands are started in them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
"""A command that takes longer hangs."""
POLL_S = 0.01


@dataclass(frozen=True)
class Command:
    """A command that writes: its words, in which OUT is the path it makes, run in the folder of the lab."""

    name: str
    words: tuple[str, ...]
    program: str = "prune_toolkit"
    makes: str = "manifest"
    """What is at OUT afterwards: manifest, run, sweep, file or folder."""
    changes: str = ""
    """A folder of the lab of which OUT is a copy beforehand, for a command that writes into its input."""
    shares: bool = False
    """Several processes may do its work together."""
    once: bool = False
    """It never changes what is there: run again after it has finished, it is refused."""
    tolerates: bool = False
    """It leaves other files in its folder alone, and writes beside them."""
    part: int = 1
    """It gets one in so many of the trials of other commands, because it takes longer."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """As of subprocess: negative for a signal."""
    said: str
    """Everything on stderr and stdout."""
    seconds: float
    hung: bool = False


class Nursery:
    """Starts commands as forks of a process that has imported everything: see nursery.py."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaign.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
        self._answer()

    def ask(self, **request: Any) -> Any:
        """Return the answer to a request."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return line

    def close(self) -> None:
        """End it; commands that run go on."""
        self._process.communicate()


class Running:
    """A command that has been started, the leader of a process group of its own."""

    def __init__(self, pid: int, said: Path, poll: Any) -> None:
        self.pid, self._said, self._poll, self._started = pid, said, poll, time.monotonic()

    def signal(self, number: int) -> None:
        """Send a signal to the process alone; it exists until `finish`, if only as a zombie."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Return the exit code, None while it runs. Not to be asked again afterwards."""
        code: int | None = self._poll()
        return code

    def finish(self, timeout_s: float = TIMEOUT_S) -> Done:
        """Wait for the end; a command that hangs is killed with all it started."""
        hung = False
        while (code := self.ended()) is None:
            if not hung and time.monotonic() - self._started > timeout_s:
                hung = True
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(POLL_S)
        return self.done(code, hung=hung)

    def done(self, code: int, *, hung: bool = False) -> Done:
        """Return how it ended."""
        return Done(code, self._said.read_text("utf-8", "replace"), time.monotonic() - self._started, hung)


@dataclass
class Lab:
    """A folder of inputs that no trial may change, and a folder for what trials write."""

    inputs: Path
    scratch: Path
    commands: tuple[Command, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """What each command takes undisturbed, from the fork."""
    begins: dict[str, float] = field(default_factory=dict)
    """When the first file of each command appears."""
    cold_seconds: dict[str, float] = field(default_factory=dict)
    """What each command takes as a process of its own."""
    made: dict[str, dict[str, object]] = field(default_factory=dict)
    """What each command makes undisturbed: see `tree`."""
    jobs: int = 1
    """Trials at a time."""
    nursery: Nursery | None = None
    numbers: Any = field(default_factory=count)

    def out(self, name: str) -> Path:
        """Return a path for OUT in a folder of its own, empty."""
        place = self.scratch / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place / "out"

    def undisturbed(self, command: Command) -> Path:
        """Return the folder that holds what a command made undisturbed."""
        return self.scratch / ("undisturbed-" + re.sub(r"\W+", "-", command.name))

    def prepare(self, command: Command, out: Path) -> None:
        """Copy what the command is to change."""
        if command.changes:
            shutil.copytree(self.inputs / command.changes, out)

    def start(self, command: Command, out: Path, *, cold: bool = False, **environment: str) -> Running:
        """Start a command as a shell would; cold: not as a fork of a process that has imported everything."""
        words = [word.replace("OUT", str(out)) for word in command.words]
        said = self.scratch / f"said-{next(self.numbers)}.txt"
        said.touch()
        environment = self.environment | environment
        if self.nursery is None or cold:
            with said.open("w") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", command.program, *words],
                    cwd=self.inputs,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            return Running(process.pid, said, process.poll)
        nursery = self.nursery
        pid = nursery.ask(
            words=words, program=command.program, folder=str(self.inputs), environment=environment, said=str(said)
        )
        return Running(pid, said, lambda: nursery.ask(poll=pid))

    def run(self, command: Command, out: Path, *, cold: bool = False, **environment: str) -> Done:
        """Run a command to its end."""
        return self.start(command, out, cold=cold, **environment).finish()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands: this checkout's code, one thread, no caches beside the inputs."""
        (self.scratch / "tmp").mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TMPDIR": str(self.scratch / "tmp"),
        }
