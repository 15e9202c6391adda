"""The folder of a sweep: what it was asked, the lock of who works on it, and where selections and runs lie."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manifests.base.files import remove_temporaries, write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.errors import InputError, UsageError

SWEEP_NAME, LOCK_NAME, RUN_NAME = "sweep.json", ".lock", "run.json"
FORMAT = 1


class SweepFolder:
    """Paths of a sweep, and what is finished in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holdout = path / "holdout"

    def selection(self, key: str) -> Path:
        """Folder of a selection."""
        return self.path / "selections" / key

    def run(self, key: str, title: str) -> Path:
        """Folder of a run: where it was begun, else one that is named by its title."""
        begun = sorted((self.path / "runs").glob(f"*-{key}"))
        return begun[0] if begun else self.path / "runs" / f"{slug(title)}-{key}"

    def report(self, key: str) -> dict[str, Any] | None:
        """What run.json of a finished run says; None before. InputError when it cannot be read."""
        for path in (self.path / "runs").glob(f"*-{key}/{RUN_NAME}"):
            try:
                content: dict[str, Any] = json.loads(path.read_bytes())
            except ValueError as error:
                raise InputError(f"{path} is not valid JSON: {error}", hint="delete that run's folder") from None
            return content
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work on the sweep alone; UsageError while another process does."""
        if (self.path / HEADER_NAME).exists():
            raise UsageError(f"{self.path} is a manifest", hint="give the sweep a folder of its own with --out")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file", hint="name a folder with --out")
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.path / LOCK_NAME).acquire(blocking=False)
        except Timeout:
            hint = "wait for it, or name another folder with --out"
            raise UsageError(f"another process works on the sweep in {self.path}", hint=hint) from None
        with lock:
            try:
                remove_temporaries(self.path)
                yield
            finally:
                if is_new and [entry.name for entry in self.path.iterdir()] == [LOCK_NAME]:
                    # Refused before anything was written.
                    (self.path / LOCK_NAME).unlink()
                    self.path.rmdir()

    def begin(self, fixed: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
        """Write down what is asked; UsageError when the folder holds a sweep that this one does not extend."""
        asked = json.loads(json.dumps({"format": FORMAT, "fixed": fixed, "grid": grid}))
        self.check(asked["fixed"], asked["grid"])
        write_atomic(self.path / SWEEP_NAME, (json.dumps(asked, indent=1, ensure_ascii=False) + "\n").encode())

    def check(self, fixed: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
        """UsageError when the folder holds a sweep that this one does not extend."""
        path = self.path / SWEEP_NAME
        if not path.is_file():
            return
        try:
            there = json.loads(path.read_bytes())
            differences = [*_changed(there["fixed"], fixed), *_removed(there["grid"], grid)]
            known = there["format"] == FORMAT
        except (ValueError, LookupError, TypeError, AttributeError):
            known, differences = False, []
        if not known:
            raise InputError(f"{path} is not the description of a sweep", hint="name another folder with --out")
        if differences:
            raise UsageError(
                f"{self.path} holds another sweep: {'; '.join(differences)}",
                hint="a sweep can be given further entries of its grid; for anything else name another --out",
            )


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            yield f"{name}: {_shown(there.get(name))} there, {_shown(here.get(name))} now"


def _removed(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What is no more in a grid; numbers may only grow."""
    for name, entries in there.items():
        now = here.get(name)
        if isinstance(entries, int):
            if not isinstance(now, int) or now < entries:
                yield f"{name}: {entries} there, {_shown(now)} now"
            continue
        missing = [entry for entry in entries if entry not in (now or [])]
        if missing:
            yield f"{name}: without {', '.join(map(_shown, missing))} now"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def slug(title: str) -> str:
    """A title as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-.")[:80] or "run"
