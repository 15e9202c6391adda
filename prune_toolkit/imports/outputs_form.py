"""The form of a teacher's outputs in files: of all classes or the largest, of one view or several."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.base.files import sha256_file
from manifests.base.progress import note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import SoftLabels
from prune_toolkit.imports.foreign_files import Matrix, open_matrix
from prune_toolkit.imports.outputs_kind import LOGITS, PROBABILITIES, find_kind, logits_of
from prune_toolkit.imports.top_k_files import TopKNames, open_top_k, parted
from prune_toolkit.imports.top_k_labels import top_k_of, total_of
from prune_toolkit.scoring.logit_scores import check_finite, check_float16
from trainer.teachers.output_names import ClassOutputs, as_class_logits, map_and_groups

ToLabels = Callable[[NDArray[Any], NDArray[np.int64], Any], SoftLabels]
"""Rows of a file (n, ...), labels (n,) and keys (n,) -> the soft labels of n samples."""


@dataclass(frozen=True, kw_only=True)
class OutputsForm:
    """How to read files of outputs."""

    tensor: str | None = None
    """The tensor of a safetensors file, the array of a .npz file, or the column of a Parquet file."""
    values: str | None = None
    """What the numbers are, one of KINDS; None: find it out."""
    ids: str | None = None
    """The array, column or .npy file of the classes, where only the largest outputs are stored."""
    total: str | None = None
    """That of the log-sum-exp over all classes."""
    rest: float | None = None
    """The probability of the classes that are not stored, where the file does not say it."""
    view: int | None = None
    """The only view to take; None: the mean of all."""
    more: tuple[Path, ...] = ()
    """Files of further views."""

    def __post_init__(self) -> None:
        if self.rest is not None and not 0 <= self.rest < 1:
            raise UsageError(f"--rest {self.rest}: expected a probability from 0 to below 1")

    def resolved(self) -> dict[str, Any]:
        """Return what the result depends on besides the files; options that were not given are left out."""
        asked = {
            "values": self.values,
            "ids": None if self.ids is None else Path(self.ids).stem,
            "rest": self.rest,
            "view": self.view,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def is_top_k(self, file: Path) -> bool:
        """Return whether a file holds the largest outputs only."""
        return self.ids is not None or file.suffix.lower() == ".npz"

    def files(self, file: Path) -> list[Path]:
        """Return all files, the first one first. Raises InputError if one is missing."""
        beside = [Path(name) for name in (self.ids, self.total) if name is not None] if _is_npy(file) else []
        found = [file, *self.more, *beside]
        for path in found:
            if not path.is_file():
                raise InputError(f"cannot read {path}: no such file")
        return found

    def sha256(self, file: Path) -> str:
        """Return the sha256 of the file, or of those of all files."""
        digests = [sha256_file(path) for path in self.files(file)]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def open(self, file: Path, key: str) -> Matrix:
        """Open the rows of all files. Raises UsageError for options that do not fit them."""
        self.files(file)
        if self.is_top_k(file):
            if self.more or self.view is not None:
                raise UsageError(
                    "top-k labels of several views cannot be averaged", hint="import those of the evaluation view alone"
                )
            return open_top_k(file, TopKNames(self.ids, self.tensor, self.total), key)
        if self.rest is not None or self.total is not None:
            raise UsageError(
                f"--rest and --lse are for top-k labels; {file.name} holds all classes, as there is no --ids"
            )
        matrix = _joined([open_matrix(path, self.tensor, key) for path in (file, *self.more)], file)
        if self.view is not None and not (matrix.views > 1 and 0 <= self.view < matrix.views):
            raise UsageError(f"--view {self.view}: {file} holds {matrix.views} view{'s' * (matrix.views > 1)}, from 0")
        return matrix

    def understand(self, first: NDArray[Any], file: Path, class_count: int, outputs: ClassOutputs) -> ToLabels:
        """Find out what the rows of a file hold by the first of them, tell it, and return how they become labels.

        outputs: the file's column of each class, or the columns; None if the order is the same. Raises UsageError where
        an option has to decide.
        """
        if self.is_top_k(file):
            return self._largest(first, file, class_count, outputs)
        kind = self._kind(first, file, whole=True)
        _, groups = map_and_groups(outputs)
        if first.ndim == 3 and self.view is None:
            note(
                f"{file.name} holds {first.shape[1]} views: their mean becomes the label of the whole image, because "
                "views of other tools cannot be shown again (--view 0: that view alone)"
            )

        def to_labels(row_n: NDArray[Any], label_n: NDArray[np.int64], keys_n: Any) -> SoftLabels:
            # What is stored unchanged is not copied to float64.
            found = row_n if kind == LOGITS else logits_of(row_n, kind, str(file))
            if found.ndim == 3:
                check_float16(found.reshape(len(found), -1), keys_n, hint="check that these are raw outputs")
                found = found.mean(axis=1, dtype=np.float64) if self.view is None else found[:, self.view]
            check_float16(found, keys_n, hint="check that these are raw outputs, without softmax")
            # The logsumexp of several columns is taken before rounding, by which one column is not changed.
            wide_nK = found if groups is None else np.asarray(found, np.float64)
            return FullLogits(np.ascontiguousarray(as_class_logits(wide_nK, outputs).astype(np.float16)))

        return to_labels

    def _largest(self, first: NDArray[Any], file: Path, class_count: int, outputs: ClassOutputs) -> ToLabels:
        output_map, groups = map_and_groups(outputs)
        if groups is not None:
            raise UsageError(
                f"{file} holds the largest outputs only: they do not say what several of them are together",
                hint="name every class once in --outputs FILE",
            )
        _, some_nK, some_total_n = parted(first)
        kind = self._kind(some_nK, file, whole=False)
        if some_total_n is not None and kind == PROBABILITIES:
            raise UsageError(f"{file} holds log-sum-exps, which are of logits, beside probabilities")
        total_of(logits_of(some_nK, kind, str(file)), some_total_n, self.rest, may_be_whole=kind != LOGITS)
        is_told = self.rest is not None
        place_C = np.arange(class_count) if output_map is None else np.argsort(output_map)
        rest = f"probability {self.rest:g}" if is_told else "what is left"
        note(f"top-k labels: the classes that {file.name} does not name share {rest} evenly, per image")

        def to_labels(row_n: NDArray[Any], label_n: NDArray[np.int64], keys_n: Any) -> SoftLabels:
            class_nK, value_nK, total_n = parted(row_n)
            if class_nK.size and not 0 <= class_nK.min() <= class_nK.max() < class_count:
                wrong_n = ((class_nK < 0) | (class_nK >= class_count)).any(axis=1)
                row = int(np.argmax(wrong_n))
                raise MismatchError(
                    f"sample {keys_n[row]}: classes {class_nK[row].tolist()} are not all of the {class_count:,}, from 0"
                )
            logit_nK = logits_of(value_nK, kind, str(file))
            check_finite(logit_nK, keys_n)
            if total_n is None and not is_told:
                total_n = np.zeros(len(logit_nK))
            total_n = total_of(logit_nK, total_n, self.rest, may_be_whole=kind != LOGITS)
            return top_k_of(place_C[class_nK], logit_nK, total_n, label_n, class_count, keys_n, is_told=is_told)

        return to_labels

    def _kind(self, first: NDArray[Any], file: Path, *, whole: bool) -> str:
        """Return what the values are, as it is said or as it is certain; the latter is told."""
        if self.values is not None:
            return self.values
        kind = find_kind(first, file, whole=whole)
        if kind != LOGITS or not whole:
            note(f"{file.name} is taken to hold {kind} at temperature 1 (--values says otherwise)")
        return kind


def _joined(matrices: Sequence[Matrix], file: Path) -> Matrix:
    """Return the views of several files as one matrix. Raises MismatchError if their rows are not the same."""
    first = matrices[0]
    if len(matrices) == 1:
        return first
    for other in matrices:
        same_keys = (other.keys is None) == (first.keys is None) and (
            other.keys is None or other.keys.equals(first.keys)
        )
        if other.views > 1 or (other.rows, other.columns) != (first.rows, first.columns) or not same_keys:
            raise MismatchError(
                f"{file} and the further --view-file do not hold one view each of the same rows and classes",
                hint="rows and keys must be in the same order in all of them",
            )

    def read(start: int, stop: int) -> NDArray[Any]:
        return np.stack([matrix.read(start, stop) for matrix in matrices], axis=1)

    return Matrix(first.rows, first.columns, read=read, keys=first.keys, views=len(matrices))


def _is_npy(file: Path) -> bool:
    return file.suffix.lower() == ".npy"
