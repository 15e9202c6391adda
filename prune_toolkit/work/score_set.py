"""Write sets of scores: as a table of an unfinished manifest, or added to a finished one."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
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

Scores = tuple[NDArray[np.int64], Sequence[tuple[ScoreSpec, NDArray[np.float32]]]]
"""sample_id (n,) of ascending samples, and scores (n,) of one set."""


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
    parent: Manifest, out: Path, scores: Callable[[], Scores], *, config: Mapping[str, Any], facts: Mapping[str, Any]
) -> Manifest:
    """Write a manifest with everything of its parent and one more set of scores; `facts` go into its run block."""
    old, known = parent.header, cache(scores)

    def finish(_parts: Totals, start: float) -> Outcome:
        ids, values = known()
        table, columns = f"scores/{values[0][0].set}", {spec.name: value_n for spec, value_n in values}
        write_score_set(out, table, ids, columns, count=old.data.count, digest=config_digest(config))
        seconds = round(time.monotonic() - start, 3)
        run = {"command": config["command"], "seconds": seconds, **facts, "parent_run": old.run}
        specs = [*old.scores, *(spec for spec, _ in values)]
        return Outcome({"kind": "scores", "scores": specs, "run": run}, local_with_beton(parent), tables=[table])

    return PartWork(
        out=out,
        config=config,
        count=old.data.count,
        before=known,
        finish=finish,
        making=Making.EXTENDED,
        parents=[parent],
        linked=dict.fromkeys(tables_of(old), parent),
    ).run_alone()
