"""Excerpts: a part of a manifest as a separate manifest, which `prune push --only` sends."""

from collections.abc import Collection
from pathlib import Path

from manifests.base.files import link_or_copy
from manifests.base.layout import BETON_NAME
from manifests.format.child_header import Making, child_header
from manifests.manifest import Manifest, commit
from manifests.share.transfer import check_table_kinds, kind_of


def excerpt(source: Manifest, only: Collection[str], folder: Path) -> Manifest:
    """Write a manifest of samples, selection and the kinds of tables in `only` into `folder`.

    It names the source as its parent and the missing kinds in `left_out`. It has no beton, because that of a selection
    holds targets. Raises UsageError for a kind of table that the source lacks.
    """
    kinds = check_table_kinds(source, only)
    header = source.header
    left_out = {kind_of(entry) for entry in header.files} - kinds - {BETON_NAME} | set(header.left_out or ())
    entries = [entry for entry in header.files if kind_of(entry) in kinds]
    for entry in entries:
        with source.store.open(entry.path):
            link_or_copy(source.folder / entry.path, folder / entry.path)
    header = child_header(Making.SENT, header, files=entries, parents=[source.id], left_out=sorted(left_out))
    return commit(folder, header)
