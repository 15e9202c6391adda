"""Jobs in processes that live for many of them; one that dies or fails costs its own job and no other.

A worker is a fresh interpreter, which loads torch and compiled kernels once: 5 CPU seconds, 10 with FFCV, where a small
run takes one or two. It does another job only after one that went well: an error of CUDA, for one, stays. What it
starts, as loaders do, is its process group, which is killed as one when it ends, or the process that started it.
"""

import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import TypeVar

from manifests.errors import PruneError

T = TypeVar("T")
LOOK_S = 1.0
"""A worker may die without its end of the link being closed, which its children can hold: so often it is looked at."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    link: "Connection[object, str | None]"


def run_each(
    work: Callable[[T], None], jobs: Sequence[T], processes: int
) -> Generator[tuple[T, str | None], None, None]:
    """Do the jobs, begun in their order, in at most so many workers; yields each as it ends, and why it failed or None.

    `work` is a function of a module, called in the workers. Closing the generator kills them.
    """
    left, busy = deque(jobs), dict[_Worker, T]()

    def begin(worker: _Worker) -> None:
        busy[worker] = left.popleft()
        # One that is dead already is found below.
        with suppress(ConnectionError):
            worker.link.send((work, busy[worker]))

    try:
        while left or busy:
            while left and len(busy) < processes:
                begin(_start(processes))
            heard = wait([worker.link for worker in busy], LOOK_S)
            for worker in [worker for worker in busy if worker.link in heard or worker.process.poll() is not None]:
                job, problem = busy.pop(worker), _answer(worker)
                if left and problem is None and worker.process.poll() is None:
                    begin(worker)
                else:
                    _end(worker)
                yield job, problem
    finally:
        for worker in busy:
            _end(worker)


def thread_variables(processes: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How many threads each of so many processes takes: its share of the cores, unless somebody said it already."""
    threads = str(max(1, cores() // processes))
    return {name: environment.get(name, threads) for name in THREAD_VARIABLES}


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(processes: int) -> _Worker:
    """Start a worker that finds the modules this process finds; Ctrl-C does not reach its group."""
    environment = {**os.environ, **thread_variables(processes), "PYTHONPATH": os.pathsep.join(sys.path)}
    ours, theirs = Pipe()
    with theirs:
        command = [sys.executable, "-P", "-m", __name__]
        return _Worker(subprocess.Popen(command, stdin=theirs.fileno(), env=environment, process_group=0), ours)


def _answer(worker: _Worker) -> str | None:
    """Why the job of a worker that was heard of, or died, failed; None when it did not."""
    if worker.process.poll() is not None:
        # So that what it started does not hold its end of the link.
        _kill_group(worker)
    with suppress(EOFError, ConnectionError):
        return worker.link.recv()
    code = worker.process.wait()
    return (
        f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
    )


def _kill_group(worker: _Worker) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _end(worker: _Worker) -> None:
    _kill_group(worker)
    worker.process.wait()
    worker.link.close()


def _serve() -> None:
    """Life of a worker, whose standard input is its link."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    link = Connection(0)
    with suppress(EOFError):
        while True:
            work, job = link.recv()
            link.send(_problem_of(work, job))


def _leave_with_parent() -> None:
    """Wait until the other end of the link is closed: the process that started this one is gone."""
    link = select.poll()
    link.register(0, 0)
    link.poll()
    os.killpg(0, signal.SIGKILL)


def _problem_of(work: Callable[[T], None], job: T) -> str | None:
    try:
        work(job)
    except Exception as error:
        said = str(error) if isinstance(error, PruneError) else f"{type(error).__name__}: {error}"
        return said.splitlines()[0] if said else type(error).__name__
    except SystemExit as left:
        return f"left with code {left.code}"
    return None


if __name__ == "__main__":
    _serve()
