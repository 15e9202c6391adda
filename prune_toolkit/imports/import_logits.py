"""`prune import FILE --logits`: make a scored manifest of logits computed elsewhere, part by part."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.files import sha256_file
from manifests.base.progress import Progress, note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.child_header import Blocks, Making
from manifests.format.columns import tables_of
from manifests.format.header import Preprocessing, Probabilities, TeacherCard
from manifests.format.parts import part_path, part_rows, vectors_table, write_part
from manifests.manifest import Manifest
from manifests.tables.rows import Ids
from prune_toolkit.imports.foreign_files import BLOCK_ROWS, Matrix, open_matrix
from prune_toolkit.imports.match_keys import matched_rows
from prune_toolkit.scoring.calibration import calibration_of
from prune_toolkit.scoring.exchanged import exchanged_warning
from prune_toolkit.scoring.logit_scores import TEACHER, LogitScore, check_float16, compute_scores
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.scoring.view_flags import views_block
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, local_with_beton, note_time
from trainer.data.views import ViewRecipe
from trainer.models.known_names import IMAGENET_OUTPUTS, imagenet_wnids
from trainer.models.output_names import ClassOutputs, SaidOutputs, as_class_logits, class_outputs, map_and_groups
from trainer.models.probabilities import logits_of, refuse_others, refuse_probabilities, said_probabilities, telling

LOGITS_TABLE, SCORE_TABLE = "logits/view-000", f"scores/{TEACHER}"
ROWS_THAT_TELL = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class LogitsImport:
    """The options of `prune import --logits`."""

    file: Path
    out: Path
    teacher: str
    """Name of the teacher."""
    preprocessing: Preprocessing
    """The preparation of its images."""
    tensor: str | None = None
    """The tensor of a safetensors file, or the column of a Parquet file."""
    key: str = "key"
    """The column of keys in a Parquet file."""
    parameters: int = 0
    """Number of parameters of the teacher; 0: not stated."""
    outputs: SaidOutputs | None = None
    """The classes of the columns; None: those of the manifest, in its order."""
    probabilities: bool = False
    """The file holds probabilities, of a softmax or of sigmoids, in place of logits."""
    licence: str | None = None
    """Licence of the teacher."""
    weights_sha256: str | None = None
    """SHA-256 of the teacher's weights, hexadecimal; None: that of the file of logits stands for it."""
    listing: Path | None = None
    """File for the list of keys that match no sample."""

    def __post_init__(self) -> None:
        if self.weights_sha256 is not None and not _SHA256.fullmatch(self.weights_sha256):
            raise UsageError(f"--weights-sha256 {self.weights_sha256}: expected 64 lower-case hexadecimal digits")

    def resolved(self, parent: Manifest, sha256: str, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return everything the result depends on, without paths; outputs: how columns are read, as in a header."""
        return {
            "command": "import",
            "parent": parent.id,
            "teacher": self.teacher,
            "weights_sha256": self.weights_sha256 or sha256,
            **({} if self.weights_sha256 is None else {"file_sha256": sha256}),
            "tensor": self.tensor,
            "key": self.key,
            "preprocessing": self.preprocessing.model_dump(),
            "parameters": self.parameters,
            **outputs,
            "teacher_licence": self.licence,
            **outside_scores(TEACHER),
        }


def import_logits(config: LogitsImport, parent: Manifest) -> Manifest:
    """Write the scored manifest; an interrupted run is resumed.

    Raises UsageError for a manifest that is scored already; MismatchError if the number of samples or classes differs;
    InputError for logits that are not finite or do not fit float16.
    """
    if not config.file.is_file():
        raise InputError(f"cannot read {config.file}: no such file")
    if parent.header.views is not None or parent.header.teacher is not None or parent.kind == "selection":
        raise UsageError(
            f"{parent.where} (a manifest of kind {parent.kind}) is scored already",
            hint="a manifest has one teacher: import into the index instead",
        )
    samples = parent.samples(["sample_id", "key", "label", "problem"])
    matrix = open_matrix(config.file, config.tensor, config.key)
    outputs = _class_columns(config, matrix.columns, parent)
    row_N, again = _rows(config, matrix, parent, samples)
    kind = _kind(config)
    output_map, groups = map_and_groups(outputs)
    further: dict[str, Any] = {"output_groups": groups, "probabilities": kind}
    columns: dict[str, Any] = {
        "output_map": output_map,
        **{name: value for name, value in further.items() if value is not None},
    }
    sha256, old = sha256_file(config.file), parent.header
    label_N = samples.column("label").to_numpy().astype(np.int64)

    def make(parts: list[int], digest: str) -> None:
        with _by_row(matrix, config.out) as values, Progress(len(samples), f"importing {config.file.name}") as progress:
            _check_equal(config.file, values, again, row_N, samples.column("key"))
            for part in parts:
                began, rows = time.monotonic(), part_rows(part, len(samples))
                ids = np.flatnonzero(row_N[rows.start : rows.stop] >= 0) + rows.start
                found_nC = values(row_N[ids])
                keys_n = samples.column("key").take(pa.array(ids))
                if kind is not None:
                    refuse_others(found_nC, kind, f"{config.file} holds")
                    found_nC = logits_of(found_nC, kind)
                check_float16(found_nC, keys_n, hint="check that these are raw outputs, without softmax")
                if groups is not None:
                    found_nC = as_class_logits(np.asarray(found_nC, np.float32), groups)
                logits_nC = found_nC.astype(np.float16)
                if output_map is not None:
                    logits_nC = np.ascontiguousarray(logits_nC[:, output_map])
                write_part(config.out / part_path(LOGITS_TABLE, part), vectors_table(ids, "logits", logits_nC), digest)
                table = pa.table({"sample_id": ids, **compute_scores(logits_nC, label_N[ids])})
                note_time(config.out, part, time.monotonic() - began)
                write_part(config.out / part_path(SCORE_TABLE, part), table, digest)
                progress.advance(len(rows))

    def finish(parts: Totals, start: float) -> Outcome:
        calibration, confusion = calibration_of(config.out, LOGITS_TABLE, label_N, len(parent.class_names))
        if (warning := exchanged_warning(confusion.count_CC, parent.class_names, in_order=outputs is None)) is not None:
            note(f"warning: {warning}")
        wall = round(time.monotonic() - start, 3)
        blocks: Blocks = {
            "kind": "scores",
            "teacher": TeacherCard(
                spec=config.teacher,
                weights_sha256=config.weights_sha256 or sha256,
                parameters=config.parameters,
                preprocessing=config.preprocessing,
                **columns,
                train_top1=calibration.top1,
                train_ece=calibration.ece,
                licence=config.licence,
            ),
            "views": views_block(ViewRecipe(), 1, config.preprocessing.image_px, None),
            "scores": [*old.scores, *(entry.spec() for entry in LogitScore.registered())],
            "run": {"command": "import", "seconds": parts.seconds, "wall": wall, "parent_run": old.run},
        }
        return Outcome(blocks=blocks, local=local_with_beton(parent))

    return PartWork(
        out=config.out,
        config=config.resolved(parent, sha256, columns),
        count=len(samples),
        tables=[LOGITS_TABLE, SCORE_TABLE],
        make=make,
        finish=finish,
        making=Making.EXTENDED,
        parents=[parent],
        linked=dict.fromkeys(tables_of(old), parent),
    ).run_alone()


def _class_columns(config: LogitsImport, column_count: int, parent: Manifest) -> ClassOutputs:
    """Return the columns of each class; None if the order is the same. Raises MismatchError if some are missing."""
    said, names = config.outputs, parent.class_names
    count = len(names) if said is None else len(said.names) or column_count
    if column_count != count:
        where = f"{parent.where} has" if said is None else "--outputs names"
        raise MismatchError(
            f"{config.file} has logits of {column_count:,} classes, {where} {count:,}",
            hint="columns must be the classes in label order, or in the order of --outputs FILE",
        )
    if said is None:
        return None
    return class_outputs(said, names, column_count, [imagenet_wnids()] if column_count == IMAGENET_OUTPUTS else [])


def _kind(config: LogitsImport) -> Probabilities | None:
    """Return which probabilities a file holds, by its first rows, and tell what is done with them; None for logits.

    Raises InputError if they are not what was said.
    """
    # Opened once more: some forms can be read only once, from the first row.
    matrix = open_matrix(config.file, config.tensor, config.key)
    with np.errstate(over="ignore"):
        first_nK = np.asarray(matrix.read(0, min(matrix.rows, ROWS_THAT_TELL)), np.float32)
    # Rows of images that could not be read may hold anything.
    first_nK = first_nK[~np.isnan(first_nK).any(axis=1)]
    if not config.probabilities:
        refuse_probabilities(first_nK, f"{config.file} holds")
        return None
    kind = said_probabilities(first_nK, f"{config.file} holds")
    note(f"{config.file} holds probabilities: {telling(kind)}")
    return kind


def _rows(config: LogitsImport, matrix: Matrix, parent: Manifest, samples: pa.Table) -> tuple[Ids, tuple[Ids, Ids]]:
    """Find the rows of the file: (N,) the row of each readable sample, -1 for unreadable ones; and repeated rows.

    The latter are (m,) rows and (m,) sample_ids. Raises MismatchError if samples are missing in the file.
    """
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    count, readable = len(samples), int(readable_N.sum())
    row_N = np.full(count, -1, np.int64)
    again = np.empty(0, np.int64), np.empty(0, np.int64)
    if matrix.keys is not None:
        id_F = matched_rows(matrix.keys, parent, samples.column("key"), config.file.name, config.listing)
        found = np.flatnonzero(id_F >= 0)
        row_N[id_F[found]] = found
        further = found[(row_N[id_F[found]] != found) & readable_N[id_F[found]]]
        again = further, id_F[further]
        row_N[~readable_N] = -1
        if (lacking := readable_N & (row_N < 0)).any():
            first = samples.column("key")[int(np.argmax(lacking))]
            raise MismatchError(
                f"{config.file} has no logits for {lacking.sum():,} of {count:,} samples; the first: {first}"
            )
    elif matrix.rows in (count, readable):
        row_N[readable_N] = np.flatnonzero(readable_N) if matrix.rows == count else np.arange(readable)
    else:
        raise MismatchError(
            f"{config.file} has logits of {matrix.rows:,} samples, {parent.where} has {count:,}, of which "
            f"{readable:,} are readable",
            hint="rows must be in the order of the samples' keys; a .parquet file with a key column may have any order",
        )
    return row_N, again


def _check_equal(file: Path, values: Any, again: tuple[Ids, Ids], row_N: Ids, keys_N: pa.ChunkedArray) -> None:
    for start in range(0, len(again[0]), BLOCK_ROWS):
        row_m, id_m = (each[start : start + BLOCK_ROWS] for each in again)
        differs_m = (values(row_m) != values(row_N[id_m])).any(axis=1)
        if differs_m.any():
            key = keys_N[int(id_m[np.argmax(differs_m)])]
            raise InputError(f"{file} has two different rows for {key}", hint="keep one row per sample")


@contextmanager
def _by_row(matrix: Matrix, folder: Path) -> Iterator[Any]:
    """Yield a function from rows (n,) to logits (n, C): directly from the file, or from a copy with random access."""
    if matrix.keys is None:
        yield partial(_gather, matrix)
        return
    with tempfile.TemporaryFile(dir=folder) as scratch:
        # In float32, so that values which do not fit float16 are still found.
        copied = np.memmap(scratch, np.float32, "w+", shape=(matrix.rows, matrix.columns))
        with np.errstate(over="ignore"):
            for start in range(0, matrix.rows, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, matrix.rows)
                copied[start:stop] = matrix.read(start, stop)
        yield lambda row_n: copied[row_n]


def _gather(matrix: Matrix, row_n: NDArray[np.int64]) -> NDArray[Any]:
    # Ascending rows are read as one block.
    if not len(row_n):
        return np.empty((0, matrix.columns), np.float32)
    return np.asarray(matrix.read(int(row_n[0]), int(row_n[-1]) + 1)[row_n - row_n[0]])
