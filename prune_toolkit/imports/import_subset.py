"""`prune import FILE --indices`: make a selection of a published subset, with a beton and raw targets."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.base.files import sha256_file
from manifests.base.progress import note
from manifests.errors import InputError, MismatchError, UsageError
from manifests.manifest import Manifest
from prune_toolkit.imports.match_keys import matched_rows
from prune_toolkit.imports.row_order import sample_of_row
from prune_toolkit.imports.subset_files import read_indices
from prune_toolkit.quotas.keep import Keep
from prune_toolkit.selection.choose_samples import SelectionPlan
from prune_toolkit.selection.pool import KEPT, NOT_CHOSEN, REASONS, UNREADABLE
from prune_toolkit.selection.select_config import SelectConfig


def plan_subset(
    file: Path,
    config: SelectConfig,
    parent: Manifest,
    *,
    dropped: bool = False,
    key: str | None = None,
    order: str | None = None,
    listing: Path | None = None,
) -> tuple[SelectConfig, SelectionPlan]:
    """Plan to keep the samples that a file names, by rows of the data set in `order` or by keys.

    dropped: the file names those that are not kept. key: the column of a .csv file. Returns also the configuration with
    that fraction. Raises MismatchError for a row beyond the data set, for keys that match nothing, for a file that
    names nothing, and if no readable sample is left.
    """
    if not file.is_file():
        raise InputError(f"cannot read {file}: no such file")
    if parent.kind == "selection":
        raise UsageError(f"{parent.where} is a selection", hint="name the index or scored manifest of the data set")
    config.check_out(parent)
    samples = parent.samples()
    readable_N = samples.column("problem").is_null().to_numpy(zero_copy_only=False)
    named = read_indices(file, key)
    if isinstance(named, np.ndarray):
        rows = _rows(named, file, parent, samples, order)
    else:
        keys = samples.column("key")
        # A key may begin or end with a space; elsewhere such a space is a typing error.
        is_key = pc.is_in(named, value_set=keys.combine_chunks())
        named = pc.if_else(is_key, named, pc.utf8_trim(named, characters=" \t"))
        row_F = matched_rows(pa.chunked_array([named]), parent, keys, file.name, listing)
        rows = row_F[row_F >= 0]
    named_N = np.zeros(len(samples), np.bool_)
    named_N[rows] = True
    if dropped and not len(rows):
        raise MismatchError(f"{file} names no sample to drop")
    if (twice := len(rows) - int(named_N.sum())) > 0:
        note(f"{file.name} names {twice:,} samples more than once: each counts once")
    keep_N = readable_N & (named_N != dropped)
    if not dropped and (broken := int((named_N & ~readable_N).sum())) > 0:
        note(f"{broken:,} of the samples that {file.name} names cannot be read: they are left out")
    if not keep_N.any():
        what = "drops every readable sample" if dropped else "names no readable sample"
        raise MismatchError(f"{file} {what} of {parent.where}")
    code_N = np.where(readable_N, np.where(keep_N, KEPT, NOT_CHOSEN), UNREADABLE).astype(np.int8)
    share = Fraction(int(keep_N.sum()), int(readable_N.sum()))
    config = replace(config, keep=Keep(str(share), share), selector="random")
    decisions = replace(
        config.decide(parent),
        command="import",
        selector="imported",
        parameters={**({} if order is None else {"order": order}), **({"file": "dropped"} if dropped else {})},
        score=None,
        quota="none",
        file_sha256=sha256_file(file),
    )
    plan = SelectionPlan(
        parent=parent,
        decisions=decisions,
        keep=config.keep,
        resolved=config.resolved(parent, decisions),
        max_side=decisions.max_side,
        targets=decisions.targets,
        samples=samples,
        pool_N=readable_N,
        keep_N=keep_N,
        reason_N=np.array(REASONS, object)[code_N],
        distilled_N=np.ones(len(samples), np.bool_),
    )
    return config, plan


def _rows(
    named: NDArray[np.int64] | NDArray[np.bool_], file: Path, parent: Manifest, samples: pa.Table, order: str | None
) -> NDArray[np.int64]:
    """Return the sample_ids of row numbers, or of flags of all rows, that count in the order of the published file."""
    count = len(samples)
    is_mask = named.dtype == np.bool_
    if is_mask and len(named) != count:
        raise MismatchError(
            f"{file} has {len(named):,} flags, {parent.where} has {count:,} samples",
            hint="name the manifest of the data set and split that the file was made for",
        )
    index_n = np.flatnonzero(named) if is_mask else named.astype(np.int64)
    wrong = index_n[(index_n < 0) | (index_n >= count)]
    if len(wrong):
        raise MismatchError(
            f"{file} names row {wrong[0]}, {parent.where} has {count:,} samples, counted from 0 "
            f"({len(wrong):,} such rows)",
            hint="name the manifest of the data set and split that the file was made for",
        )
    return sample_of_row(parent, samples, order)[index_n]
