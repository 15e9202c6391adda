"""Jobs in processes that live for many of them; one that dies or fails costs its own job and no other.

A worker is a fresh interpreter (spawn), so that torch and compiled kernels are loaded once a worker, and with as many
threads as its share of the cores. It may start processes of its own, as loaders do, so it is not daemonic: they are its
process group, which is killed as one when the worker ends, or the process that started it.
"""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from manifests.errors import PruneError

T = TypeVar("T")
LOOK_S = 1.0
"""A worker may die without its end of the pipe being closed, which its children can hold: so often it is looked at."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A job that ended; `problem` says why it failed, None when it did not."""

    job: T
    problem: str | None


@dataclass
class _Worker(Generic[T]):
    process: SpawnProcess
    link: Connection
    job: T | None = None


class Workers(Generic[T]):
    """At most so many processes that do jobs; started when there is something to do, gone when the context ends.

    work: a function of a module, called in the workers.
    """

    def __init__(self, work: Callable[[T], None], processes: int) -> None:
        self._work, self._processes = work, processes
        self._workers: list[_Worker[T]] = []

    def __enter__(self) -> "Workers[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill all workers and what they started."""
        for worker in self._workers:
            _kill(worker)
        while self._workers:
            _bury(self._workers.pop())
        atexit.unregister(self.stop)

    def run(self, jobs: Sequence[T]) -> Iterator[Outcome[T]]:
        """Do the jobs, begun in their order; yields each as it ends."""
        left = list(reversed(jobs))
        while left or any(worker.job is not None for worker in self._workers):
            while left and (worker := self._idle()) is not None:
                self._begin(worker, left)
            busy = {worker.link: worker for worker in self._workers if worker.job is not None}
            heard = wait(list(busy), LOOK_S)
            for worker in [worker for link, worker in busy.items() if link in heard or not worker.process.is_alive()]:
                yield self._ended(worker)

    def _idle(self) -> _Worker[T] | None:
        """A worker without a job, a new one if there may be more."""
        for worker in [worker for worker in self._workers if worker.job is None]:
            if worker.process.is_alive():
                return worker
            self._workers.remove(worker)
            _bury(worker)
        if len(self._workers) == self._processes:
            return None
        if not self._workers:
            # Before multiprocessing's own handler, which waits for them.
            atexit.register(self.stop)
        self._workers.append(_started(self._work, self._processes))
        return self._workers[-1]

    def _begin(self, worker: _Worker[T], left: list[T]) -> None:
        """Give a worker the next job; one that died while it had none is let go."""
        try:
            worker.link.send(left[-1])
        except BrokenPipeError:
            self._workers.remove(worker)
            _bury(worker)
        else:
            worker.job = left.pop()

    def _ended(self, worker: _Worker[T]) -> Outcome[T]:
        job, worker.job = worker.job, None
        assert job is not None
        try:
            if worker.link.poll():
                return Outcome(job, worker.link.recv())
        except (EOFError, ConnectionResetError):
            pass
        self._workers.remove(worker)
        return Outcome(job, f"its process {_bury(worker)}")


def thread_variables(processes: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How many threads each of so many processes takes: its share of the cores, unless somebody said it already."""
    threads = str(max(1, cores() // processes))
    return {name: environment.get(name, threads) for name in THREAD_VARIABLES}


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _started(work: Callable[[T], None], processes: int) -> "_Worker[T]":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work), daemon=False)
    with _environment(thread_variables(processes)):
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _bury(worker: "_Worker[Any]") -> str:
    """Kill what there still is of a worker, and wait for its end; says how that came."""
    worker.link.close()
    _kill(worker)
    worker.process.join()
    code = worker.process.exitcode or 0
    worker.process.close()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _kill(worker: "_Worker[Any]") -> None:
    """Kill a worker and what it started, which may outlive it."""
    assert worker.process.pid is not None
    # In its first moments a worker leads no group yet.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.kill()


def _serve(link: Connection, work: Callable[[T], None]) -> None:
    """Life of a worker."""
    os.setpgid(0, 0)
    # Ctrl-C is for the one that started us, which tells us what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            link.send(_problem_of(work, link.recv()))
        except (EOFError, ConnectionError):
            # The one that started us is gone.
            return


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
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
