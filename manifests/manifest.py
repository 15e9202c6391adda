"""A manifest in Python: a header, and tables that are read part by part, checking their digests.

manifest = Manifest.open("manifest")  # or Manifest.open("s3://bucket/manifest")
table = manifest.to_pandas()
manifest.images(table.nlargest(20, "loss").index)
for sample_id_n, logits_nC in manifest.logits(view=0): ...
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.base.files import link_or_copy, remove_temporaries, sha256_file, write_atomic
from manifests.base.layout import BETON_NAME, LOCAL_NAME, MAX_PART_BYTES
from manifests.base.progress import one_line
from manifests.errors import InputError, UsageError
from manifests.format.codes import Codes
from manifests.format.header import FileEntry, Header
from manifests.format.header_file import read_header, write_header
from manifests.format.last_layer import LAST_LAYER, FeatureLabels, LastLayer
from manifests.format.part_checks import check_part, check_whole, in_order
from manifests.format.parts import (
    AGAIN,
    layer_of,
    parse_part,
    part_count,
    part_path,
    rows_written,
    soft_labels_of,
    vectors_of,
)
from manifests.format.stored_form import StoredForm
from manifests.format.top_k import SoftLabels
from manifests.sources.base import local_problem
from manifests.sources.pictures import pictures
from manifests.stores.store import LocalStore, Store, store_of

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

PULLED_FROM, NOT_PULLED = "pulled_from", "not_pulled"
MAX_LOCAL_BYTES = 1 << 20
Ids = NDArray[np.int64]
Vectors = Iterator[tuple[Ids, NDArray[np.float16] | NDArray[np.float32]]]


class Manifest:
    """An immutable folder of Parquet parts, here or at a URL, described by its header."""

    def __init__(self, where: Path | Store, header: Header) -> None:
        self.store: Store = LocalStore(where) if isinstance(where, Path) else where
        self.header = header

    @classmethod
    def open(cls, where: str | Path, *, timeout_s: float | None = None) -> "Manifest":
        """Read the header of a manifest at a path or URL; raises InputError if it is missing or unreadable.

        Parts of a manifest at a URL are read into memory on request, and nothing is cached on disk. timeout_s: longest
        time without a byte from its server, None for 60 s.
        """
        store = store_of(where, timeout_s)
        return cls(store, read_header(store))

    def __repr__(self) -> str:
        data, chosen, teacher = self.header.data, self.header.selection, self.header.teacher
        kept = "" if chosen is None else f"{chosen.count:,} of "
        by = "" if teacher is None else f", teacher {one_line(teacher.spec)}"
        return (
            f"<Manifest {self.kind}: {kept}{data.count:,} samples, {data.classes_text}{by}, "
            f"id {self.id[:12]}, at {self.where}>"
        )

    @property
    def where(self) -> str:
        """The path or URL, for messages."""
        return self.store.where

    @property
    def folder(self) -> Path:
        """The folder on this machine; raises UsageError for a manifest at a URL."""
        return self.store.folder

    @property
    def path(self) -> Path:
        """Same as `folder`."""
        return self.store.folder

    @cached_property
    def id(self) -> str:
        """Hexadecimal sha256: equal ids mean equal manifests."""
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
        """Return the parts of one table, such as `samples` or `logits/view-000`, in row order."""
        return sorted((entry for entry in self.header.files if entry.table == table), key=lambda entry: entry.path)

    def has(self, table: str) -> bool:
        """Return whether the manifest holds a table."""
        return bool(self.files(table))

    def samples(self, columns: list[str] | None = None, *, check_all: bool = False) -> pa.Table:
        """Return one row per sample in canonical order: sample_id, key, label, size_bytes, content_hash, ...

        With some `columns` the others are not read; with `check_all` they are, to be checked and forgotten part by
        part.
        """
        return self._table("samples", columns, check_all=check_all)

    def scores(self, name: str = "teacher", columns: list[str] | None = None) -> pa.Table:
        """Return sample_id and one float32 column per score, readable samples only; or some of these columns."""
        return self._table(f"scores/{name}", columns)

    def each_score(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield sample_id and one score of a set for each of these columns, one of them in memory at a time."""
        # Files at a URL are not fetched again for each.
        held = None if self.store.is_local else self.scores(name)
        for column in columns:
            wanted = ["sample_id", column]
            yield self.scores(name, wanted) if held is None else held.select(wanted)

    def selection(self, columns: list[str] | None = None) -> pa.Table:
        """Return sample_id, keep, reason, weight, kd_weight for every sample, kept or not; or some of these columns."""
        return self._table("selection", columns)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the facts about each sample in one table, indexed by sample_id.

        key, label and class_name; every score by its name or, if several sets have one of that name, those outside
        `teacher` as SET/NAME; keep and reason in a selection. Tables that are missing or were not pulled have no
        columns.
        """
        samples = self.samples(["sample_id", "key", "label"])
        table: pd.DataFrame = samples.to_pandas().set_index("sample_id")
        table["class_name"] = np.array(self.class_names, object)[table["label"]]
        names = Counter(spec.name for spec in self.header.scores)
        for set_name in dict.fromkeys(spec.set for spec in self.header.scores):
            if self.has(f"scores/{set_name}") and "scores" not in self.not_pulled:
                scores = self.scores(set_name).to_pandas().set_index("sample_id")
                is_plain = {name: set_name == "teacher" or names[name] == 1 for name in scores.columns}
                scores.columns = [name if plain else f"{set_name}/{name}" for name, plain in is_plain.items()]
                table = table.join(scores)
        if self.has("selection") and "selection" not in self.not_pulled:
            table = table.join(self.selection().to_pandas().set_index("sample_id")[["keep", "reason"]])
        return table

    def images(
        self, sample_ids: Sequence[int], *, data: str | Path | None = None, split: str | None = None
    ) -> "list[Image]":
        """Return the images of some samples, in order, as PIL images.

        They come from `data`, by their keys; else from where they were indexed, if known on this machine; else from
        this manifest's train.beton. Raises InputError if no images are known here or one cannot be read, MismatchError
        if one is missing or was altered.
        """
        from PIL import Image

        id_n = np.asarray(sample_ids)
        if len(id_n) and (id_n.dtype.kind not in "iu" or id_n.min() < 0 or id_n.max() >= self.header.data.count):
            raise UsageError(
                f"sample_ids must be whole numbers from 0 to {self.header.data.count - 1:,}",
                hint="for example the index of some rows of to_pandas()",
            )
        samples = self.samples(["key", "content_hash"]).take(pa.array(id_n, pa.int64()))
        keys, hashes = samples.column("key").to_pylist(), samples.column("content_hash").to_pylist()
        local, beton = self.local, self.beton_path if data is None else None
        if data is not None:
            local = {"data": str(data), "split": split or self.header.data.split, "is_copy": True}
        found = pictures(local, beton, keys, hashes, id_n.tolist(), self.where)
        return [Image.fromarray(pixels) for pixels in found]

    def logits(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), logits (n, C) float16), one part at a time.

        If only the K largest are stored, all other classes get the value that makes softmax correct at T = 1.
        """
        return _dense(self.soft_labels("logits", view))

    def features(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), features (n, D) float16) of `prune score --features`, one part at a time."""
        entries = self.require(f"features/view-{view:03d}")
        return (vectors_of(self.part(entry), "features") for entry in entries)

    def targets(self, view: int = 0) -> Vectors:
        """Stream (sample_id (n,), target logits (n, C) float16) of the kept samples, like `logits`.

        Targets that are stored as codes or features are decoded to float32, as training does.
        """
        return _dense(self.soft_labels("targets", view))

    def soft_labels(self, kind: Literal["logits", "targets"], view: int = 0) -> Iterator[tuple[Ids, SoftLabels]]:
        """Stream (sample_id (n,), logits or targets (n,) as stored), one part at a time."""
        entries = self.require(f"{kind}/view-{view:03d}")
        column, class_count = {"logits": "logits", "targets": "target"}[kind], len(self.class_names)
        layer = self.last_layer if kind == "targets" else None
        return (soft_labels_of(self.part(entry), column, class_count, layer) for entry in entries)

    @cached_property
    def last_layer(self) -> LastLayer | None:
        """The teacher's last layer if targets are stored as its features, else None."""
        labels = self.header.labels
        if labels is None or labels.codec != "features":
            return None
        parts = map(self.part, self.require(LAST_LAYER))
        return layer_of(parts, len(self.class_names), labels.feature_width, self.where)

    @property
    def label_form(self) -> StoredForm:
        """The form of the targets."""
        return StoredForm.of(self.header.labels, len(self.class_names), self.last_layer)

    def part(self, entry: FileEntry, columns: list[str] | None = None) -> pa.Table:
        """Read one part of a table; raises InputError if it is missing, unreadable or altered."""
        name = self.store.name(entry.path)
        part = parse_part(self.file_bytes(entry), name, entry.sha256, columns)
        check_part(part, entry, self.header, name, whole=columns is None)
        return part

    def file_bytes(self, entry: FileEntry) -> bytes:
        """Read the bytes of a part and check their number against the header; the sha256 is not checked."""
        name = self.store.name(entry.path)
        if entry.bytes > MAX_PART_BYTES:
            raise InputError(f"{name} is larger than any part can be ({entry.bytes:,} bytes)")
        try:
            data = self.store.read(entry.path, max(entry.bytes, 0))
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}", hint=AGAIN) from None
        if len(data) != entry.bytes:
            found = f"{len(data):,}" if len(data) < entry.bytes else "more"
            raise InputError(
                f"{name} was altered: it has {found} bytes, the header says {entry.bytes:,}",
                hint="fetch or make the manifest again; `prune verify` lists every altered file",
            )
        return data

    @property
    def beton_path(self) -> Path | None:
        """This manifest's own beton, None if it has none here or it was not sent along; its size is checked."""
        entry = self.header.file(BETON_NAME)
        if entry is None or not self.store.is_local:
            return None
        path, size_bytes = self.store.folder / BETON_NAME, self.store.size(BETON_NAME)
        if size_bytes is None:
            return None
        if size_bytes != entry.bytes:
            raise InputError(
                f"{path} has {size_bytes:,} bytes, the header says {entry.bytes:,}: truncated or replaced",
                hint="write it again: prune index --beton, prune select or prune label",
            )
        return path

    @cached_property
    def local(self) -> dict[str, Any]:
        """The place of the images on this machine: data, split, classes, beton; empty if unknown."""
        return {name: value for name, value in self._beside.items() if name not in (PULLED_FROM, NOT_PULLED)}

    @property
    def pulled_from(self) -> str | None:
        """The URL from which `prune pull` copied it, None if it was made here."""
        found = self._beside.get(PULLED_FROM)
        return None if found is None else str(found)

    @property
    def not_pulled(self) -> frozenset[str]:
        """Kinds of tables, such as logits, that `prune pull --only` did not copy."""
        kinds = self._beside.get(NOT_PULLED, [])
        return frozenset(map(str, kinds)) if isinstance(kinds, list) else frozenset()

    @cached_property
    def _beside(self) -> dict[str, Any]:
        """The content of local.json."""
        if not self.store.is_local:
            return {}
        try:
            content = json.loads(self.store.read(LOCAL_NAME, MAX_LOCAL_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            content = None
        problem = local_problem(content) if isinstance(content, dict) else "it is not a JSON object"
        if problem is not None:
            name = self.store.name(LOCAL_NAME)
            raise InputError(f"{name} cannot be used: {problem}", hint="delete it and name the images with --data")
        return dict(content)

    def _table(self, table: str, columns: list[str] | None = None, *, check_all: bool = False) -> pa.Table:
        name, entries = f"{self.where}: {table}", self.require(table)
        if check_all and columns is not None:
            parts = [part.select(columns) for part in in_order(map(self.part, entries), name)]
        else:
            parts = [self.part(entry, columns) for entry in entries]
        try:
            found = pa.concat_tables(parts).replace_schema_metadata(None)
        except pa.ArrowException:
            raise InputError(f"{self.where}: the parts of {table} have different columns") from None
        if table in ("samples", "selection"):
            check_whole(found, self.header.data.count, name)
        return found

    def require(self, table: str) -> list[FileEntry]:
        """Return the parts of a table like `files`; raises InputError if it was left out, not pulled or is missing."""
        entries, kind = self.files(table), table.partition("/")[0]
        if entries and kind in self.not_pulled:
            raise InputError(
                f"{self.where}: its {kind} were not pulled",
                hint=f"prune pull {self.pulled_from or 'URL'} {self.where} --only {kind}",
            )
        if not entries and kind in (self.header.left_out or ()):
            raise InputError(
                f"{self.where}: its {kind} were left out when it was pushed",
                hint=f"ask whoever pushed it for manifest {', '.join(id[:12] for id in self.header.parents)}",
            )
        if not entries:
            raise InputError(
                f"{self.where} (a manifest of kind {self.kind}) holds no {table}",
                hint="prune score writes scores and logits, prune score --features features as well, "
                "prune select writes selection and targets",
            )
        return entries

    def link_table(self, table: str, target: Path) -> None:
        """Put this table's parts into another manifest folder, by hard link if possible.

        Raises InputError if a part is missing here or was altered, because the other header would list it as it is.
        """
        for entry in self.require(table):
            path = target / entry.path
            if path.is_file() and sha256_file(path) == entry.sha256:
                continue
            data = self.file_bytes(entry)
            parse_part(data, self.store.name(entry.path), entry.sha256, [])
            path.unlink(missing_ok=True)
            if self.store.is_local:
                link_or_copy(self.store.folder / entry.path, path)
            else:
                write_atomic(path, data)


def _dense(parts: Iterator[tuple[Ids, SoftLabels]]) -> Vectors:
    for ids, labels in parts:
        yield (
            ids,
            labels.logits() if isinstance(labels, Codes | FeatureLabels) else np.asarray(labels.logits(), np.float16),
        )


def file_entry(folder: Path, path: str, rows: int) -> FileEntry:
    """Describe one file of a manifest, hashing its bytes."""
    full = folder / path
    return FileEntry(path=path, rows=rows, bytes=full.stat().st_size, sha256=sha256_file(full))


def part_entries(folder: Path, tables: list[str], rows: int) -> list[FileEntry]:
    """Describe the parts of some tables over `rows` samples, in path order; other files are ignored."""
    paths = sorted(part_path(table, part) for table in tables for part in range(part_count(rows)))
    return [file_entry(folder, path, rows_written(folder / path)) for path in paths]


def write_local(folder: Path, local: Mapping[str, Any]) -> None:
    """Record where the images are on this machine; this is not part of any id or push."""
    write_atomic(folder / LOCAL_NAME, (json.dumps(local, indent=1, sort_keys=True) + "\n").encode())


def commit(folder: Path, header: Header) -> Manifest:
    """Make a manifest from a folder of parts: remove files left by killed writers, then write the header."""
    remove_temporaries(folder)
    write_header(folder, header)
    return Manifest(folder, header)
