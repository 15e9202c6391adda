"""One more set of scores beside all that a manifest holds: its tables are linked, one is written."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.format.columns import tables_of
from manifests.format.header import FileEntry
from manifests.format.parts import part_count, part_path, part_rows, write_part
from manifests.manifest import Manifest, part_entries


def add_score_set(
    parent: Manifest,
    out: Path,
    table: str,
    sample_id_n: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.float32]],
    digest: str,
) -> list[FileEntry]:
    """Link the parent's tables into `out`, write the scores (n,) of ascending samples as `table`; returns all parts."""
    out.mkdir(parents=True, exist_ok=True)
    tables, count = tables_of(parent.header), parent.header.data.count
    for linked in tables:
        parent.link_table(linked, out)
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        within = slice(*np.searchsorted(sample_id_n, [rows.start, rows.stop]).tolist())
        content = {"sample_id": sample_id_n[within], **{name: values[within] for name, values in columns.items()}}
        write_part(out / part_path(table, part), pa.table(content), digest)
    return part_entries(out, [*tables, table], count)
