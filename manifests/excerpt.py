"""A part of a manifest as a manifest of its own: what `prune push --only` sends."""

from collections.abc import Collection
from pathlib import Path

from manifests.files import link_or_copy
from manifests.header import Header
from manifests.manifest import BETON_NAME, Manifest, commit
from manifests.transfer import check_kinds, kind_of


def excerpt(source: Manifest, only: Collection[str], folder: Path) -> Manifest:
    """Write a manifest of samples, selection and the kinds of tables in `only` into `folder`.

    It names the source as its parent and in `left_out` what it lacks. Without beton: that of a selection holds targets.
    UsageError for a kind of table that the source has not.
    """
    kinds = check_kinds(source, only)
    header = source.header
    left_out = {kind_of(entry) for entry in header.files} - kinds - {BETON_NAME} | set(header.left_out or ())
    entries = [entry for entry in header.files if kind_of(entry) in kinds]
    for entry in entries:
        with source.store.open(entry.path):
            link_or_copy(source.folder / entry.path, folder / entry.path)
    changes = {
        "schema_version": at_least_1_3(header),
        "files": entries,
        "parents": [source.id],
        "left_out": sorted(left_out),
        "scores": header.scores if "scores" in kinds else [],
    }
    return commit(folder, header.model_copy(update=changes))


def at_least_1_3(header: Header) -> str:
    """The version of a header that is made from this one with a field of version 1.3."""
    major, minor = header.schema_version.split(".")
    return f"{major}.{max(int(minor), 3)}"
