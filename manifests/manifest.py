"""A manifest as Python sees it: a header, and tables read part by part with their digests checked.

manifest = Manifest.open("manifest")
manifest.samples().to_pandas()
for sample_id_n, logits_nC in manifest.logits(view=0): ...
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.files import link_or_copy, remove_temporaries, sha256_file, write_atomic
from manifests.header import FileEntry, Header, read_header, write_header
from manifests.parts import part_count, part_path, read_part, soft_labels_of, vectors_of
from manifests.top_k import SoftLabels, TopK

BETON_NAME = "train.beton"
LOCAL_NAME = "local.json"
Ids = NDArray[np.int64]
Vectors = Iterator[tuple[Ids, NDArray[np.float16]]]


class Manifest:
    """An immutable folder of Parquet parts, described by its header."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header

    @classmethod
    def open(cls, path: str | Path) -> "Manifest":
        """Read the header of a manifest; InputError when there is none or it cannot be read."""
        return cls(Path(path), read_header(Path(path)))

    @cached_property
    def id(self) -> str:
        """Hexadecimal sha256: equal ids are equal manifests."""
        return self.header.id

    @property
    def kind(self) -> str:
        """`index`, `scores` or `selection`."""
        return self.header.kind

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        return self.header.data.class_names

    def files(self, table: str) -> list[FileEntry]:
        """The parts of one table, such as `samples` or `logits/view-000`, in row order."""
        return sorted(
            (entry for entry in self.header.files if entry.path.rpartition("/")[0] == table),
            key=lambda entry: entry.path,
        )

    def has(self, table: str) -> bool:
        """Whether the manifest holds a table."""
        return bool(self.files(table))

    def samples(self, columns: list[str] | None = None) -> pa.Table:
        """One row a sample in canonical order: sample_id, key, label, size_bytes, content_hash, ..."""
        return self._table("samples", columns)

    def scores(self, name: str = "teacher") -> pa.Table:
        """sample_id and one float32 column a score, readable samples only."""
        return self._table(f"scores/{name}", None)

    def selection(self) -> pa.Table:
        """sample_id, keep, reason, weight, kd_weight for every sample, kept or not."""
        return self._table("selection", None)

    def logits(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), logits (n, C) float16), one part at a time.

        Where the K largest are stored: those, and for all other classes the value that makes softmax right at T = 1.
        """
        return _dense(self.soft_labels("logits", view))

    def features(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), features (n, D) float16) of `prune score --features`, one part at a time."""
        entries = self._require(f"features/view-{view:03d}")
        return (vectors_of(read_part(self.path / entry.path, entry.sha256), "features") for entry in entries)

    def targets(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), target logits (n, C) float16) of the kept samples, as `logits` does."""
        return _dense(self.soft_labels("targets", view))

    def soft_labels(self, kind: Literal["logits", "targets"], view: int = 0) -> Iterator[tuple[Ids, SoftLabels]]:
        """Stream (sample_id (n,), logits or targets as they are stored: (n, C) float16 or TopK), one part at a time."""
        entries = self._require(f"{kind}/view-{view:03d}")
        column, class_count = {"logits": "logits", "targets": "target"}[kind], len(self.class_names)
        parts = (read_part(self.path / entry.path, entry.sha256) for entry in entries)
        return (soft_labels_of(part, column, class_count) for part in parts)

    @property
    def beton_path(self) -> Path | None:
        """This manifest's own beton, None when it has none or it was not sent along; its size is checked."""
        entry = self.header.file(BETON_NAME)
        path = self.path / BETON_NAME
        if entry is None or not path.is_file():
            return None
        size_bytes = path.stat().st_size
        if size_bytes != entry.bytes:
            raise InputError(
                f"{path} has {size_bytes:,} bytes, the header says {entry.bytes:,}: truncated or replaced",
                hint="write it again: prune index --beton, prune select or prune label",
            )
        return path

    @cached_property
    def local(self) -> dict[str, Any]:
        """Where the images are on this machine: data, split, classes, beton; empty when unknown."""
        path = self.path / LOCAL_NAME
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a JSON object", hint="delete it and name the images with --data")
        return content

    def _table(self, table: str, columns: list[str] | None) -> pa.Table:
        parts = [read_part(self.path / entry.path, entry.sha256, columns) for entry in self._require(table)]
        try:
            return pa.concat_tables(parts).replace_schema_metadata(None)
        except pa.ArrowException:
            raise InputError(f"{self.path}: the parts of {table} have different columns") from None

    def _require(self, table: str) -> list[FileEntry]:
        entries = self.files(table)
        if not entries:
            raise InputError(
                f"{self.path} (a manifest of kind {self.kind}) holds no {table}",
                hint="prune score writes scores and logits, prune score --features features as well, "
                "prune select writes selection and targets",
            )
        return entries

    def link_table(self, table: str, target: Path) -> None:
        """Give another manifest folder this table's parts, by hard link where possible.

        InputError when a part is missing here or was altered: it would be written into the other's header as it is.
        """
        for entry in self._require(table):
            source, path = self.path / entry.path, target / entry.path
            if path.is_file() and sha256_file(path) == entry.sha256:
                continue
            read_part(source, entry.sha256, [])
            path.unlink(missing_ok=True)
            link_or_copy(source, path)


def _dense(parts: Iterator[tuple[Ids, SoftLabels]]) -> Vectors:
    for ids, labels in parts:
        yield ids, labels.logits().astype(np.float16) if isinstance(labels, TopK) else labels


def file_entry(folder: Path, path: str, rows: int) -> FileEntry:
    """Describe one file of a manifest, hashing its bytes."""
    full = folder / path
    return FileEntry(path=path, rows=rows, bytes=full.stat().st_size, sha256=sha256_file(full))


def part_entries(folder: Path, tables: list[str], rows: int) -> list[FileEntry]:
    """Describe the parts of some tables over `rows` samples, in path order; other files are nobody's business."""
    import pyarrow.parquet as pq

    paths = sorted(part_path(table, part) for table in tables for part in range(part_count(rows)))
    return [file_entry(folder, path, pq.read_metadata(folder / path).num_rows) for path in paths]


def write_local(folder: Path, local: dict[str, Any]) -> None:
    """Remember where the images are on this machine; in no id and in no push."""
    write_atomic(folder / LOCAL_NAME, (json.dumps(local, indent=1, sort_keys=True) + "\n").encode())


def commit(folder: Path, header: Header) -> Manifest:
    """Make a manifest of a folder of parts: clear what killed writers left, then write the header."""
    remove_temporaries(folder)
    write_header(folder, header)
    return Manifest(folder, header)
