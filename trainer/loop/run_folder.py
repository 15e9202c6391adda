"""The folder of a run: a checkpoint to resume from, the history as jsonl and csv, and run.json at the end."""

import csv
import io
import json
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.base.files import atomic_file, remove_temporaries, write_atomic
from manifests.base.layout import HEADER_NAME
from manifests.base.out_folder import check_out_folder
from manifests.errors import InputError, UsageError
from manifests.format.dynamics import DYNAMICS_NAME, remove_dynamics
from manifests.format.parts import is_written_part
from trainer.config import digest

CHECKPOINT_FORMAT = 1
LAST_NAME, BEST_NAME = "student.safetensors", "best.safetensors"
CHECKPOINT_NAME, RUN_NAME = "checkpoint.pt", "run.json"
JSONL_NAME, CSV_NAME = "metrics.jsonl", "metrics.csv"
EPOCHS_NAME = "epochs"
"""Folder of the students of --keep-epochs."""
BUDGET_NAME = "budget.json"
"""Written by --match-time only: the number of steps that its trial found."""
NAMES = (LAST_NAME, BEST_NAME, CHECKPOINT_NAME, RUN_NAME, JSONL_NAME, CSV_NAME, BUDGET_NAME)

NUMBERS = frozenset(
    (
        *("epoch", "steps", "samples_shown", "lr", "train_loss", "train_top1", "images_per_s"),
        *("waiting_for_data_s", "compute_s", "recording_s", "evaluation_s", "total_s"),
    )
)
"""What a row always says as a number."""
START_OVER = "start over with --fresh, or name another folder with --out"

_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError)

Row = dict[str, float | int | None]
"""One epoch; validation values are None in epochs that were not evaluated."""


def epoch_name(epoch: int) -> str:
    """Return where the student after an epoch, counted from 1, is kept in the folder of its run."""
    return f"{EPOCHS_NAME}/epoch-{epoch:04d}.safetensors"


def student_in(place: Path) -> Path:
    """Return the file of the student in the folder of a run, and a path that is not a folder as it is.

    Raises InputError for a folder without one.
    """
    if not place.is_dir():
        return place
    if not (place / LAST_NAME).is_file():
        raise InputError(
            f"{place} holds no {LAST_NAME}: it is not the folder of a finished run",
            hint="train it to the end with train-student, or name a file",
        )
    return place / LAST_NAME


@dataclass(kw_only=True)
class State:
    """The state of a run between two epochs."""

    history: list[Row] = field(default_factory=list)
    model: dict[str, Any] | None = None
    """State dict; None before the first epoch, as for the next two."""
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    losses: Any = None
    """(N,) float32 tensor of the last loss of each row, for dynamic arms that use it; nan before the first."""

    @property
    def epochs_done(self) -> int:
        """Return the number of whole epochs done, which is the number of the next one, counted from 0."""
        return len(self.history)

    @property
    def best(self) -> Row | None:
        """Return the evaluated epoch with the highest val_top1, the earliest of equals."""
        evaluated = [row for row in self.history if row["val_top1"] is not None]
        return max(evaluated, key=lambda row: row["val_top1"] or 0.0, default=None)


class RunFolder:
    """Reads and writes the files of one run; only rank 0 uses it."""

    def __init__(self, path: Path, resolved: Mapping[str, Any]) -> None:
        self.path = path
        self.resolved = json.loads(json.dumps(resolved))
        self.digest = digest(self.resolved)

    def open(self, *, fresh: bool) -> State:
        """Make the folder, or return the state in which its run of the same configuration stopped.

        Raises UsageError if it holds a run of another configuration, a manifest, or files that are not of a run; also
        with `fresh`, which removes those of a run only.
        """
        if (self.path / HEADER_NAME).exists():
            raise UsageError(f"{self.path} is a manifest", hint="give the run a folder of its own with --out")
        check_out_folder(self.path, "run", (DYNAMICS_NAME, EPOCHS_NAME), self._of_ours)
        self.path.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.path)
        if fresh:
            for name in NAMES:
                (self.path / name).unlink(missing_ok=True)
            remove_dynamics(self.path)
            self._remove_epochs()
        checkpoint = self.path / CHECKPOINT_NAME
        if checkpoint.is_file():
            return self._read(checkpoint)
        if _has_names(self.path / RUN_NAME, {"digest"}) and self.finished() is None:
            raise UsageError(
                f"{self.path} holds a finished run of another configuration",
                hint="name another folder with --out, or start this one over with --fresh",
            )
        return State()

    def _of_ours(self, path: str) -> bool | None:
        """Return whether a file is certainly of a run, whatever its configuration: see `check_out_folder`."""
        file = self.path / path
        if path in (RUN_NAME, BUDGET_NAME):
            return _has_names(file, {"digest"}) or None
        if path == JSONL_NAME:
            return _has_names(file, {"epoch", "steps", "train_loss", "images_per_s"}) or None
        if path == CHECKPOINT_NAME:
            return _is_checkpoint(file) or None
        if path in (BEST_NAME, LAST_NAME) or path.startswith(f"{EPOCHS_NAME}/"):
            # A run that was killed in its first epoch may have left this alone. Another run's would be lost.
            return self._is_student(file) or None
        if path.startswith(f"{DYNAMICS_NAME}/log-p-") and _is_array(file):
            return True
        return (path.startswith(f"{DYNAMICS_NAME}/") and is_written_part(file)) or None

    def _remove_epochs(self) -> None:
        """Remove the students of --keep-epochs, and nothing else in their folder."""
        for path in (self.path / EPOCHS_NAME).glob("epoch-*.safetensors"):
            path.unlink()
        with suppress(OSError):
            (self.path / EPOCHS_NAME).rmdir()

    def _is_student(self, file: Path) -> bool:
        """Return whether a file is a student of a run of this configuration."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy") as opened:
                return (opened.metadata() or {}).get("run_digest") == self.digest
        except (OSError, SafetensorError):
            return False

    def finished(self) -> dict[str, Any] | None:
        """Return the content of run.json, None while the run of this configuration is unfinished."""
        path = self.path / RUN_NAME
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            return content if content["digest"] == self.digest else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _read(self, path: Path) -> State:
        import torch

        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            known = content["format"] == CHECKPOINT_FORMAT
            resolved = json.loads(content["resolved"])
            parts = {name: content[name] for name in ("history", "model", "optimizer", "scaler")}
            state = State(**parts, losses=content.get("losses"))
            _check_history(state.history)
        except _UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} is not a checkpoint of train-student: {reason}", hint=START_OVER) from None
        if not known:
            raise InputError(f"{path} was written by another version of this tool", hint=START_OVER)
        if digest(resolved) != self.digest:
            raise UsageError(
                f"{self.path} holds a run of another configuration ({_differences(resolved, self.resolved)})",
                hint="name another folder with --out, or start this one over with --fresh",
            )
        return state

    def record(self, state: State) -> None:
        """Write the checkpoint, then the metrics; if killed, the last epoch's or this epoch's checkpoint is left."""
        import torch

        content = {
            "format": CHECKPOINT_FORMAT,
            "resolved": json.dumps(self.resolved),
            **vars(state),
        }
        # torch.save turns a full disk into a RuntimeError, so it writes to memory.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_file(self.path / CHECKPOINT_NAME) as stream:
            stream.write(buffer.getbuffer())
        self.write_metrics(state.history)

    def write_metrics(self, history: list[Row]) -> None:
        """Write metrics.jsonl and metrics.csv, one line per epoch."""
        lines = "".join(json.dumps(row) + "\n" for row in history)
        write_atomic(self.path / JSONL_NAME, lines.encode())
        table = io.StringIO()
        writer = csv.DictWriter(table, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomic(self.path / CSV_NAME, table.getvalue().encode())

    def finish(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json, the last file of a run; returns its content."""
        content = {"digest": self.digest, **report}
        write_atomic(self.path / RUN_NAME, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return content


def _check_history(history: Any) -> None:
    """Raise ValueError unless it is a row of numbers for each epoch, from the first on."""
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ValueError("its history is not a list of epochs")
    for number, row in enumerate(history, 1):
        if row.get("epoch") != number or row.keys() != history[0].keys() or not row.keys() >= NUMBERS:
            raise ValueError(f"its history lacks epoch {number} or some of its numbers")
        values = [(name, value) for name, value in row.items() if value is not None or name in NUMBERS]
        if wrong := [name for name, value in values if not isinstance(value, int | float)]:
            raise ValueError(f"its history has no number for {wrong[0][:40]!r} of epoch {number}")


def _has_names(file: Path, names: set[str]) -> bool:
    """Return whether a file is a JSON object with these names; of several lines, the first one is read."""
    try:
        text = file.read_text("utf-8")
        content = json.loads(text.partition("\n")[0] if file.suffix == ".jsonl" else text)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and names <= content.keys()


def _is_array(file: Path) -> bool:
    """Return whether a file is an .npy of numpy."""
    try:
        with file.open("rb") as stream:
            return stream.read(6) == b"\x93NUMPY"
    except OSError:
        return False


def _is_checkpoint(file: Path) -> bool:
    """Return whether a file is a checkpoint of a run, without reading its tensors."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except _UNREADABLE:
        return False
    return isinstance(content, dict) and {"format", "resolved", "history"} <= content.keys()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    shown = [f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} now" for name in names[:4]]
    return "; ".join(shown) + (f"; {len(names) - 4} more" if len(names) > 4 else "")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."
