"""Rows by sample_id: against the same rows picked from the whole table, and damaged tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_manifests import make, some_logits

from manifests.errors import InputError
from manifests.format.parts import part_path, read_part, write_part
from manifests.manifest import Manifest, commit, part_entries
from manifests.tables.rows import Share, SharedTable, TableRows, hash_matrix, places, row_bits

COUNT = 17_000


@pytest.fixture(scope="module")
def three_parts(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three parts, of which every seventh sample is unreadable."""
    keys = [f"{row:08d}" for row in range(COUNT)]
    logits = np.arange(COUNT)[None, :, None] % [[[211, 191, 97]]]
    return make(tmp_path_factory.mktemp("three"), keys, [0] * COUNT, logits, unreadable=set(keys[::7]))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, COUNT - 1), max_size=40), st.integers(0, COUNT), st.integers(0, 9000))
def test_rows_are_those_of_the_whole_table(three_parts: Manifest, ids: set[int], start: int, length: int) -> None:
    wanted = np.array(sorted(ids | set(range(start, min(start + length, COUNT)))), np.int64)
    rows = TableRows(three_parts, "logits/view-000").take(wanted)
    there = wanted[wanted % 7 != 0]
    assert rows.column("sample_id").to_pylist() == there.tolist()
    logits = rows.column("logits").combine_chunks().flatten().to_numpy().reshape(-1, 3)
    assert np.array_equal(logits, there[:, None] % [211, 191, 97])


def test_only_the_columns_asked_for_are_read(three_parts: Manifest) -> None:
    assert TableRows(three_parts, "scores/teacher", ["loss"]).take(np.array([1])).column_names == ["sample_id", "loss"]


def test_a_shared_table_takes_each_row_from_the_first_that_has_it(tmp_path: Path) -> None:
    """a has rows 0 1 2 of the result, b rows 1 2 3: its own 1 and 2 do not count."""
    a = make(tmp_path / "a", ["p", "q", "r"], [0, 0, 0], [[[1, 0, 0], [2, 0, 0], [3, 0, 0]]])
    b = make(tmp_path / "b", ["q", "r", "s"], [0, 0, 0], [[[2, 0, 0], [9, 0, 0], [4, 0, 0]]])
    shares = [
        Share(manifest=a, old_n=np.arange(3), new_n=np.arange(3)),
        Share(manifest=b, old_n=np.arange(3), new_n=np.arange(1, 4)),
    ]
    table = SharedTable(shares, "logits/view-000", 4).part(0)
    assert table.column("sample_id").to_pylist() == [0, 1, 2, 3]
    assert [row[0] for row in table.column("logits").to_pylist()] == [1, 2, 3, 4]
    reverse = SharedTable(shares[::-1], "logits/view-000", 4).part(0)
    assert [row[0] for row in reverse.column("logits").to_pylist()] == [1, 2, 9, 4]
    shared_N = np.array([False, True, True, False])
    assert SharedTable(shares, "logits/view-000", 4).differing(0, shared_N).tolist() == [2]
    assert SharedTable(shares, "logits/view-000", 4).differing(0, np.array([False, True, False, False])).tolist() == []


def test_a_share_that_keeps_every_row_in_place_is_whole(tmp_path: Path) -> None:
    a = make(tmp_path / "a", ["p", "q", "r"], [0, 0, 0])
    assert Share(manifest=a, old_n=np.arange(3), new_n=np.arange(3)).is_whole(3)
    assert not Share(manifest=a, old_n=np.arange(3), new_n=np.arange(1, 4)).is_whole(4)
    assert not Share(manifest=a, old_n=np.arange(2), new_n=np.arange(2)).is_whole(3)


@pytest.mark.parametrize("ids", [[0, 2, 1], [0, 1, 1], [0, 1, 9000]])
def test_a_part_out_of_order_is_refused(tmp_path: Path, ids: list[int]) -> None:
    manifest = make(tmp_path / "a", ["p", "q", "r"], [0, 0, 0], some_logits(0, 1, 3, 3))
    path = tmp_path / "a" / part_path("scores/teacher", 0)
    table = read_part(path)
    write_part(path, table.set_column(0, table.schema.field(0), pa.array(ids)), "d")
    files = [*part_entries(tmp_path / "a", ["samples", "scores/teacher"], 3)]
    altered = commit(tmp_path / "a", manifest.header.model_copy(update={"files": files}))
    with pytest.raises(InputError, match="sample_ids"):
        TableRows(altered, "scores/teacher").take(np.arange(3))


def test_a_part_that_the_header_does_not_name_is_missing(tmp_path: Path) -> None:
    manifest = make(tmp_path / "a", ["p"], [0], some_logits(0, 1, 1, 3))
    with pytest.raises(InputError, match=r"a has no logits/view-000/part-00001\.parquet"):
        TableRows(manifest, "logits/view-000").take(np.array([8192]))


def test_bits_are_equal_where_values_are_and_differ_in_the_last_of_them() -> None:
    rows = pa.table({"sample_id": [0, 1, 2], "a": pa.array([1.0, 1.0, np.nan], pa.float32()), "b": [True, True, False]})
    bits = row_bits(rows)
    assert bits.shape == (3, 5)
    assert np.array_equal(bits[0], bits[1])
    assert np.array_equal(bits, row_bits(rows))
    other = row_bits(rows.set_column(1, "a", pa.array([1.0, np.nextafter(np.float32(1), 2), np.nan], pa.float32())))
    assert (bits != other).any(axis=1).tolist() == [False, True, False]
    with pytest.raises(InputError, match="column a"):
        row_bits(pa.table({"sample_id": [0], "a": ["text"]}))
    with pytest.raises(InputError, match="column a"):
        row_bits(pa.table({"sample_id": [0], "a": pa.array([None], pa.float32())}))


def test_places_and_hashes_of_chunked_columns() -> None:
    wanted = pa.chunked_array([["b"], ["x", "c"]])
    assert places(wanted, pa.chunked_array([["a", "b"], ["c"]])).tolist() == [1, -1, 2]
    assert places(pa.array(["c", None]), pa.array([None, "c"])).tolist() == [1, -1]
    hashes = pa.chunked_array([pa.array([b"ab"], pa.binary(2)), pa.array([b"cd", b"ef"], pa.binary(2))])
    assert hash_matrix(hashes[1:]).tolist() == [[99, 100], [101, 102]]
