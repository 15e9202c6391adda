"""The record that a training run makes of every sample in every epoch, for scores of training dynamics.

RUN/dynamics/dynamics.json                      describes the record; written last after every epoch
RUN/dynamics/epoch-0000/part-00000.parquet      sample_id, p_y, margin, correct, el2n; grand in the first epochs;
                                                abs_kl, if it is recorded, in all but the first
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from manifests.base.files import write_atomic
from manifests.errors import InputError
from manifests.format.parts import (
    PART_ROWS,
    config_digest,
    is_whole,
    part_content,
    part_count,
    part_path,
    read_part,
    write_part,
)

DYNAMICS_FORMAT, KL_FORMAT = 1, 2
"""Formats of a record without and with `abs_kl`, which tools that know format 1 alone refuse."""
DYNAMICS_NAME, INFO_NAME = "dynamics", "dynamics.json"
COLUMNS: Mapping[str, Any] = {
    "p_y": np.float32,
    "margin": np.float32,
    "correct": np.bool_,
    "el2n": np.float32,
}
"""p_y is the probability of the label, margin its logit minus the best other one, correct whether no other is larger
(the lowest of equal classes wins), el2n the norm of p - y."""
GRAND = "grand"
"""Norm of the cross-entropy gradient over all parameters, float32; only in the first `grand_epochs`."""
ABS_KL = "abs_kl"
"""Sum over classes of |p log(p / p')|, p' the prediction in the epoch before, float32; not in the first epoch."""
_AGAIN = "record it again: train-student --record-dynamics --fresh"


@dataclass(frozen=True, kw_only=True)
class DynamicsInfo:
    """Content of dynamics.json."""

    format: int = DYNAMICS_FORMAT
    fingerprint: str
    """Data fingerprint of the manifest that the run was trained on."""
    manifest: str
    """Id of that manifest."""
    count: int
    """Samples of the data set, including unreadable ones."""
    rows: int
    """Samples of the run: the rows of every epoch."""
    student: str
    """Spec of the network."""
    seed: int
    run: str
    """Digest of the run's configuration: parts of other runs do not count."""
    epochs_recorded: int
    grand_epochs: int = 0
    """Epochs that have the column `grand`: the first ones."""
    columns: tuple[str, ...] = (*COLUMNS,)
    """Columns besides sample_id."""
    stepped: tuple[int, ...] | None = None
    """Samples per epoch that a step showed; the others were evaluated after it. None in records that do not say."""

    def columns_of(self, epoch: int) -> tuple[str, ...]:
        """Return the columns of one epoch, counted from 0."""
        grand, abs_kl = epoch < self.grand_epochs, self.has_kl and epoch > 0
        return (*COLUMNS, *([GRAND] if grand else []), *([ABS_KL] if abs_kl else []))

    @property
    def has_kl(self) -> bool:
        """Return whether all epochs but the first have the column `abs_kl`."""
        return self.format == KL_FORMAT


def epoch_table(epoch: int) -> str:
    """Return the folder of an epoch, counted from 0, below `dynamics`."""
    return f"epoch-{epoch:04d}"


def write_epoch(
    run: Path, info: DynamicsInfo, epoch: int, sample_id_N: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
) -> None:
    """Write the parts of one epoch, counted from 0, and dynamics.json last.

    sample_id_N ascends; columns are (N,) each, those of `info.columns_of(epoch)`. Raises ValueError for anything else.
    """
    names = info.columns_of(epoch)
    if set(names) != set(columns) or len(sample_id_N) != info.rows or (np.diff(sample_id_N) <= 0).any():
        raise ValueError(f"epoch {epoch} needs {info.rows} rows in ascending order with {', '.join(names)}")
    arrays = {name: np.asarray(columns[name], COLUMNS.get(name, np.float32)) for name in names}
    for part in range(part_count(info.rows)):
        rows = slice(part * PART_ROWS, (part + 1) * PART_ROWS)
        table = pa.table({"sample_id": sample_id_N[rows], **{name: values[rows] for name, values in arrays.items()}})
        write_part(run / DYNAMICS_NAME / part_path(epoch_table(epoch), part), table, _digest(info, epoch))
    content = json.dumps(asdict(info), indent=1) + "\n"
    write_atomic(run / DYNAMICS_NAME / INFO_NAME, content.encode())


def remove_dynamics(run: Path) -> None:
    """Remove what a run recorded, and nothing else in its folder."""
    folder = run / DYNAMICS_NAME
    (folder / INFO_NAME).unlink(missing_ok=True)
    for path in (*folder.glob("epoch-*/part-*.parquet"), *folder.glob("log-p-*.npy")):
        path.unlink()
    for empty in (*folder.glob("epoch-*"), folder):
        with suppress(OSError):
            empty.rmdir()


@dataclass(frozen=True)
class Dynamics:
    """The record of one run."""

    path: Path
    """The run's folder."""
    info: DynamicsInfo
    sample_id_N: NDArray[np.int64]
    """(N,) ascending: the rows of every epoch."""

    def epoch(self, epoch: int) -> dict[str, NDArray[Any]]:
        """Return the columns of one epoch, counted from 0: float32 or bool, (N,) each, in the order of sample_id_N.

        Raises InputError if a part is missing, altered, of another run or of other samples, IndexError for an epoch
        that was not recorded.
        """
        if not 0 <= epoch < self.info.epochs_recorded:
            raise IndexError(f"epoch {epoch} of {self.info.epochs_recorded}")
        columns = _read_epoch(self.path, self.info, epoch)
        if not np.array_equal(columns.pop("sample_id"), self.sample_id_N):
            raise InputError(f"{self.path}: epoch {epoch + 1} recorded other samples than the first one", hint=_AGAIN)
        return columns

    @cached_property
    def content_digest(self) -> str:
        """Hexadecimal sha256 over the digests of all parts: two runs of one configuration may differ in it.

        Raises InputError if a part is missing or carries no digest.
        """
        parts = hashlib.sha256()
        for epoch in range(self.info.epochs_recorded):
            for part in range(part_count(self.info.rows)):
                path = part_path(epoch_table(epoch), part)
                parts.update(f"{path} {part_content(self.path / DYNAMICS_NAME / path)}\n".encode())
        return parts.hexdigest()

    def stepped_share(self) -> float | None:
        """Return the share of samples over all epochs that a step showed; None if the record does not say."""
        stepped = self.info.stepped
        return None if stepped is None else sum(stepped) / (self.info.rows * self.info.epochs_recorded)


def read_dynamics(run: str | Path) -> Dynamics:
    """Read what a run has recorded. Raises InputError if that is nothing, damaged or of another version."""
    run = Path(run)
    path = run / DYNAMICS_NAME / INFO_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        what = f"no {DYNAMICS_NAME}/{INFO_NAME}: the run recorded no dynamics, or has not finished an epoch"
        raise InputError(f"{run} holds {what}", hint="train with --record-dynamics") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=_AGAIN) from None
    info = _info(path, content)
    sample_id_N: NDArray[np.int64] = _read_epoch(run, info, 0)["sample_id"]
    if (np.diff(sample_id_N) <= 0).any():
        raise InputError(f"{run}: the samples of {DYNAMICS_NAME}/{epoch_table(0)} are not in order", hint=_AGAIN)
    return Dynamics(run, info, sample_id_N)


def _info(path: Path, content: object) -> DynamicsInfo:
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise InputError(f"{path} does not describe recorded dynamics", hint=_AGAIN)
    if content["format"] not in (DYNAMICS_FORMAT, KL_FORMAT):
        raise InputError(
            f"{path} has format {content['format']}; this tool reads {DYNAMICS_FORMAT} and {KL_FORMAT}",
            hint="upgrade prune-toolkit to read it",
        )
    try:
        info = TypeAdapter(DynamicsInfo).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: {error.errors()[0]['loc'][0]} is missing or malformed", hint=_AGAIN) from None
    if info.stepped is not None and len(info.stepped) != info.epochs_recorded:
        raise InputError(f"{path}: stepped is missing or malformed", hint=_AGAIN)
    if info.rows < 1 or info.epochs_recorded < 1:
        raise InputError(f"{path} describes {info.epochs_recorded} epochs of {info.rows} samples", hint=_AGAIN)
    return info


def _read_epoch(run: Path, info: DynamicsInfo, epoch: int) -> dict[str, NDArray[Any]]:
    """Return sample_id and the columns of an epoch, (N,) each."""
    names = ("sample_id", *info.columns_of(epoch))
    tables = []
    for part in range(part_count(info.rows)):
        path = run / DYNAMICS_NAME / part_path(epoch_table(epoch), part)
        table = read_part(path)
        if not is_whole(table, _digest(info, epoch)) or set(table.column_names) != set(names):
            raise InputError(f"{path} was altered, or another run wrote it", hint=_AGAIN)
        tables.append(table)
    whole = pa.concat_tables(tables)
    if len(whole) != info.rows:
        raise InputError(f"{run}: epoch {epoch + 1} has {len(whole):,} rows, not {info.rows:,}", hint=_AGAIN)
    return {name: whole.column(name).to_numpy() for name in names}


def _digest(info: DynamicsInfo, epoch: int) -> str:
    return config_digest({"run": info.run, "rows": info.rows, "epoch": epoch})
