"""Hide a manifest: replace keys and hashes by HMACs, for `prune push --secret`.

The samples are in the order of the hidden keys: in the order of the images, classes and positions alone would reveal
the listing. So every table is rewritten, in two passes, with a few parts in memory.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.progress import Progress
from manifests.errors import UsageError
from manifests.format.child_header import Making, child_header
from manifests.format.columns import columns_of
from manifests.format.header import Block, Header, Views
from manifests.format.last_layer import LAST_LAYER
from manifests.format.parts import SAMPLES_SCHEMA, config_digest, part_count, part_path, part_rows, write_part
from manifests.hidden.secret import hidden_block, hide_hashes, hide_ids, hide_keys, hide_text, hide_view_ids
from manifests.images.identity import fingerprint
from manifests.manifest import Manifest, commit, file_entry, part_entries
from manifests.tables.rows import ScatteredRows, hash_column, hash_matrix

OPEN = frozenset({
    "average", "batch_size", "beton", "check", "chosen_by", "classes", "codec", "command", "compute",
    "distill_by", "distill_fraction", "dynamics_seconds", "early_epoch", "epochs", "eta", "features", "grand_epochs",
    "images", "images_per_second", "keep", "kind", "labels", "left_out", "licence", "loss", "max_side", "missing",
    "name",
    "output_groups", "output_key", "output_map", "parameters", "per_class_min", "policy", "preprocessing", "preset",
    "probabilities", "quota", "redistributable", "rest", "revise_scope", "score", "score_views", "scores",
    "seconds", "seed", "selector", "set", "split", "student", "teacher", "teacher_licence", "thumbnails", "top_k",
    "training_seconds", "views", "views_top1", "wall",
})  # fmt: skip
"""Fields of `config` and `run` that are kept; ids in them are hidden."""
SEALED = frozenset({
    "content", "data", "file_sha256", "held_out", "index", "listing", "manifest", "parent", "parents", "prefer",
    "prefixes", "run", "val", "weights_sha256", "whole", "without", "without_suspects",
})  # fmt: skip
"""Fields that are replaced by an HMAC, so that equal values can be recognised."""
NESTED = frozenset({"copy", "dynamics", "parent_run", "parent_runs"})
"""Fields that contain such fields, or lists of them."""
RECIPE = ("pad_px", "scale_min", "scale_max", "ratio_min", "ratio_max", "flip")
"""Parameters of views, besides the fields that all recipes have."""
NEVER = ("samples", "thumbnails")
"""Tables that are not copied: samples are rewritten, thumbnails show the images."""


def hide(source: Manifest, secret: bytes, folder: Path) -> Manifest:
    """Write a manifest into `folder` in which no name or file can be looked up without the secret.

    Keys, content hashes, view_ids and ids are hidden (manifests/hidden/secret.py), sizes are 0, thumbnails and betons
    left out. The same source and secret give the same bytes. Raises UsageError if the manifest is already hidden.
    """
    if source.header.hidden is not None:
        raise UsageError(f"{source.where} is already hidden", hint="push it without --secret")
    samples = source.samples()
    keys = hide_keys(secret, samples.column("key"))
    order_N = np.argsort(np.array(keys.to_pylist(), "S64"), kind="stable")
    new_id_N = np.empty(len(order_N), np.int64)
    new_id_N[order_N] = np.arange(len(order_N))
    hidden = _hidden_samples(secret, samples, keys).take(pa.array(order_N))
    hidden = hidden.set_column(0, SAMPLES_SCHEMA.field("sample_id"), pa.array(np.arange(len(order_N))))
    digest, count = config_digest({"hidden": hidden_block(secret).check}), len(samples)
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        write_part(folder / part_path("samples", part), hidden.slice(rows.start, len(rows)), digest)
    tables = sorted({entry.table for entry in source.header.files if entry.table and entry.kind not in NEVER})
    with Progress(len(tables) * part_count(count), "hiding", "parts") as progress:
        for table in tables:
            _reorder(source, table, new_id_N, folder, digest, progress)
    return commit(folder, _header(source, secret, hidden, folder, tables))


def _hidden_samples(secret: bytes, samples: pa.Table, keys: pa.Array) -> pa.Table:
    """Return the hidden rows of `samples`, in their original order."""
    view_ids = samples.column("view_id").to_numpy()
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    nothing_N = np.zeros(len(samples), np.int64)
    columns = {
        "sample_id": samples.column("sample_id"),
        "key": keys,
        "label": samples.column("label"),
        "size_bytes": pa.array(nothing_N),
        "content_hash": hash_column(hide_hashes(secret, hash_matrix(samples.column("content_hash")))),
        "view_id": pa.array(hide_view_ids(secret, keys, view_ids)),
        "width": pa.array(nothing_N.astype(np.int32)),
        "height": pa.array(nothing_N.astype(np.int32)),
        # A description of a problem may contain the name of the file.
        "problem": pc.if_else(pa.array(readable_N), pa.scalar(None, pa.string()), "unreadable"),
    }
    return pa.table(columns, schema=SAMPLES_SCHEMA)


def _reorder(
    source: Manifest, table: str, new_id_N: NDArray[np.int64], folder: Path, digest: str, progress: Progress
) -> None:
    if table == LAST_LAYER:
        for entry in source.files(table):
            write_part(folder / entry.path, source.part(entry).select(["weight", "bias"]), digest)
        return
    with TemporaryDirectory(dir=folder, prefix=".scattered-") as scratch:
        # Columns that a later version added might identify samples.
        known = {column.name for column in columns_of(table, source.header)}
        whole = (source.part(entry) for entry in source.files(table))
        parts = (rows.select([name for name in rows.column_names if name in known]) for rows in whole)
        scattered = ScatteredRows(parts, new_id_N, len(new_id_N), Path(scratch), source.where)
        for part in range(part_count(len(new_id_N))):
            write_part(folder / part_path(table, part), scattered.part(part), digest)
            progress.advance(1)


def _header(source: Manifest, secret: bytes, hidden: pa.Table, folder: Path, tables: list[str]) -> Header:
    header = hide_header(secret, source.header)
    names = np.array(header.data.fingerprint_names, object)[hidden.column("label").to_numpy()]
    keys, hashes = hidden.column("key").to_pylist(), hidden.column("content_hash").to_pylist()
    return child_header(
        Making.SENT,
        header,
        data=header.data.model_copy(update={"fingerprint": fingerprint(keys, names, hashes), "read_as": None}),
        parents=[hide_text(secret, source.id)],
        thumbnails=None,
        hidden=hidden_block(secret),
        files=[
            *part_entries(folder, ["samples", *(table for table in tables if table != LAST_LAYER)], header.data.count),
            *(file_entry(folder, entry.path, entry.rows) for entry in source.files(LAST_LAYER) if LAST_LAYER in tables),
        ],
    )


def hide_header(secret: bytes, header: Header) -> Header:
    """Return the header without unknown fields, with `config` and `run` filtered as above, ids in `selection` hidden.

    Fields that depend on the tables (`files`, `parents`, the fingerprint) are unchanged.
    """
    known = cast(Header, _known(header))
    changes: dict[str, Any] = {"config": _allowed(secret, header.config), "run": _allowed(secret, header.run)}
    for name in ("selection", "labels"):
        if (block := getattr(known, name)) is not None:
            changes[name] = block.model_copy(update={"parameters": hide_ids(secret, block.parameters)})
    if known.selection is not None and known.selection.without is not None:
        without = {"without": hide_text(secret, known.selection.without)}
        changes["selection"] = changes["selection"].model_copy(update=without)
    return known.model_copy(update=changes)


def _known(value: Any) -> Any:
    """Return a block of the header, including nested blocks, without fields added by a later minor version."""
    if isinstance(value, list):
        return [_known(each) for each in value]
    if not isinstance(value, Block):
        return value
    names = list(type(value).model_fields)
    if isinstance(value, Views):
        names += [name for name in value.model_extra or () if name in RECIPE]
    return type(value).model_construct(**{name: _known(getattr(value, name)) for name in names})


def _allowed(secret: bytes, value: Any) -> Any:
    if isinstance(value, list):
        return [_allowed(secret, each) for each in value]
    if not isinstance(value, dict):
        return None
    found = {}
    for name, content in value.items():
        if name in NESTED:
            found[name] = _allowed(secret, content)
        elif name in SEALED:
            found[name] = _sealed(secret, content)
        elif name in OPEN:
            found[name] = hide_ids(secret, content)
    return found


def _sealed(secret: bytes, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return sorted((_sealed(secret, each) for each in value), key=str)
    return hide_text(secret, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
