"""Run jobs in worker processes, many jobs in each; a worker that dies or fails costs only its own job.

A worker is a new interpreter, which loads torch and compiled kernels once: 5 CPU seconds, 10 with FFCV, while a small
run takes one or two. It gets another job only after a success: a CUDA error, for one, persists. With all processes that
it starts, such as loaders, it forms a process group, which is killed when the worker or its parent ends.
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
"""Interval in seconds for checking workers: one may die while its children keep its end of the link open."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    link: "Connection[object, str | None]"


def run_each(
    work: Callable[[T], None], jobs: Sequence[T], processes: int
) -> Generator[tuple[T, str | None], None, None]:
    """Run jobs, started in their order, in at most `processes` workers; yield each as it ends, with its error or None.

    `work` is a function at the top level of a module, called in the workers. Closing the generator kills them.
    """
    left, busy = deque(jobs), dict[_Worker, T]()

    def begin(worker: _Worker) -> None:
        busy[worker] = left.popleft()
        # A worker that has died is found below.
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
    """Return the variables for the threads of each process: its share of the cores, unless they are set already."""
    threads = str(max(1, cores() // processes))
    return {name: environment.get(name, threads) for name in THREAD_VARIABLES}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(processes: int) -> _Worker:
    """Start a worker with the module path of this process; Ctrl-C does not reach its group."""
    environment = {**os.environ, **thread_variables(processes), "PYTHONPATH": os.pathsep.join(sys.path)}
    ours, theirs = Pipe()
    with theirs:
        command = [sys.executable, "-P", "-m", __name__]
        return _Worker(subprocess.Popen(command, stdin=theirs.fileno(), env=environment, process_group=0), ours)


def _answer(worker: _Worker) -> str | None:
    """Return the error of the job of a worker that has answered or died; None if the job succeeded."""
    if worker.process.poll() is not None:
        # So that processes it started do not keep its end of the link open.
        _kill_group(worker)
    with suppress(EOFError, ConnectionError):
        return worker.link.recv()
    code = worker.process.wait()
    return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"


def _kill_group(worker: _Worker) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _end(worker: _Worker) -> None:
    _kill_group(worker)
    worker.process.wait()
    worker.link.close()


def _serve(link: Connection) -> None:
    """Do the jobs that come over the link until the parent closes it; it may do so with an answer unread."""
    with suppress(EOFError, ConnectionError):
        while True:
            work, job = link.recv()
            link.send(_problem_of(work, job))


def _leave_with_parent() -> None:
    """Kill this process group when the other end of the link, standard input, is closed: the parent has ended."""
    link = select.poll()
    link.register(0, 0)
    link.poll()
    os.killpg(0, signal.SIGKILL)


def _problem_of(work: Callable[[T], None], job: T) -> str | None:
    try:
        work(job)
    except Exception as error:
        message = str(error) if isinstance(error, PruneError) else f"{type(error).__name__}: {error}"
        return message.splitlines()[0] if message else type(error).__name__
    except SystemExit as ended:
        return f"exited with code {ended.code}"
    return None


if __name__ == "__main__":
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _serve(Connection(0))
