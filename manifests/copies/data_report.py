"""Result of a comparison of images with a manifest: counts, the first few of each kind, and all of them as a list."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.files import atomic_file

KINDS = ("missing", "another class", "unreadable", "another size", "other content", "another shape", "other pixels")
"""Differences of a sample, in the order in which they are looked for; only the first one found is reported."""
EXTRA = "extra"
FIRST = 3
LIST_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "what", "ours", "theirs", "their_key")])


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The match of a copy of the images with a manifest."""

    manifest_id: str
    data: str
    """Name of the copy."""
    level: str
    """Level of the comparison: names, sizes, hashes or pixels."""
    what_N: NDArray[np.int8]
    """Index into KINDS for each sample of the manifest; -1 for those that match or were not compared."""
    row_N: NDArray[np.int64]
    """Row of the copy that holds each sample; -1 if none does."""
    checked: int
    """Readable samples that were compared."""
    matched_by: dict[str, int]
    """Samples found by each way to match."""
    ambiguous: int
    """Missing samples whose file name is there, but not unique within the class."""
    extra: int
    """Images of the copy that are not samples of the manifest."""
    differences: pa.Table
    """All that does not match, kind by kind, then what is extra, as LIST_SCHEMA."""
    pixel_difference_n: NDArray[np.float32]
    """Mean differences, in grey levels, of images whose bytes differ; empty unless pixels were compared."""
    side_N2: NDArray[np.int64]
    """Width and height of each sample: those of its image in the copy, if this was decoded."""
    content: str | None
    """Digest of the matching images, if they are to be cut and other bytes than the scored ones may match."""

    def __repr__(self) -> str:
        found = ", ".join(f"{count:,} {what}" for what, count in self.told.items()) or "nothing differs"
        return (
            f"<DataReport of {self.data} against manifest {self.manifest_id[:12]}, by {self.level}: "
            f"{self.checked - self.unmatched:,} of {self.checked:,} samples match; {found}>"
        )

    @property
    def ok(self) -> bool:
        """True if every sample is there and unchanged; further images do no harm."""
        return not self.unmatched

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples per kind of difference, for all kinds."""
        return {kind: int((self.what_N == number).sum()) for number, kind in enumerate(KINDS)}

    @property
    def told(self) -> dict[str, int]:
        """Number of samples per kind of difference that occurs, and of what is extra."""
        found = {**self.counts, EXTRA: self.extra}
        return {what: count for what, count in found.items() if count}

    @property
    def unmatched(self) -> int:
        """Missing and differing samples."""
        return int((self.what_N >= 0).sum())

    @property
    def match_rate(self) -> float:
        """Share of the compared samples that match."""
        return 1 - self.unmatched / self.checked if self.checked else 1.0

    def first(self, kind: str) -> list[str]:
        """Return the first few keys of a kind of difference, or of what is extra."""
        of_kind = self.differences.filter(pc.equal(self.differences.column("what"), kind)).slice(0, FIRST)
        return list(of_kind.column("key").to_pylist())

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        counts = self.counts
        difference_n = self.pixel_difference_n
        report = {
            "manifest": self.manifest_id,
            "data": self.data,
            "check": self.level,
            "samples": self.checked,
            "match_rate": self.match_rate,
            "matched_by": self.matched_by,
            "ambiguous": self.ambiguous,
            "missing": counts["missing"],
            "differing": {kind: counts[kind] for kind in KINDS[1:] if counts[kind]},
            "extra": self.extra,
            "first": {what: self.first(what) for what in self.told},
        }
        if len(difference_n):
            report["pixel_difference"] = {"mean": float(difference_n.mean()), "largest": float(difference_n.max())}
        return report

    def write_list(self, path: Path) -> None:
        """Write all differences as CSV with a header row."""
        from pyarrow import csv

        with atomic_file(path) as stream:
            csv.write_csv(self.differences, stream)
