"""`prune import FILE --score COL`: add columns of a table, or arrays of a number per row, as scores of a manifest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.files import sha256_file
from manifests.errors import InputError, MismatchError, UsageError
from manifests.format.header import Harder, ScoreSpec
from manifests.manifest import Manifest
from prune_toolkit.imports.foreign_files import read_arrays, read_columns
from prune_toolkit.imports.match_keys import matched_rows
from prune_toolkit.imports.row_order import rows_of_length
from prune_toolkit.work.score_set import Scores, add_score_set

FILLED_IN = ("mean", "hardest", "easiest")
OWN_SETS = ("teacher", "features", "dynamics")
_SET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class ImportedScore:
    """A column or array of a file, and its name in the manifest."""

    column: str
    name: str
    harder: Harder


@dataclass(frozen=True, kw_only=True)
class ScoresImport:
    """The options of `prune import` for scores."""

    file: Path
    out: Path
    key: str | None
    """The column of keys; None: arrays of one number per row of the data set."""
    scores: Sequence[ImportedScore]
    set: str = "imported"
    missing: str | None = None
    """The value of samples that have none in the file: mean, hardest, easiest or a number; None: raise an error."""
    order: str | None = None
    """Without keys: the order of the rows, keys or imagefolder; None: raise an error if these differ."""
    listing: Path | None = None
    """File for the list of keys that match no sample."""

    def __post_init__(self) -> None:
        if self.set in OWN_SETS or not _SET_NAME.fullmatch(self.set):
            raise UsageError(
                f"--set {self.set}: expected a name of a-z, 0-9, _ and - that is not one of {', '.join(OWN_SETS)}",
                hint="those names are reserved for sets that this toolkit computes",
            )
        names = [score.name for score in self.scores]
        for name in names:
            is_plain = name.isprintable() and name.strip() and "/" not in name and name != "sample_id"
            if not is_plain or names.count(name) > 1:
                raise UsageError(f"--name {name!r}: expected a different printable name for each score, without /")
        if self.missing is not None and self.missing not in FILLED_IN:
            _number(self.missing)

    def resolved(self, parent: Manifest) -> dict[str, Any]:
        """Return everything the result depends on, without paths."""
        return {
            "command": "import",
            "parent": parent.id,
            "set": self.set,
            "scores": [{"name": score.name, "column": score.column, "harder": score.harder} for score in self.scores],
            "key": self.key,
            "missing": self.missing,
            "file_sha256": sha256_file(self.file),
            **({} if self.order is None else {"order": self.order}),
        }


def import_scores(config: ScoresImport, parent: Manifest) -> Manifest:
    """Write the manifest with one more set of scores.

    Raises UsageError if the set exists already; MismatchError if no key matches or a sample has no value; InputError
    for a value that is not finite, and for two values of one sample.
    """
    if not config.file.is_file():
        raise InputError(f"cannot read {config.file}: no such file")
    if parent.kind == "selection":
        raise UsageError(f"{parent.where} is a selection", hint="import scores into the manifest it was made from")
    if parent.has(f"scores/{config.set}"):
        raise UsageError(f"{parent.where} already has scores of set {config.set}", hint="name another: --set NAME")
    scores = cache(partial(_scores, config, parent))
    done = add_score_set(parent, config.out, scores, config=config.resolved(parent), facts={})
    if config.listing is not None:
        # Keys that match nothing are listed of an import that was finished already, too.
        scores()
    return done


def _scores(config: ScoresImport, parent: Manifest) -> Scores:
    """Return sample_id (n,) of the readable samples, and the values (n,) float32 of each score."""
    samples = parent.samples(["sample_id", "key", "problem"])
    keys_N = samples.column("key")
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    columns = [score.column for score in config.scores]
    if config.key is None:
        found = read_arrays(config.file, columns)
        row_F = _rows(config, parent, samples, {len(values) for values in found.values()}, readable_N)
    else:
        keys, table = read_columns(config.file, config.key, columns)
        row_F = matched_rows(keys, parent, keys_N, config.file.name, config.listing)
        found = {name: values.to_numpy() for name, values in table.items()}
    scores = []
    for score in config.scores:
        value_N = _spread(found[score.column], row_F, keys_N, f"{config.file}: {score.column}")
        lacking_N = readable_N & np.isnan(value_N)
        if lacking_N.any():
            if config.missing is None:
                raise MismatchError(
                    f"{config.file} has no {score.column} for {lacking_N.sum():,} of {len(lacking_N):,} samples; the "
                    f"first: {keys_N[int(np.argmax(lacking_N))]}",
                    hint="to fill them in: --missing mean, hardest, easiest or a number",
                )
            value_N[lacking_N] = _fill(config.missing, score, value_N[readable_N & ~lacking_N], config.file)
        formula = f"{'array' if config.key is None else 'column'} {score.column}"
        spec = ScoreSpec(set=config.set, name=score.name, formula=formula, source="imported", harder=score.harder)
        scores.append((spec, value_N[readable_N].astype(np.float32)))
    return np.flatnonzero(readable_N), scores


def _rows(
    config: ScoresImport, parent: Manifest, samples: pa.Table, lengths: set[int], readable_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the sample_id (F,) of each row of arrays that hold one number per sample, or per readable sample."""
    if len(lengths) > 1:
        raise MismatchError(f"{config.file}: its arrays hold {' and '.join(map(str, sorted(lengths)))} numbers")
    return rows_of_length(lengths.pop(), config.file, parent, samples, readable_N, config.order)


def _spread(
    value_F: NDArray[np.float64], row_F: NDArray[np.int64], keys_N: pa.ChunkedArray, where: str
) -> NDArray[np.float64]:
    """(N,) value of each sample, nan if the file has none; InputError for two that differ."""
    has_F = (row_F >= 0) & ~np.isnan(value_F)
    row_f, value_f = row_F[has_F], value_F[has_F]
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(value_f.astype(np.float32))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"{where} of {keys_N[int(row_f[at])]} is {value_f[at]:g}: scores must be finite float32 numbers"
        )
    value_N = np.full(len(keys_N), np.nan)
    value_N[row_f] = value_f
    differs = value_N[row_f] != value_f
    if differs.any():
        at = int(np.argmax(differs))
        raise InputError(
            f"{where} names {keys_N[int(row_f[at])]} twice, as {value_f[at]:g} and {value_N[row_f[at]]:g} "
            f"({differs.sum():,} such rows)",
            hint="keep one value per sample",
        )
    return value_N


def _fill(missing: str, score: ImportedScore, known_n: NDArray[np.float64], file: Path) -> float:
    if missing not in FILLED_IN:
        return _number(missing)
    if not len(known_n):
        raise MismatchError(f"{file} has no {score.column} for any readable sample")
    if missing == "mean":
        return float(known_n.mean())
    return float(known_n.max() if (missing == "hardest") == (score.harder == "high") else known_n.min())


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    with np.errstate(over="ignore"):
        fits = np.isfinite(np.float32(value))
    if not fits:
        raise UsageError(f"--missing {text}: expected mean, hardest, easiest or a number")
    return value
