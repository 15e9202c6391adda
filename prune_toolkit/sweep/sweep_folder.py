"""The folder of a sweep: its options, its lock, and the paths of selections and runs."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manifests.base.files import remove_temporaries, write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.base.out_folder import check_out_folder
from manifests.errors import InputError, UsageError

SWEEP_NAME, LOCK_NAME, RUN_NAME, PLOTS_NAME = "sweep.json", ".lock", "run.json", "plots"
FORMAT = 1
_BEFORE = ("holdout", "logs")
"""The folders that are written before the description of the sweep."""


class SweepFolder:
    """Paths of a sweep, and the reports of its finished runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holdout = path / "holdout"

    def selection(self, key: str) -> Path:
        """Return the folder of a selection."""
        return self.path / "selections" / key

    def run(self, key: str, title: str) -> Path:
        """Return the folder of a run: the one where it was started, else one named after its title."""
        begun = sorted((self.path / "runs").glob(f"*-{key}"))
        return begun[0] if begun else self.path / "runs" / f"{slug(title)}-{key}"

    def report(self, key: str) -> dict[str, Any] | None:
        """Return run.json of a finished run, None if it is not finished; InputError if it cannot be read."""
        for path in (self.path / "runs").glob(f"*-{key}/{RUN_NAME}"):
            try:
                content: dict[str, Any] = json.loads(path.read_bytes())
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path} is not valid JSON: {error}", hint="delete that run's folder") from None
            return content
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the sweep; UsageError if another process holds the lock."""
        if (self.path / HEADER_NAME).exists():
            raise UsageError(f"{self.path} is a manifest", hint="give the sweep its own folder with --out")
        check_out_folder(self.path, "sweep", (*_BEFORE, PLOTS_NAME), self._of_ours)
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.path / LOCK_NAME).acquire(blocking=False)
        except Timeout:
            hint = "wait for it, or name another folder with --out"
            raise UsageError(f"another process is working on the sweep in {self.path}", hint=hint) from None
        with lock:
            try:
                remove_temporaries(self.path)
                yield
            finally:
                if is_new and [entry.name for entry in self.path.iterdir()] == [LOCK_NAME]:
                    # The call was refused before anything was written.
                    (self.path / LOCK_NAME).unlink()
                    self.path.rmdir()

    def _of_ours(self, path: str) -> bool | None:
        """Return whether a file is certainly of a sweep: see `check_out_folder`."""
        if path in (SWEEP_NAME, LOCK_NAME):
            return True
        # Without its description, a sweep has not got further than its hold-out.
        is_early = path.partition("/")[0] in _BEFORE or path.startswith(".")
        return None if is_early or (self.path / SWEEP_NAME).is_file() else False

    def begin(self, fixed: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
        """Write the options; UsageError if the folder has a sweep that this one does not extend."""
        asked = json.loads(json.dumps({"format": FORMAT, "fixed": fixed, "grid": grid}))
        self.check(asked["fixed"], asked["grid"])
        write_atomic(self.path / SWEEP_NAME, (json.dumps(asked, indent=1, ensure_ascii=False) + "\n").encode())

    def check(self, fixed: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
        """Raise UsageError if the folder has a sweep that this one does not extend."""
        path = self.path / SWEEP_NAME
        if not path.is_file():
            return
        try:
            there = json.loads(path.read_bytes())
            differences = [*_changed(there["fixed"], fixed), *_removed(there["grid"], grid)]
            known = there["format"] == FORMAT
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            known, differences = False, []
        if not known:
            raise InputError(f"{path} is not the description of a sweep", hint="name another folder with --out")
        if differences:
            raise UsageError(
                f"{self.path} has a sweep with other options: {'; '.join(differences)}",
                hint="only further entries can be added to the grid of a sweep; for other changes name another --out",
            )


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            yield f"{name}: {_shown(there.get(name))} there, {_shown(here.get(name))} now"


def _removed(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Describe what is missing from a grid; numbers may only grow."""
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
    """Return a title as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-.")[:80] or "run"
