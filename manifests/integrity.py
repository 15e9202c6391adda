"""Check that a manifest is what its header says: digests, row counts, and a beton's inner consistency."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.base.layout import BETON_NAME
from manifests.betons.labelled_views import Bits, bits_of_views, bits_problem
from manifests.betons.reader import Beton
from manifests.betons.writer import LABELLED_FIELD
from manifests.errors import InputError, UnreachableError
from manifests.format.columns import tables_of
from manifests.format.header import FileEntry
from manifests.format.last_layer import LAST_LAYER
from manifests.format.part_checks import check_part
from manifests.format.parts import PART_ROWS, parse_part
from manifests.format.stored_form import StoredForm, labelled_problem
from manifests.images.decode import MODE_JPEG
from manifests.images.jpeg import jpeg_info
from manifests.manifest import Manifest
from manifests.stores.addresses import UNKNOWN_SIZE
from manifests.stores.store import Store
from manifests.stores.streams import sha256_of

_DECODED_VALUES = 1 << 22
"""Logits decoded at once."""
_MISSING = "is missing"
_ALTERED = "was altered: its sha256 is not the one the header names"


@dataclass(frozen=True)
class Finding:
    """One problem, and the file it is in."""

    path: str
    problem: str


@dataclass(frozen=True)
class Report:
    """The files checked, and the problems found."""

    manifest_id: str
    files: int
    bytes: int
    absent: list[str]
    """Files that may be missing: a beton, pushed only on request, and tables that `prune pull --only` left out."""
    findings: list[Finding]

    def __repr__(self) -> str:
        found = "whole" if self.ok else f"damaged, {len(self.findings)} problem(s)"
        absent = f"; not here: {', '.join(self.absent)}" if self.absent else ""
        return f"<Report on manifest {self.manifest_id[:12]}: {found}, {self.files} file(s){absent}>"

    @property
    def ok(self) -> bool:
        """True if no problem was found."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return {"ok": self.ok, **asdict(self)}


def verify(where: str | Path) -> Report:
    """Check every file a manifest names against its bytes, sha256 and rows.

    At a URL all files are read, but the inside of a beton is not checked. Raises InputError without a readable header.
    """
    manifest = Manifest.open(where)
    not_pulled = manifest.not_pulled
    findings: list[Finding] = []
    absent: list[str] = []
    total_bytes = 0
    for entry in manifest.header.files:
        may_be_absent = entry.path == BETON_NAME or entry.kind in not_pulled
        problems = list(_file_problems(manifest, entry))
        if may_be_absent and problems == [_MISSING] and not _is_there(manifest.store, entry.path):
            absent.append(entry.table or BETON_NAME)
            continue
        findings += [Finding(entry.path, problem) for problem in problems]
        total_bytes += 0 if problems else entry.bytes
    damaged = {finding.path for finding in findings}
    findings += _table_findings(manifest, damaged)
    findings += _view_findings(manifest, damaged)
    return Report(manifest.id, len(manifest.header.files), total_bytes, list(dict.fromkeys(absent)), findings)


def _file_problems(manifest: Manifest, entry: FileEntry) -> Iterator[str]:
    """Yield the problems of one file: its path, size and sha256, and if these are right, its content."""
    try:
        size_bytes = manifest.store.size(entry.path)
        if size_bytes is None:
            yield _MISSING
        elif size_bytes not in (entry.bytes, UNKNOWN_SIZE):
            yield f"has {size_bytes:,} bytes, the header says {entry.bytes:,}"
        elif entry.path == BETON_NAME:
            yield from _beton_problems(manifest.store, entry)
        else:
            yield from _part_problems(manifest, entry)
    except UnreachableError:
        # Nothing is known about the file.
        raise
    except InputError as error:
        yield error.message
    except OSError as error:
        yield f"cannot be read: {error.strerror or error}"


def _part_problems(manifest: Manifest, entry: FileEntry) -> Iterator[str]:
    data = manifest.file_bytes(entry)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        yield _ALTERED
        return
    name = manifest.store.name(entry.path)
    part = parse_part(data, name)
    if part.num_rows != entry.rows:
        yield from _row_problems(part.num_rows, entry)
    else:
        check_part(part, entry, manifest.header, name)


def _beton_problems(store: Store, entry: FileEntry) -> Iterator[str]:
    with store.open(entry.path) as stream:
        # A web server may send more than it announced, without end.
        sha256 = sha256_of(stream, entry.bytes + 1)
    if sha256 != entry.sha256:
        yield _ALTERED
    elif store.is_local:
        beton = Beton.open(store.folder / entry.path)
        yield from beton_problems(beton)
        yield from _row_problems(beton.count, entry)


def _is_there(store: Store, path: str) -> bool:
    """Return whether anything has this name, even a folder."""
    return store.is_local and os.path.lexists(store.folder / path)


def _row_problems(found: int, entry: FileEntry) -> Iterator[str]:
    if found != entry.rows:
        yield f"has {found:,} rows, the header says {entry.rows:,}"


def _table_findings(manifest: Manifest, damaged: set[str]) -> Iterator[Finding]:
    """Tables with a row for every sample must have them all, in parts of the contract's size."""
    count = manifest.header.data.count
    for table in ("samples", "selection"):
        entries = manifest.files(table)
        if not entries or damaged.intersection(entry.path for entry in entries):
            continue
        found = sum(entry.rows for entry in entries)
        if found != count:
            yield Finding(table, f"has {found:,} rows for {count:,} samples")
        if any(entry.rows != PART_ROWS for entry in entries[:-1]):
            yield Finding(table, f"has a part before the last that does not have {PART_ROWS:,} rows")


def _view_findings(manifest: Manifest, damaged: set[str]) -> Iterator[Finding]:
    """Every view that the header counts must be there, and a beton's targets must have the shape it names."""
    header = manifest.header
    stored = tables_of(header)
    counts = {
        "logits": header.views.count if header.kind == "scores" and header.views is not None else 0,
        "targets": 0 if header.labels is None else header.labels.views,
        "features": 0 if header.features is None else 1,
    }
    for kind, count in counts.items():
        found = sum(table.startswith(f"{kind}/view-") for table in stored)
        if found != count and count and kind not in (header.left_out or ()):
            yield Finding(kind, f"has {found:,} views, the header says {count:,}")
    labels, path = header.labels, None if BETON_NAME in damaged else manifest.beton_path
    if labels is None:
        return
    absent = "targets" in manifest.not_pulled | frozenset(header.left_out or ())
    if labels.codec == "features" and (absent or any(name.startswith(f"{LAST_LAYER}/") for name in damaged)):
        return
    try:
        form = manifest.label_form
    except UnreachableError:
        raise
    except InputError as error:
        yield Finding(LAST_LAYER, error.message)
        return
    beton = None if path is None else Beton.open(path)
    bits_N = None
    if labels.is_ragged and not absent and not any(name.startswith("targets/") for name in damaged):
        bits_N = labelled_views(manifest)
        if bits_N is not None and (problem := bits_problem(bits_N[bits_N > 0], labels.views)) is not None:
            yield Finding("targets", f"cannot be used: of the kept samples, {problem}")
    if beton is None:
        return
    most = labels.budget.most if labels.budget is not None and labels.is_ragged else labels.views
    if beton.target_shape != (most, form.words):
        what = f"has targets of shape {beton.target_shape}, the header's labels {(most, form.words)}"
        yield Finding(BETON_NAME, what)
    elif (problem := labelled_problem(labels, beton)) is not None:
        yield Finding(BETON_NAME, problem)
    elif bits_N is not None and beton.labelled_views_N is not None and _differ(beton, bits_N):
        yield Finding(BETON_NAME, "has targets of other views than the tables of targets")
    elif form.codec is not None:
        yield from _label_findings(beton, form)


def labelled_views(manifest: Manifest) -> Bits | None:
    """Return which views of each sample have a target, (N,) by sample_id; None if a table of targets is missing."""
    labels = manifest.header.labels
    entries = [manifest.files(f"targets/view-{view:03d}") for view in range(0 if labels is None else labels.views)]
    if not all(entries):
        return None
    ids = [
        np.concatenate([manifest.part(entry, ["sample_id"]).column("sample_id").to_numpy() for entry in parts])
        for parts in entries
    ]
    return bits_of_views(ids, manifest.header.data.count)


def _differ(beton: Beton, bits_N: Bits) -> bool:
    """Return whether the targets of a beton are of other views than those of the tables."""
    id_n = beton.columns.get("sample_id", np.zeros(beton.count, np.int64))
    inside = bool(((id_n >= 0) & (id_n < len(bits_N))).all())
    return not inside or not np.array_equal(beton.columns[LABELLED_FIELD], bits_N[id_n])


def _label_findings(beton: Beton, form: StoredForm) -> Iterator[Finding]:
    """Yield the first target of a beton that cannot be decoded."""
    step = max(1, _DECODED_VALUES // (beton.view_count * form.class_count))
    for start in range(0, beton.count, step):
        row_n = np.arange(start, min(start + step, beton.count))
        words_nVW = beton.targets(row_n)
        each_n = np.full(len(row_n), beton.view_count) if beton.label_count_N is None else beton.label_count_N[row_n]
        try:
            form.decode(words_nVW[np.arange(beton.view_count) < each_n[:, None]])
        except InputError as error:
            yield Finding(BETON_NAME, f"targets of rows {start:,} to {start + len(words_nVW) - 1:,}: {error.message}")
            return


def beton_problems(beton: Beton) -> Iterator[str]:
    """Yield what FFCV would silently read wrongly: rows in the table, samples on two pages, JPEG sizes.

    There is at most one problem of each kind, with the first row that has it.
    """
    table = beton.allocations
    unknown = table["sample_id"] >= beton.count
    if unknown.any():
        yield f"the allocation table names sample {table['sample_id'][unknown.argmax()]} of {beton.count:,}"
        return
    yield from _wrong_owners(beton)
    sample_id, size_bytes = table["sample_id"].astype(np.int64), np.maximum(table["size"], 1)
    first_page = table["ptr"] // beton.page_bytes
    page_N = np.zeros(beton.count, np.uint64)
    page_N[sample_id] = first_page
    torn = (first_page != (table["ptr"] + size_bytes - 1) // beton.page_bytes) | (first_page != page_N[sample_id])
    if torn.any():
        yield f"row {sample_id[torn].min()} lies on two pages"
    for row in np.flatnonzero(beton.modes_N == MODE_JPEG).tolist():
        info = jpeg_info(beton.image_bytes(row).tobytes())
        width, height = int(beton.widths_N[row]), int(beton.heights_N[row])
        if info is None or (info.width, info.height) != (width, height):
            yield f"row {row}: its JPEG does not have the {width}x{height} pixels that its metadata names"
            return
        if info.precision != 8 or info.components not in (1, 3):
            yield f"row {row}: its JPEG has {info.components} components of {info.precision} bits"
            return


def _wrong_owners(beton: Beton) -> Iterator[str]:
    """Yield the regions that the table lists under another sample than the one whose metadata points to them."""
    table = beton.allocations[beton.allocations["size"] > 0]
    order = np.argsort(table["ptr"], kind="stable")
    pointers, sample_id = table["ptr"][order].astype(np.int64), table["sample_id"][order]
    for what, pointer_N in (("image", beton.image_pointer_N), ("target", beton.target_pointer_N)):
        if pointer_N is not None:
            owner_N = sample_id[np.searchsorted(pointers, pointer_N)]
            wrong = np.flatnonzero(owner_N != np.arange(beton.count))
            if len(wrong):
                yield f"row {wrong[0]}: the allocation table gives its {what} to sample {owner_N[wrong[0]]}"
