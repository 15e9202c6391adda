"""Write sets of scores: as a table of an unfinished manifest, or added to a finished one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.format.child_header import Making
from manifests.format.columns import tables_of
from manifests.format.header import ScoreSpec
from manifests.format.parts import config_digest, part_count, part_path, part_rows, write_part
from manifests.manifest import Manifest
from prune_toolkit.work.part_work import Outcome, PartWork, Totals, local_with_beton


def write_score_set(
    out: Path,
    table: str,
    sample_id_n: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.float32]],
    *,
    count: int,
    digest: str,
) -> None:
    """Write the scores (n,) of samples with ascending sample_ids, out of `count` in all, part by part."""
    for part in range(part_count(count)):
        rows = part_rows(part, count)
        within = slice(*np.searchsorted(sample_id_n, [rows.start, rows.stop]).tolist())
        content = {"sample_id": sample_id_n[within], **{name: values[within] for name, values in columns.items()}}
        write_part(out / part_path(table, part), pa.table(content), digest)


def add_score_set(
    parent: Manifest,
    out: Path,
    sample_id_n: NDArray[np.int64],
    scores: Sequence[tuple[ScoreSpec, NDArray[np.float32]]],
    *,
    config: Mapping[str, Any],
    start: float,
    facts: Mapping[str, Any],
) -> Manifest:
    """Write a manifest with everything of its parent and one more set of scores; `facts` go into its run block."""
    old, table = parent.header, f"scores/{scores[0][0].set}"

    def finish(_parts: Totals, _start: float) -> Outcome:
        columns = {spec.name: values for spec, values in scores}
        write_score_set(out, table, sample_id_n, columns, count=old.data.count, digest=config_digest(config))
        seconds = round(time.monotonic() - start, 3)
        run = {"command": config["command"], "seconds": seconds, **facts, "parent_run": old.run}
        specs = [*old.scores, *(spec for spec, _ in scores)]
        return Outcome({"kind": "scores", "scores": specs, "run": run}, local_with_beton(parent), tables=[table])

    return PartWork(
        out=out,
        config=config,
        count=old.data.count,
        finish=finish,
        making=Making.EXTENDED,
        parents=[parent],
        linked=dict.fromkeys(tables_of(old), parent),
    ).run_alone()
