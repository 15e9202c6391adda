"""Compare a copy of the images with a manifest: by names, sizes, content hashes, or decoded pixels.

Each level includes the ones before, except that pixels accept other bytes: that is their purpose.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.copies.class_map import match_classes, read_class_map
from manifests.copies.data_report import EXTRA, KINDS, LIST_SCHEMA, DataReport
from manifests.copies.matching import STAGES, DataMatch, Listing, match_samples, rematch
from manifests.errors import InputError, UsageError
from manifests.hidden.secret import check_secret, hide_hashes, hide_keys
from manifests.images.thumbnails import THUMBNAIL_BYTES, mean_difference
from manifests.manifest import Manifest
from manifests.sources.base import Source
from manifests.sources.facts import SourceFacts
from manifests.tables.rows import Ids, hash_matrix

LEVELS = ("names", "sizes", "hashes", "pixels")
EXACT = ("sizes", "hashes")
"""Levels that accept no other encoding."""
PIXEL_TOLERANCE = 8.0
_SIZE_BITS = 42
Mask = NDArray[np.bool_]
ThumbnailsOf = Callable[[Ids], NDArray[np.uint8]]
"""(n, 192) thumbnails of some samples as they were when the manifest was made."""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Settings of a comparison of images with a manifest: how closely, and how the images are found."""

    level: str = "hashes"
    stages: Sequence[str] = STAGES
    class_map: Path | None = None
    """Table of the classes that have other names in the copy."""
    pixel_tolerance: float = PIXEL_TOLERANCE
    """Mean difference of two thumbnails, in grey levels, above which they show different images."""
    secret: bytes | None = field(default=None, repr=False)
    """Secret of a manifest whose keys and hashes are hidden."""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f"--check {self.level!r} is not a way to compare", hint=f"known: {', '.join(LEVELS)}")
        if not 0 <= self.pixel_tolerance <= 255:
            raise UsageError(f"--pixel-tolerance {self.pixel_tolerance} is not from 0 to 255 grey levels")


def check_data(
    manifest: Manifest,
    source: Source,
    check: DataCheck,
    *,
    wanted_N: Mask | None = None,
    thumbnails: ThumbnailsOf | None = None,
    facts: SourceFacts | None = None,
) -> DataReport:
    """Compare the readable samples of a manifest, or the `wanted_N` ones that are to be cut, with a copy of the images.

    What is to be cut must be decodable at level names too. A hidden manifest has no sizes: hashes take their place.
    `facts` are those of the source, if some are known already. Raises MismatchError if the classes differ, UsageError
    for level pixels without thumbnails, InputError if there is no readable sample.
    """
    check_secret(manifest.header, check.secret, manifest.where)
    if check.level == "sizes" and check.secret is not None:
        check = replace(check, level="hashes")
    if check.level == "pixels" and thumbnails is None:
        raise UsageError(
            f"{manifest.where} has no thumbnails, and its images are not here: pixels cannot be compared",
            hint="whoever has the images can add some: prune index --thumbnails, before scoring; or use --check sizes",
        )
    samples = manifest.samples(["key", "label", "size_bytes", "content_hash", "width", "height", "problem"])
    asked_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    if wanted_N is not None:
        asked_N = asked_N & wanted_N
    if not asked_N.any():
        raise InputError(f"{manifest.where} has no readable sample to compare images with")
    hash_N16 = np.where(asked_N[:, None], hash_matrix(samples.column("content_hash")), np.uint8(0))
    comparison = _Comparison(manifest, samples, facts or SourceFacts(source, check.workers), check)
    are_rows = "folder" not in (manifest.header.data.source, source.kind)
    match = match_samples(
        comparison.ours,
        hash_N16,
        comparison.theirs,
        comparison.their_hashes,
        check.stages,
        are_rows=are_rows,
        hide=None if check.secret is None else partial(hide_keys, check.secret),
        split=manifest.header.data.split,
    )
    if check.level == "hashes" and "content" in check.stages and not are_rows:
        match = comparison.rematched(match, asked_N, hash_N16)
    row_N = np.where(asked_N, match.row_N, -1)
    comparison.names(asked_N, row_N)
    difference_n = np.zeros(0, np.float32)
    if check.level in EXACT and check.secret is None:
        comparison.sizes()
    if check.level == "hashes":
        comparison.hashes(hash_N16)
    if check.level == "names" and wanted_N is not None:
        comparison.decoded(hash_N16)
    if check.level == "pixels" and thumbnails is not None:
        difference_n = comparison.pixels(hash_N16, thumbnails, check.pixel_tolerance)
    extra_m = np.setdiff1d(np.arange(len(source.keys)), match.row_N)
    return DataReport(
        manifest_id=manifest.id,
        data=source.name,
        level=check.level,
        what_N=comparison.what_N,
        row_N=row_N,
        checked=int(asked_N.sum()),
        matched_by=match.counts(asked_N),
        ambiguous=int((match.ambiguous_N & asked_N).sum()),
        extra=len(extra_m),
        differences=comparison.table(extra_m),
        pixel_difference_n=difference_n,
        side_N2=comparison.side_N2,
        content=None if check.level in EXACT or wanted_N is None else comparison.content(),
    )


class _Comparison:
    """Samples and their images in a copy, and the differences found so far; see KINDS for the order."""

    def __init__(self, manifest: Manifest, samples: pa.Table, facts: SourceFacts, check: DataCheck) -> None:
        source = facts.source
        label_N = samples.column("label").to_numpy().astype(np.int64)
        if source.is_unlabelled:
            # Classes cannot be compared: names, sizes and contents can.
            label_N, their_label_N = np.zeros_like(label_N), source.labels_N.astype(np.int64)
        else:
            pairs = None if check.class_map is None else read_class_map(check.class_map)
            their_label_C = match_classes(manifest.class_names, source.class_names, pairs)
            our_label_C = np.full(len(source.class_names), -1, np.int64)
            our_label_C[their_label_C] = np.arange(len(their_label_C))
            their_label_N = our_label_C[source.labels_N]
        self.ours = Listing(keys=samples.column("key").combine_chunks(), label_N=label_N)
        self.theirs = Listing(keys=pa.array(source.keys, pa.string()), label_N=their_label_N)
        self.facts, self._secret = facts, check.secret
        self.what_N = np.full(len(samples), -1, np.int8)
        self._size_N = samples.column("size_bytes").to_numpy()
        sides = [samples.column(name).to_numpy().astype(np.int64) for name in ("width", "height")]
        self._scored_side_N2 = np.stack(sides, axis=1)
        self.side_N2 = self._scored_side_N2.copy()
        self._class_names = np.array(manifest.class_names, object)
        self._tables: list[pa.Table] = []

    def their_hashes(self, row_n: Ids) -> NDArray[np.uint8]:
        """Return (n, 16) content hashes of some rows as the manifest has them; zeros if an image cannot be read."""
        hash_n16 = self.facts.hashes(row_n)
        if self._secret is None:
            return hash_n16
        is_read_n1 = hash_n16.any(axis=1, keepdims=True)
        return np.where(is_read_n1, hide_hashes(self._secret, hash_n16), np.uint8(0))

    def names(self, asked_N: Mask, row_N: Ids) -> None:
        """Record what is missing or in another class."""
        self._row_N, self._found_N = row_N, asked_N & (row_N >= 0)
        self._record("missing", np.flatnonzero(asked_N & (row_N < 0)))
        ids_n, row_n = self._left()
        label_n, their_label_n = self.ours.label_N[ids_n], self.theirs.label_N[row_n]
        other_n = label_n != their_label_n
        names = self._class_names
        self._record("another class", ids_n[other_n], names[label_n[other_n]], names[their_label_n[other_n]])

    def rematched(self, match: DataMatch, asked_N: Mask, hash_N16: NDArray[np.uint8]) -> DataMatch:
        """Return the match after looking by content for samples whose place holds another image.

        Files that were renumbered have the names of others. Only images with the class and size of such a sample are
        hashed, but all of them if the manifest is hidden and has no sizes.
        """
        is_placed_N = asked_N & (match.row_N >= 0) & (match.stage_N != STAGES.index("content"))
        placed_n = np.flatnonzero(is_placed_N)
        row_n = match.row_N[placed_n]
        same_n = np.ones(len(placed_n), np.bool_)
        if self._secret is None:
            same_n = self.facts.sizes(row_n) == self._size_N[placed_n]
        same_n[same_n] = (self.their_hashes(row_n[same_n]) == hash_N16[placed_n[same_n]]).all(axis=1)
        if same_n.all():
            return match
        lost_N = asked_N & (match.row_N < 0)
        lost_N[placed_n[~same_n]] = True
        row_m = np.setdiff1d(np.arange(len(self.theirs.keys)), match.row_N[asked_N & ~lost_N])
        if self._secret is None:
            wanted = _pairs(self.ours.label_N[lost_N], self._size_N[lost_N])
            row_m = row_m[np.isin(_pairs(self.theirs.label_N[row_m], self.facts.sizes(row_m)), wanted)]
        if not len(row_m):
            return match
        lost_n = np.flatnonzero(lost_N)
        return rematch(match, lost_n, self.ours, hash_N16, self.theirs, row_m, self.their_hashes(row_m))

    def sizes(self) -> None:
        """Record what has another size."""
        size_N = self._size_N
        ids_n, row_n = self._left()
        size_n = self.facts.sizes(row_n)
        self._record("unreadable", ids_n[size_n < 0])
        other_n = (size_n >= 0) & (size_n != size_N[ids_n])
        self._record("another size", ids_n[other_n], size_N[ids_n[other_n]], size_n[other_n])

    def hashes(self, hash_N16: NDArray[np.uint8]) -> None:
        """Record what has other bytes."""
        ids_n, row_n = self._left()
        hash_n16 = self.their_hashes(row_n)
        is_read_n = hash_n16.any(axis=1)
        self._record("unreadable", ids_n[~is_read_n])
        other_n = is_read_n & (hash_n16 != hash_N16[ids_n]).any(axis=1)
        self._record("other content", ids_n[other_n], _hex(hash_N16[ids_n[other_n]]), _hex(hash_n16[other_n]))

    def decoded(self, hash_N16: NDArray[np.uint8]) -> tuple[Ids, NDArray[np.uint8]]:
        """Record what cannot be decoded; return samples (m,) with other bytes that can be, and thumbnails (m, 192)."""
        ids_n, row_n = self._left()
        broken, others, pixels = list[int](), list[int](), bytearray()
        for sample_id, seen in zip(ids_n.tolist(), self.facts.seen(row_n, hash_N16[ids_n]), strict=True):
            if seen is None:
                broken.append(sample_id)
            elif seen.thumbnail:
                others.append(sample_id)
                self.side_N2[sample_id] = seen.width, seen.height
                pixels += seen.thumbnail
        self._record("unreadable", np.array(broken, np.int64))
        return np.array(others, np.int64), np.frombuffer(pixels, np.uint8).reshape(-1, THUMBNAIL_BYTES)

    def pixels(self, hash_N16: NDArray[np.uint8], thumbnails: ThumbnailsOf, tolerance: float) -> NDArray[np.float32]:
        """Record what looks different; return mean differences (m,) of images of the same shape but other bytes."""
        ids_m, theirs_mP = self.decoded(hash_N16)
        ours_m2, theirs_m2 = self._scored_side_N2[ids_m], self.side_N2[ids_m]
        same_m = is_scaled(ours_m2, theirs_m2)
        self._record("another shape", ids_m[~same_m], _sides(ours_m2[~same_m]), _sides(theirs_m2[~same_m]))
        unlike_m = ids_m[same_m]
        difference_m = mean_difference(thumbnails(unlike_m), theirs_mP[same_m])
        other_m = difference_m > tolerance
        levels = [f"{value:.1f} grey levels away" for value in difference_m[other_m].tolist()]
        self._record("other pixels", unlike_m[other_m], theirs=levels)
        return difference_m

    def content(self) -> str:
        """Return a digest of the content hashes of all that was found and does not differ, in sample order."""
        return hashlib.sha256(self.their_hashes(self._left()[1]).tobytes()).hexdigest()[:16]

    def table(self, extra_m: Ids) -> pa.Table:
        """Return all that was recorded, and what is extra, as LIST_SCHEMA."""
        keys = self.theirs.keys.take(pa.array(extra_m))
        return pa.concat_tables([*self._tables, _list(keys, EXTRA, None, None, keys)])

    def _left(self) -> tuple[Ids, Ids]:
        """Return the samples without a difference so far, and their rows."""
        ids_n = np.flatnonzero(self._found_N & (self.what_N < 0))
        return ids_n, self._row_N[ids_n]

    def _record(self, kind: str, ids_n: Ids, ours: Any = None, theirs: Any = None) -> None:
        self.what_N[ids_n] = KINDS.index(kind)
        row_n = self._row_N[ids_n]
        their_keys = None if kind == "missing" else self.theirs.keys.take(pa.array(row_n))
        self._tables.append(_list(self.ours.keys.take(pa.array(ids_n)), kind, ours, theirs, their_keys))


def is_scaled(side_n2: Ids, other_n2: Ids) -> Mask:
    """Return (n,) whether images (width, height) are others scaled, up to about a pixel of the smaller of them.

    Sides of 0, as in a hidden manifest, are unknown: they pass.
    """
    across_n = np.abs(side_n2[:, 0] * other_n2[:, 1] - side_n2[:, 1] * other_n2[:, 0])
    return np.asarray(across_n <= np.concatenate((side_n2, other_n2), axis=1).max(axis=1), np.bool_)


def _sides(side_n2: Ids) -> list[str]:
    return [f"{width}x{height}" for width, height in side_n2.tolist()]


def _pairs(label_n: Ids, size_n: Ids) -> Ids:
    """Return (n,) numbers that are equal where labels and sizes are."""
    return ((label_n + 1) << _SIZE_BITS) + size_n


def _list(keys: pa.Array, kind: str, ours: Any, theirs: Any, their_keys: pa.Array | None) -> pa.Table:
    """Return rows of LIST_SCHEMA, with an empty text for None."""

    def text(values: Any) -> pa.Array:
        if values is None:
            return pa.repeat("", len(keys))
        return values if isinstance(values, pa.Array) else pa.array(np.asarray(values)).cast(pa.string())

    columns = [keys, pa.repeat(kind, len(keys)), text(ours), text(theirs), text(their_keys)]
    return pa.Table.from_arrays(columns, schema=LIST_SCHEMA)


def _hex(hash_n16: NDArray[np.uint8]) -> list[str]:
    return [row.tobytes().hex() for row in hash_n16]
