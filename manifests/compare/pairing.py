"""Pairs of equal samples in two manifests: by key, or by content if no key is in common or keys are row numbers.

For a hidden manifest and an open one, the keys and hashes of the open one are hidden first, if the secret is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.errors import UsageError
from manifests.hidden.secret import check_secret, hide_hashes, hide_keys
from manifests.manifest import Manifest
from manifests.tables.rows import (
    Ids,
    TableRows,
    hash_column,
    hash_matrix,
    places,
    places_in_order,
    unique_in_both,
)

JoinedBy = Literal["key", "content hash", "content hash, then row number"]


@dataclass(frozen=True, eq=False)
class Side:
    """A manifest with its samples in memory."""

    manifest: Manifest
    samples: pa.Table
    """key, label and content_hash, one row per sample_id, as far as they are still needed."""
    secret: bytes | None = None
    """Secret with which its keys and hashes are hidden before they are compared."""

    @classmethod
    def of(cls, manifest: Manifest, secret: bytes | None = None) -> "Side":
        """Read the samples. Raises InputError if they cannot be read."""
        return cls(manifest, manifest.samples(["key", "label", "content_hash"]), secret)

    @cached_property
    def compared_keys(self) -> pa.Array | pa.ChunkedArray:
        """(N,) keys by which its samples are found in the other manifest."""
        keys = self.samples.column("key")
        return keys if self.secret is None else hide_keys(self.secret, keys)

    @cached_property
    def label_N(self) -> NDArray[np.int64]:
        """(N,) class of every sample."""
        return np.asarray(self.samples.column("label").to_numpy(), np.int64)

    @cached_property
    def hash_N16(self) -> NDArray[np.uint8]:
        """(N, 16) content hashes, as they are compared."""
        hash_N16 = hash_matrix(self.samples.column("content_hash"))
        return hash_N16 if self.secret is None else hide_hashes(self.secret, hash_N16)

    def __len__(self) -> int:
        return len(self.samples)

    def without(self, column: str) -> "Side":
        """Return this side without a column that is no longer needed: keys and hashes take most of the memory."""
        return replace(self, samples=self.samples.drop_columns([column]))

    def keys(self, id_n: Ids) -> list[str]:
        """Return the keys of some samples, strictly ascending, as the manifest has them; they are read again."""
        rows = TableRows(self.manifest, "samples", ["key"])
        return list(rows.take(id_n).column("key").to_pylist()) if len(id_n) else []


@dataclass(frozen=True, eq=False)
class Pairs:
    """Samples that two manifests have in common."""

    by: JoinedBy
    a_n: Ids
    """sample_ids in the first manifest, ascending."""
    b_n: Ids
    """sample_ids of the same samples in the second."""


def sides(a: Manifest, b: Manifest, secret: bytes | None = None) -> tuple[Side, Side]:
    """Return both with their samples; a secret is that of the hidden ones, and hides the other.

    Raises UsageError for a secret if neither is hidden, MismatchError for a wrong one.
    """
    hidden = [manifest for manifest in (a, b) if manifest.header.hidden is not None]
    if secret is not None and not hidden:
        raise UsageError("neither manifest is hidden", hint="leave out --secret")
    if secret is not None:
        for manifest in hidden:
            check_secret(manifest.header, secret, manifest.where)
    one, other = (Side.of(manifest, None if manifest in hidden else secret) for manifest in (a, b))
    return one, other


def pair_samples(a: Side, b: Side) -> Pairs:
    """Pair the common samples by key; if there are none, those whose content hash occurs once in each.

    If the keys of a side are row numbers, which are positions and not names, it is the other way round: by content,
    and the rest of both sides by key.
    """
    # Hidden here, keys are no longer in order.
    place = places_in_order if a.secret is None and b.secret is None else places
    place_N = place(a.compared_keys, b.compared_keys)
    a_n = np.flatnonzero(place_N >= 0)
    if {side.manifest.header.data.source for side in (a, b)} == {"folder"}:
        if len(a_n):
            return Pairs("key", a_n, place_N[a_n])
        return Pairs("content hash", *_once_in_each(a, b))
    found_n, in_b_n = _once_in_each(a, b)
    left_N, left_M = np.ones(len(a), np.bool_), np.ones(len(b), np.bool_)
    left_N[found_n] = left_M[in_b_n] = False
    rest_n = a_n[left_N[a_n] & left_M[place_N[a_n]]]
    b_N = np.full(len(a), -1)
    b_N[found_n], b_N[rest_n] = in_b_n, place_N[rest_n]
    paired_n = np.flatnonzero(b_N >= 0)
    in_place = np.array_equal(b_N[paired_n], place_N[paired_n])
    return Pairs("key" if in_place else "content hash, then row number", paired_n, b_N[paired_n])


def _once_in_each(a: Side, b: Side) -> tuple[Ids, Ids]:
    """Return the rows of equal hashes that occur once in each; zeros, of unreadable images, do not count."""
    rows_a, rows_b = (np.flatnonzero(side.hash_N16.any(axis=1)) for side in (a, b))
    in_a, in_b, _ = unique_in_both(hash_column(a.hash_N16[rows_a]), hash_column(b.hash_N16[rows_b]))
    return rows_a[in_a], rows_b[in_b]


def labels_in(ours: Sequence[str], theirs: Sequence[str]) -> NDArray[np.int64]:
    """Return (C,) their label of each of our classes by name; -1 if they do not have it."""
    if list(ours) == list(theirs):
        return np.arange(len(ours))
    label = {name: number for number, name in reversed(list(enumerate(theirs)))}
    return np.array([label.get(name, -1) for name in ours], np.int64)
