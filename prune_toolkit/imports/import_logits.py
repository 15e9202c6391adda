"""`prune import FILE --logits`: make a scored manifest of outputs computed elsewhere, part by part."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.progress import Progress, note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.child_header import Blocks, Making
from manifests.format.columns import tables_of
from manifests.format.header import Preprocessing, TeacherCard
from manifests.format.parts import part_path, part_rows, soft_labels_table, write_part
from manifests.manifest import Manifest
from manifests.tables.rows import Ids
from prune_toolkit.imports.foreign_files import BLOCK_ROWS, Matrix
from prune_toolkit.imports.match_keys import matched_rows
from prune_toolkit.imports.outputs_form import OutputsForm
from prune_toolkit.imports.row_order import rows_of_length
from prune_toolkit.scoring.calibration import calibration_of
from prune_toolkit.scoring.exchanged import exchanged_warning
from prune_toolkit.scoring.logit_scores import TEACHER, LogitScore, compute_scores
from prune_toolkit.scoring.pseudo_labels import part_labels, relabelled
from prune_toolkit.scoring.score import outside_scores
from prune_toolkit.scoring.view_flags import views_block
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, local_with_beton, note_time
from trainer.data.views import ViewRecipe
from trainer.teachers.known_names import IMAGENET_OUTPUTS, imagenet_wnids
from trainer.teachers.output_names import ClassOutputs, SaidOutputs, class_outputs, map_and_groups, named_outputs

LOGITS_TABLE, SCORE_TABLE = "logits/view-000", f"scores/{TEACHER}"
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
    form: OutputsForm = OutputsForm()  # noqa: RUF009
    """How to read the file, and further ones."""
    key: str = "key"
    """The column of keys in a Parquet file."""
    parameters: int = 0
    """Number of parameters of the teacher; 0: not stated."""
    outputs: SaidOutputs | None = None
    """The classes of the columns; None: those of the manifest, in its order."""
    licence: str | None = None
    """Licence of the teacher."""
    weights_sha256: str | None = None
    """SHA-256 of the teacher's weights, hexadecimal; None: that of the file of logits stands for it."""
    order: str | None = None
    """Without keys: the order of the rows, keys or imagefolder; None: raise an error if these differ."""
    listing: Path | None = None
    """File for the list of keys that match no sample."""

    def __post_init__(self) -> None:
        if self.weights_sha256 is not None and not _SHA256.fullmatch(self.weights_sha256):
            raise UsageError(f"--weights-sha256 {self.weights_sha256}: expected 64 lower-case hexadecimal digits")

    def resolved(self, parent: Manifest, sha256: str, columns: dict[str, Any]) -> dict[str, Any]:
        """Return everything the result depends on, without paths; columns: how they are read, as in a header."""
        classes = None if self.outputs is None else list(self.outputs.names)
        return {
            "command": "import",
            "parent": parent.id,
            "teacher": self.teacher,
            "weights_sha256": self.weights_sha256 or sha256,
            **({} if self.weights_sha256 is None else {"file_sha256": sha256}),
            "tensor": self.form.tensor,
            "key": self.key,
            "preprocessing": self.preprocessing.model_dump(),
            "parameters": self.parameters,
            **columns,
            **({"classes": classes} if parent.header.data.is_unlabelled else {}),
            "teacher_licence": self.licence,
            **({} if self.order is None else {"order": self.order}),
            **self.form.resolved(),
            **outside_scores(TEACHER),
        }


def import_logits(config: LogitsImport, parent: Manifest) -> Manifest:
    """Write the scored manifest; an interrupted run is resumed.

    Raises UsageError for a manifest that is scored already; MismatchError if the number of samples or classes differs;
    InputError for logits that are not finite or do not fit float16.
    """
    form = config.form
    form.files(config.file)
    if parent.header.views is not None or parent.header.teacher is not None or parent.kind == "selection":
        raise UsageError(
            f"{parent.where} (a manifest of kind {parent.kind}) is scored already",
            hint="a manifest has one teacher: import into the index instead",
        )
    samples = parent.samples(["sample_id", "key", "label", "problem"])
    matrix, is_top_k = form.open(config.file, config.key), form.is_top_k(config.file)
    unlabelled = parent.header.data.is_unlabelled
    if unlabelled and config.outputs is None:
        if is_top_k:
            raise UsageError("--outputs is missing: name the classes of the top-k labels, in their order")
        names = [f"output {column}" for column in range(matrix.columns)]
        config = replace(config, outputs=named_outputs(names, str(config.file)))
    names = list(config.outputs.names) if unlabelled and config.outputs is not None else parent.class_names
    outputs = None if unlabelled else _class_columns(config, len(names) if is_top_k else matrix.columns, parent)
    output_map, groups = map_and_groups(outputs)
    columns: dict[str, Any] = {"output_map": output_map, **({} if groups is None else {"output_groups": groups})}
    row_N, again = _rows(config, matrix, parent, samples)
    sha256, old, class_count = form.sha256(config.file), parent.header, len(names)
    top_k = matrix.columns // 2 if is_top_k else None
    label_N = samples.column("label").to_numpy().astype(np.int64)

    own, sample_parts = ["samples"] if unlabelled else [], parent.require("samples")

    def make(parts: list[int], digest: str) -> None:
        with _by_row(matrix, config.out) as values, Progress(len(samples), f"importing {config.file.name}") as progress:
            _check_equal(config.file, values, again, row_N, samples.column("key"))
            to_labels = form.understand(values(row_N[row_N >= 0][:BLOCK_ROWS]), config.file, class_count, outputs)
            for part in parts:
                began, rows = time.monotonic(), part_rows(part, len(samples))
                ids = np.flatnonzero(row_N[rows.start : rows.stop] >= 0) + rows.start
                keys_n = samples.column("key").take(pa.array(ids))
                found = values(row_N[ids])
                label_n = label_N[ids]
                if unlabelled:
                    label_n = np.asarray(to_labels(found, label_n, keys_n).top1_n, np.int64)
                    label_P = part_labels(len(rows), ids - rows.start, label_n)
                    content = relabelled(parent.part(sample_parts[part]), label_P)
                    write_part(config.out / part_path("samples", part), content, digest)
                stored = to_labels(found, label_n, keys_n)
                table = soft_labels_table(ids, "logits", stored)
                write_part(config.out / part_path(LOGITS_TABLE, part), table, digest)
                scores = compute_scores(stored.logits_with(label_n), None if unlabelled else label_n)
                table = pa.table({"sample_id": ids, **scores})
                note_time(config.out, part, time.monotonic() - began)
                write_part(config.out / part_path(SCORE_TABLE, part), table, digest)
                progress.advance(len(rows))

    def finish(parts: Totals, start: float) -> Outcome:
        calibration, data = None, old.data
        if unlabelled:
            data = old.data.model_copy(update={"class_names": names, "labels_from": "teacher"})
        else:
            calibration, confusion = calibration_of(config.out, LOGITS_TABLE, label_N, class_count)
            in_order = outputs is None
            if (warning := exchanged_warning(confusion.count_CC, parent.class_names, in_order=in_order)) is not None:
                note(f"warning: {warning}")
        wall = round(time.monotonic() - start, 3)
        blocks: Blocks = {
            "kind": "scores",
            "data": data,
            "teacher": TeacherCard(
                spec=config.teacher,
                weights_sha256=config.weights_sha256 or sha256,
                parameters=config.parameters,
                preprocessing=config.preprocessing,
                **columns,
                train_top1=None if calibration is None else calibration.top1,
                train_ece=None if calibration is None else calibration.ece,
                licence=config.licence,
            ),
            "views": views_block(ViewRecipe(), 1, config.preprocessing.image_px, top_k),
            "scores": [*old.scores, *(entry.spec() for entry in LogitScore.registered(unlabelled=unlabelled))],
            "run": {"command": "import", "seconds": parts.seconds, "wall": wall, "parent_run": old.run},
        }
        return Outcome(blocks=blocks, local=local_with_beton(parent))

    return PartWork(
        out=config.out,
        config=config.resolved(parent, sha256, columns),
        count=len(samples),
        tables=[*own, LOGITS_TABLE, SCORE_TABLE],
        make=make,
        finish=finish,
        making=Making.EXTENDED,
        parents=[parent],
        linked=dict.fromkeys((table for table in tables_of(old) if table not in own), parent),
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


def _rows(config: LogitsImport, matrix: Matrix, parent: Manifest, samples: pa.Table) -> tuple[Ids, tuple[Ids, Ids]]:
    """Find the rows of the file: (N,) the row of each readable sample, -1 for unreadable ones; and repeated rows.

    The latter are (m,) rows and (m,) sample_ids. Raises MismatchError if samples are missing in the file.
    """
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    count = len(samples)
    row_N = np.full(count, -1, np.int64)
    again = np.empty(0, np.int64), np.empty(0, np.int64)
    if matrix.keys is not None:
        if config.order is not None:
            raise UsageError(
                f"--order {config.order}: rows of {config.file.name} are found by their keys, in any order"
            )
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
    else:
        sample_F = rows_of_length(matrix.rows, config.file, parent, samples, readable_N, config.order)
        row_N[sample_F] = np.arange(len(sample_F))
        row_N[~readable_N] = -1
    return row_N, again


def _check_equal(file: Path, values: Any, again: tuple[Ids, Ids], row_N: Ids, keys_N: pa.ChunkedArray) -> None:
    for start in range(0, len(again[0]), BLOCK_ROWS):
        row_m, id_m = (each[start : start + BLOCK_ROWS] for each in again)
        differs_m = (values(row_m) != values(row_N[id_m])).reshape(len(row_m), -1).any(axis=1)
        if differs_m.any():
            key = keys_N[int(id_m[np.argmax(differs_m)])]
            raise InputError(f"{file} has two different rows for {key}", hint="keep one row per sample")


@contextmanager
def _by_row(matrix: Matrix, folder: Path) -> Iterator[Any]:
    """Yield a function from rows (n,) to logits (n, C): directly from the file, or from a copy with random access."""
    if matrix.keys is None:
        yield partial(_gather, matrix)
        return
    shape = (matrix.rows, *([matrix.views] if matrix.views > 1 else []), matrix.columns)
    with tempfile.TemporaryFile(dir=folder) as scratch:
        # In float32, so that values which do not fit float16 are still found.
        copied = np.memmap(scratch, np.float32, "w+", shape=shape)
        with np.errstate(over="ignore"):
            for start in range(0, matrix.rows, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, matrix.rows)
                copied[start:stop] = matrix.read(start, stop)
        yield lambda row_n: copied[row_n]


def _gather(matrix: Matrix, row_n: NDArray[np.int64]) -> NDArray[Any]:
    # Rows of a part are near each other and are read as one block.
    if not len(row_n):
        return matrix.read(0, 0)
    first = int(row_n.min())
    return np.asarray(matrix.read(first, int(row_n.max()) + 1)[row_n - first])
