"""Rows in any order, against numpy's own indexing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests.errors import InputError
from manifests.format.parts import part_count, part_rows, vectors_table
from manifests.tables.rows import ScatteredRows, with_ids

COUNT = 20_000


def test_every_row_comes_to_lie_where_it_belongs(tmp_path: Path) -> None:
    """A random order of three parts, of which a tenth of the rows is left out and a tenth is not there."""
    rng = np.random.default_rng(0)
    values_NC = rng.normal(size=(COUNT, 3)).astype(np.float16)
    new_N = rng.permutation(COUNT)
    new_N[rng.random(COUNT) < 0.1] = -1
    there_N = rng.random(COUNT) < 0.9
    parts = []
    for number in range(part_count(COUNT)):
        span = part_rows(number, COUNT)
        ids = np.array(span)[there_N[span.start : span.stop]]
        parts.append(vectors_table(ids, "logits", values_NC[ids]))
    scattered = ScatteredRows(iter(parts), new_N, COUNT, tmp_path, "here")
    old = np.flatnonzero(there_N & (new_N >= 0))
    old = old[np.argsort(new_N[old])]
    found = pa.concat_tables([scattered.part(number) for number in range(part_count(COUNT))])
    assert np.array_equal(found.column("sample_id").to_numpy(), new_N[old])
    logits = found.column("logits").combine_chunks().flatten().to_numpy().reshape(-1, 3)
    assert np.array_equal(logits, values_NC[old])
    span = part_rows(1, COUNT)
    ids = scattered.part(1).column("sample_id").to_numpy()
    assert (ids >= span.start).all()
    assert (ids < span.stop).all()


def test_parts_with_other_columns_are_refused(tmp_path: Path) -> None:
    one = vectors_table(np.array([0]), "logits", np.zeros((1, 2), np.float16))
    other = with_ids(vectors_table(np.array([0]), "logits", np.zeros((1, 3), np.float16)), np.array([1]))
    with pytest.raises(InputError, match="here: the columns of a table are not the same everywhere"):
        ScatteredRows([one, other], np.array([1, 0]), 2, tmp_path, "here").part(0)
