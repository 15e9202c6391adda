"""Patience with servers: how long to wait for one, when to say so, and how often to ask again.

Every question to a server goes through `Attempts`. What may pass (a reset connection, silence, a busy server) is asked
again after a pause that doubles; each pause, and each wait that is long, is told in one line.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from threading import Timer
from typing import IO, TypeVar

from manifests.base.progress import note
from manifests.errors import PruneError, UsageError
from manifests.stores.failures import may_pass, reason_of, retry_after_s, tell

TIMEOUT_S = 20.0
MOST_TIMEOUT_S = 86_400.0
ANEW_BYTES = 64 << 20
"""Attempts at one file are counted anew after so many bytes: a large file may be interrupted more often."""
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Bounds of waiting. Raises UsageError for a timeout that is not a time."""

    timeout_s: float = TIMEOUT_S
    """Longest time without a byte, while connecting or reading."""
    waits_s: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Pauses between the attempts; each is up to a quarter longer, so that many readers do not return at once."""
    tell_after_s: float = 3.0
    """Silence after which a line says what is waited for."""
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout_s) and 0 < self.timeout_s <= MOST_TIMEOUT_S):
            raise UsageError(
                f"--timeout {self.timeout_s:g} is not a time in seconds, above 0 and at most {MOST_TIMEOUT_S:,.0f}",
                hint=f"for example --timeout 10; without it, {TIMEOUT_S:g}",
            )

    @property
    def once(self) -> "Patience":
        """The same, without further attempts."""
        return replace(self, waits_s=())


_CURRENT = ContextVar("patience", default=Patience())  # noqa: B039  a frozen dataclass


def patience(timeout_s: float | None = None) -> Patience:
    """Return the patience of stores opened now, with another timeout if one is given."""
    return _CURRENT.get() if timeout_s is None else replace(_CURRENT.get(), timeout_s=float(timeout_s))


@contextmanager
def patient(bounds: Patience) -> Iterator[None]:
    """Within the block, give stores that are opened this patience."""
    token = _CURRENT.set(bounds)
    try:
        yield
    finally:
        _CURRENT.reset(token)


HEARD = "no answer for {after:g} s, at most {most:g} s"
"""Said of a wait for the next byte."""
UNHEARD = "for {after:g} s; a silence of {most:g} s ends it"
"""Said of a wait for a whole answer, of which some bytes may have come."""


class Attempts:
    """Asks a server, `where` in messages, until it answers or patience ends.

    `waiting` is what is said of a long wait, None for work that takes long although the server answers.
    """

    def __init__(self, where: str, bounds: Patience, waiting: str | None = HEARD) -> None:
        self.where, self.bounds, self._waiting = where, bounds, waiting
        self._failed, self._bytes = 0, 0

    def __call__(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns.

        Raises FileNotFoundError for what is missing there, InputError if access is denied, UnreachableError if there is
        no complete answer; what `ask` raises of ours passes through.
        """
        while True:
            try:
                with self._watched():
                    return ask()
            except (PruneError, AttributeError, NameError):
                raise
            except Exception as error:
                # Every file system has its own exceptions, from packages that may not be installed.
                self._pause(error)

    def came(self, count: int) -> None:
        """Note that `count` more bytes came."""
        self._bytes += count
        if self._bytes >= ANEW_BYTES:
            self._failed, self._bytes = 0, 0

    def _pause(self, error: Exception) -> None:
        """Wait before the next attempt; raise if there is none."""
        bounds, self._failed = self.bounds, self._failed + 1
        attempts = len(bounds.waits_s) + 1
        if not may_pass(error) or self._failed >= attempts:
            tell(self.where, error, bounds.timeout_s, self._failed)
        wait_s = bounds.waits_s[self._failed - 1] * random.uniform(1, 1.25)
        # A server that asks for more than anyone waits for an answer gets no more than that.
        wait_s = max(wait_s, min(retry_after_s(error), bounds.timeout_s))
        note(
            f"{self.where}: {reason_of(error, bounds.timeout_s)}; "
            f"trying again in {wait_s:.0f} s ({self._failed + 1} of {attempts})"
        )
        bounds.sleep(wait_s)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Say once that an answer is waited for, if it takes long."""
        if self._waiting is None:
            yield
            return
        after_s = self.bounds.tell_after_s
        how_long = self._waiting.format(after=after_s, most=self.bounds.timeout_s)
        timer = Timer(after_s, note, [f"waiting for {self.where} ({how_long})"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class PatientFile:
    """A file of a file system that seeks, read with patience from where it stopped."""

    def __init__(self, stream: IO[bytes], attempts: Attempts) -> None:
        self._stream, self._attempts, self._position = stream, attempts, 0

    def read(self, most_bytes: int) -> bytes:
        """Return up to `most_bytes`, none at the end; raises the errors of `Attempts`."""
        data = self._attempts(lambda: self._read(most_bytes))
        self._position += len(data)
        self._attempts.came(len(data))
        return data

    def _read(self, most_bytes: int) -> bytes:
        if self._stream.tell() != self._position:
            self._stream.seek(self._position)
        return self._stream.read(most_bytes)

    def __enter__(self) -> "PatientFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
