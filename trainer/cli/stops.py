"""Ctrl-C, SIGTERM and SIGHUP as exceptions that cannot get lost."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

AGAIN_S = 3.0
"""The exception is raised again after this time, if some code has swallowed it."""


INTERRUPTED, STOPPED = 130, 5
"""Exit codes after Ctrl-C, and after SIGTERM and SIGHUP."""
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """Raised on SIGTERM and SIGHUP; not an Exception: no handler takes it for an error of the work in progress."""


def obey_at_once(name: str) -> None:
    """End the process on these signals without a traceback, until `Stops` is entered: imports take a moment.

    The first call of an entry point, before anything else is imported. Signals that the process was started to ignore
    stay ignored.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        _end(name, number, " before it began")

    end.is_first = True  # type: ignore[attr-defined]
    for number in (signal.SIGINT, *_STOPPING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def _end(name: str, number: int, when: str) -> NoReturn:
    is_interrupt = number == signal.SIGINT
    words = "interrupted" if is_interrupt else f"stopped by {signal.Signals(number).name}"
    # Not print(): this may be in the middle of another one.
    os.write(2, f"{name}: {words}{when}\n".encode())
    os._exit(INTERRUPTED if is_interrupt else STOPPED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class Stops:
    """While entered, raises KeyboardInterrupt on Ctrl-C, Terminated on SIGTERM and SIGHUP, until one leaves the block.

    An exception in a destructor, or in a callback of C, ends there and is printed as ignored. It is not printed here,
    and raised again. A second SIGTERM or SIGHUP is ignored: the first one is being obeyed. Signals that the process was
    started to ignore stay ignored. ends_process: afterwards only messages are left, and signals are ignored; and the
    process of the command `name` ends at once during an import, where C++ code may abort it for an exception.
    """

    def __init__(self, name: str, *, ends_process: bool) -> None:
        self._name, self._ends_process = name, ends_process
        self.kind: type[BaseException] | None = None
        """What was raised last."""
        self.name = ""
        """The signal for which it was raised."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._not_raised
        self._listen(signal.SIGALRM)
        self._listen(signal.SIGTERM)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._listen(signal.SIGHUP)
        handler = signal.getsignal(signal.SIGINT)
        if handler is signal.default_int_handler or hasattr(handler, "is_first"):
            self._listen(signal.SIGINT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._ends_process else handler)
        if not self._ends_process:
            sys.unraisablehook = self._hook

    def _listen(self, number: signal.Signals) -> None:
        self._before[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        if self._ends_process and number != signal.SIGALRM and _is_importing(frame):
            _end(self._name, number, "")
        if number != signal.SIGALRM:
            self.kind, self.name = Terminated if number in _STOPPING else KeyboardInterrupt, signal.Signals(number).name
        for stopping in _STOPPING:
            signal.signal(stopping, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise (self.kind or KeyboardInterrupt)

    def _not_raised(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            self._hook(unraisable)
