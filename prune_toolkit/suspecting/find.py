"""`prune suspects`: list the samples of a manifest that are probably wrong, each with its reason. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.base.files import atomic_file
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.tables.thumbnails_table import carried_tables, stored_thumbnails
from prune_toolkit.suspecting.copies import nearest_before
from prune_toolkit.suspecting.marks import DUPLICATE, LEAKED, MISLABELLED, TWO_CLASSES, Marks, mark_samples
from prune_toolkit.suspecting.mislabelled import Judgement, preferred_classes

if TYPE_CHECKING:
    import pandas as pd

NEAR = "near duplicate"
REASONS = (MISLABELLED, TWO_CLASSES, DUPLICATE, NEAR, LEAKED)
"""In the order in which they are listed."""
FIRST = 3
SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("other_key", pa.string()),
        ("suggested_class", pa.string()),
    ]
)
"""score: the modified z-score of a mislabelled sample, the grey levels between near duplicates. other_key: the copy, or
the validation image. suggested_class: the class that the teacher prefers, or that of a copy in another class."""


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Samples that are probably wrong, with reasons."""

    manifest_id: str
    readable: int
    """Samples that were looked at."""
    rows: pa.Table
    """One row per sample and reason, as SCHEMA: by reason, the most suspicious labels first, else by sample_id."""
    judged_by: str | None
    """The score by which labels were judged; None if the manifest has none."""
    compared: int | None
    """Validation images that were compared; None if none were given."""
    not_looked_for: dict[str, str]
    """Why a reason was not looked for, and what that needs."""

    def __repr__(self) -> str:
        found = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.items() if count) or "none"
        return f"<Suspects of manifest {self.manifest_id[:12]}, {self.readable:,} readable samples: {found}>"

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples per reason that was looked for."""
        return {reason: len(self.of(reason)) for reason in REASONS if reason not in self.not_looked_for}

    def of(self, reason: str) -> pa.Table:
        """Return the rows of one reason."""
        return self.rows.filter(pc.equal(self.rows.column("reason"), reason))

    def first(self, reason: str) -> list[str]:
        """Return the first few keys of a reason."""
        return list(self.of(reason).slice(0, FIRST).column("key").to_pylist())

    def to_pandas(self) -> "pd.DataFrame":
        """Return all rows."""
        table: pd.DataFrame = self.rows.to_pandas()
        return table

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        counts = self.counts
        return {
            "manifest": self.manifest_id,
            "samples": self.readable,
            "judged_by": self.judged_by,
            "compared": self.compared,
            "counts": counts,
            "first": {reason: self.first(reason) for reason, count in counts.items() if count},
            "not_looked_for": self.not_looked_for,
        }

    def write_csv(self, path: Path) -> None:
        """Write all rows as CSV with a header row."""
        from pyarrow import csv

        with atomic_file(path) as stream:
            csv.write_csv(self.rows, stream)


def find_suspects(
    manifest: Manifest, val: Source | None = None, *, secret: bytes | None = None, workers: int = 1
) -> Suspects:
    """Look for suspects in a manifest of any kind; see `mark_samples`. Near duplicates need stored thumbnails."""
    samples = manifest.samples(["sample_id", "key", "label", "content_hash", "problem"])
    marks = mark_samples(manifest, samples, val, secret=secret, workers=workers)
    rows, missing = _copies(manifest, samples, marks), {}
    if marks.labels is None:
        missing[MISLABELLED] = "no margin or AUM is stored: prune score --teacher TEACHER, or --dynamics RUN"
    else:
        rows.insert(0, _mislabelled(manifest, samples, marks.labels))
    if carried_tables(manifest):
        rows.append(_near(manifest, samples, marks, workers))
    else:
        missing[NEAR] = "no thumbnails are stored: prune index --thumbnails, before scoring"
    if val is None:
        missing[LEAKED] = "name the validation images: --val DATA"
    else:
        rows.append(_leaked(manifest, samples, marks, val))
    return Suspects(
        manifest_id=manifest.id,
        readable=samples.column("problem").null_count,
        rows=pa.concat_tables(rows),
        judged_by=None if marks.labels is None else marks.labels.by,
        compared=None if val is None else len(val.keys),
        not_looked_for=missing,
    )


def _mislabelled(manifest: Manifest, samples: pa.Table, labels: Judgement) -> pa.Table:
    id_n = np.flatnonzero(labels.mislabelled_N)
    id_n = id_n[np.lexsort((id_n, labels.z_N[id_n]))]
    class_N = preferred_classes(manifest, labels.mislabelled_N, samples.column("label").to_numpy())
    named = [manifest.class_names[c] if c >= 0 else "" for c in class_N[id_n].tolist()]
    return _rows(manifest, samples, id_n, MISLABELLED, score_n=labels.z_N[id_n], suggested=named)


def _copies(manifest: Manifest, samples: pa.Table, marks: Marks) -> list[pa.Table]:
    """Return the rows of content in two classes, each with its first copy in another class, and of duplicates."""
    label_N, split_n = samples.column("label").to_numpy(), np.flatnonzero(marks.two_classes_N)
    first_n = marks.first_N[split_n]
    # Copies of the first in its own class lead to the first one that is in another class.
    away_n = split_n[label_N[split_n] != label_N[first_n]]
    group_g, at_g = np.unique(marks.first_N[away_n], return_index=True)
    other_n = first_n.copy()
    home_n = label_N[split_n] == label_N[first_n]
    other_n[home_n] = away_n[at_g[np.searchsorted(group_g, first_n[home_n])]]
    twice_n = np.flatnonzero(marks.duplicate_N)
    return [
        _rows(manifest, samples, split_n, TWO_CLASSES, other_n=other_n),
        _rows(manifest, samples, twice_n, DUPLICATE, other_n=marks.first_N[twice_n]),
    ]


def _near(manifest: Manifest, samples: pa.Table, marks: Marks, workers: int) -> pa.Table:
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    row_n = np.flatnonzero(readable_N & (marks.first_N == np.arange(len(samples))))
    near_n, difference_n = nearest_before(stored_thumbnails(manifest, row_n), workers=workers)
    has_near_n = near_n >= 0
    other_m = row_n[near_n[has_near_n]]
    return _rows(manifest, samples, row_n[has_near_n], NEAR, score_n=difference_n[has_near_n], other_n=other_m)


def _leaked(manifest: Manifest, samples: pa.Table, marks: Marks, val: Source) -> pa.Table:
    assert marks.there_N is not None
    id_n = np.flatnonzero(marks.leaked_N)
    others = [val.keys[row] for row in marks.there_N[id_n].tolist()]
    return _rows(manifest, samples, id_n, LEAKED, others=others)


def _rows(
    manifest: Manifest,
    samples: pa.Table,
    id_n: Any,
    reason: str,
    *,
    score_n: Any = None,
    other_n: Any = None,
    others: list[str] | None = None,
    suggested: list[str] | None = None,
) -> pa.Table:
    """Return rows of SCHEMA; `other_n` are sample_ids of copies, `others` keys of validation images."""
    names, label_N = np.array(manifest.class_names, object), samples.column("label").to_numpy()
    class_n = names[label_N[id_n]]
    if other_n is not None:
        others = samples.column("key").take(pa.array(other_n)).to_pylist()
        suggested = np.where(label_N[other_n] == label_N[id_n], "", names[label_N[other_n]]).tolist()
    columns = [
        pa.array(id_n, pa.int64()),
        samples.column("key").take(pa.array(id_n)).combine_chunks(),
        pa.array(class_n.tolist(), pa.string()),
        pa.repeat(reason, len(id_n)),
        pa.nulls(len(id_n), pa.float64()) if score_n is None else pa.array(np.round(score_n.astype(np.float64), 3)),
        pa.array(others or [""] * len(id_n), pa.string()),
        pa.array(suggested or [""] * len(id_n), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
