"""Ctrl-C and SIGTERM as exceptions that cannot get lost."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

AGAIN_S = 3.0
"""The exception is raised again after this time, if some code has swallowed it."""


class Terminated(BaseException):
    """Raised on SIGTERM; not an Exception, so that no handler takes it for an error of the work in progress."""


class Stops:
    """While entered, raises KeyboardInterrupt on Ctrl-C and Terminated on SIGTERM, until one of them leaves the block.

    An exception in a destructor, or in a callback of C, ends there and is printed as ignored. It is not printed here,
    and raised again. A second SIGTERM is ignored: the first one is being obeyed. Signals that the process was started
    to ignore stay ignored. ends_process: afterwards only messages are left, and signals are ignored.
    """

    def __init__(self, *, ends_process: bool) -> None:
        self._ends_process = ends_process
        self.kind: type[BaseException] | None = None
        """What was raised last."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._not_raised
        self._listen(signal.SIGALRM)
        self._listen(signal.SIGTERM)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
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

    def _stop(self, number: int, _frame: FrameType | None) -> NoReturn:
        if number != signal.SIGALRM:
            self.kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise (self.kind or KeyboardInterrupt)

    def _not_raised(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            self._hook(unraisable)
