"""Messages on the terminal while work is under way: notes, progress, amounts."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Characters that a terminal obeys or that reorder text: controls except newline and tab, bidirectional marks, tags."""


def printable(text: str) -> str:
    """Return text with what a terminal would obey escaped as in JSON: a file name must not move the cursor."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return text from a manifest with its line ends escaped: it must not look like lines of our own."""
    return text.replace("\n", "\\n")


def note(text: str) -> None:
    """Print one line on stderr."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


class Progress:
    """Progress on stderr: a bar on a terminal, a plain line every ten seconds elsewhere.

    It shows the count, the rate and the time left. Use as a context manager.
    """

    def __init__(self, total: int, what: str, unit: str = "images", stream: TextIO | None = None) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done = 0
        self._stream = stream or sys.stderr
        self._start = self._printed = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        self._start = self._printed = time.monotonic()
        if self._stream.isatty():
            self._bar = _rich_bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, unit=self.unit, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Report that `count` more are done."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None:
            rate = f"{self.rate(now):,.0f} {self.unit}/s"
            self._bar.update(self._task, completed=self.done, rate=rate)
        elif now - self._printed >= 10:
            self._printed = now
            rate_now = self.rate(now)
            left_s = max(0, self.total - self.done) / rate_now if rate_now else 0.0
            print(
                f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, "
                f"{rate_now:,.0f} {self.unit}/s, {format_seconds(left_s)} left",
                file=self._stream,
                flush=True,
            )

    def shorten(self, count: int) -> None:
        """Report that `count` of them need not be done."""
        self.total -= count
        if self._bar is not None:
            self._bar.update(self._task, total=self.total)

    def rate(self, now: float | None = None) -> float:
        """Return the units per second so far."""
        elapsed = (now or time.monotonic()) - self._start
        return self.done / elapsed if elapsed > 0 else 0.0


def _rich_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )


def format_seconds(seconds: float) -> str:
    """Format seconds for people: 42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(size_bytes: float) -> str:
    """Format bytes for people: 980 B, 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(size_bytes, 1) < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall time of a block to `seconds[name]`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
