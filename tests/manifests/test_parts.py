import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.format.parts import (
    PART_ROWS,
    SAMPLES_SCHEMA,
    SELECTION_SCHEMA,
    config_digest,
    part_count,
    part_is_valid,
    part_path,
    part_rows,
    read_part,
    soft_labels_of,
    soft_labels_table,
    vectors_of,
    vectors_table,
    write_part,
)
from manifests.format.soft_labels import FullLogits
from manifests.format.top_k import TopK, top_k

EXTREMES = np.array([0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-24), 2.0**-14, 1 / 3, np.inf, np.nan], np.float16)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def samples(rows: int = 5, problem: str | None = None) -> pa.Table:
    hashes = [hashlib.sha256(str(row).encode()).digest()[:16] for row in range(rows)]
    return pa.table(
        {
            "sample_id": range(rows),
            "key": [f"train/ü{row:05d}.png" for row in range(rows)],
            "label": [row % 3 for row in range(rows)],
            "size_bytes": [row * 10**10 for row in range(rows)],
            "content_hash": hashes,
            "view_id": [int.from_bytes(h[:8], "little") for h in hashes],
            "width": [32] * rows,
            "height": [48] * rows,
            "problem": [problem if row % 2 else None for row in range(rows)],
        },
        schema=SAMPLES_SCHEMA,
    )


def selection(rows: int = 5) -> pa.Table:
    return pa.table(
        {
            "sample_id": range(rows),
            "keep": [row % 2 == 0 for row in range(rows)],
            "reason": ["kept" if row % 2 == 0 else "too hard" for row in range(rows)],
            "weight": [0.1] * rows,
            "kd_weight": [1.0] * rows,
        },
        schema=SELECTION_SCHEMA,
    )


def vectors(rows: int, width: int = len(EXTREMES)) -> pa.Table:
    values = np.resize(EXTREMES, (rows, width))
    return vectors_table(np.arange(rows) * 3, "logits", values)


TABLES = {
    "samples without a problem": samples(),
    "samples with problems": samples(problem="the file is empty"),
    "samples of a whole part": samples(PART_ROWS),
    "no samples": samples(0),
    "selection": selection(),
    "no selection": selection(0),
    "vectors": vectors(7),
    "no vectors": vectors(0),
    "scores": pa.table({"sample_id": pa.array([0, 2]), "loss": pa.array([0.1, float("nan")], pa.float32())}),
}
tables = pytest.mark.parametrize("name", TABLES)


def test_parts_cover_all_rows_once_in_order() -> None:
    assert [part_count(rows) for rows in (0, 1, 8192, 8193)] == [0, 1, 1, 2]
    rows = 2 * PART_ROWS + 5
    covered = [row for part in range(part_count(rows)) for row in part_rows(part, rows)]
    assert covered == list(range(rows))
    assert part_path("logits/view-000", 12) == "logits/view-000/part-00012.parquet"


def test_the_digest_of_a_configuration_ignores_the_order_of_its_keys() -> None:
    assert config_digest({"a": 1, "b": [None, 0.5]}) == config_digest({"b": [None, 0.5], "a": 1})
    assert config_digest({"a": 1}) != config_digest({"a": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        config_digest({"a": float("nan")})


@tables
def test_a_part_comes_back_as_it_was_and_is_valid(tmp_path: Path, name: str) -> None:
    table, path = TABLES[name], tmp_path / "deep" / "part.parquet"
    write_part(path, table, "d1")
    back = read_part(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert back.schema.equals(table.schema)
    assert repr(back.to_pylist()) == repr(table.to_pylist())
    assert part_is_valid(path, "d1")


@tables
def test_the_same_table_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    for file in ("a", "b"):
        write_part(tmp_path / file, TABLES[name], "d1")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@tables
def test_another_configuration_makes_a_part_invalid(tmp_path: Path, name: str) -> None:
    write_part(tmp_path / "part", TABLES[name], "d1")
    assert not part_is_valid(tmp_path / "part", "d2")
    assert not part_is_valid(tmp_path / "part", "")


@tables
def test_a_truncated_part_is_invalid_and_unreadable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "part"
    write_part(path, TABLES[name], "d1")
    content = path.read_bytes()
    for size in {0, 1, 4, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:size])
        assert not part_is_valid(path, "d1")
        with pytest.raises(InputError, match="not a readable Parquet file"):
            read_part(path)


def test_a_missing_part_or_a_folder_is_invalid_and_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        assert not part_is_valid(path, "d1")
        with pytest.raises(InputError, match="cannot read"):
            read_part(path)


@pytest.mark.parametrize("name", ["samples with problems", "selection", "vectors"])
@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_as_other_content(scratch: Path, name: str, place: float, bit: int) -> None:
    whole, path = scratch / name, scratch / "flipped"
    if not whole.exists():
        write_part(whole, TABLES[name], "d1")
    content = bytearray(whole.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    if part_is_valid(path, "d1"):
        assert repr(read_part(path).to_pylist()) == repr(TABLES[name].to_pylist())


def test_a_flipped_bit_of_the_values_makes_a_part_invalid(tmp_path: Path) -> None:
    path = tmp_path / "part"
    write_part(path, TABLES["vectors"], "d1")
    content = bytearray(path.read_bytes())
    position = content.index(np.resize(EXTREMES, (7, len(EXTREMES))).tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert not part_is_valid(path, "d1")


def test_a_part_that_another_program_wrote_is_not_valid(tmp_path: Path) -> None:
    pq.write_table(TABLES["selection"], tmp_path / "part")
    assert not part_is_valid(tmp_path / "part", "d1")
    assert read_part(tmp_path / "part").equals(TABLES["selection"])


NOTES = pa.table({"sample_id": [0, 1, 2], "note": ["ab", "c", None]})
ALTERATIONS = {
    "a null elsewhere": pa.table({"sample_id": [0, 1, 2], "note": [None, "ab", "c"]}),
    "a null for an empty text": pa.table({"sample_id": [0, 1, 2], "note": ["ab", "c", ""]}),
    "letters that moved on": pa.table({"sample_id": [0, 1, 2], "note": ["a", "bc", None]}),
    "another order": pa.table({"sample_id": [0, 2, 1], "note": ["ab", "c", None]}),
    "another name": pa.table({"sample_id": [0, 1, 2], "remark": ["ab", "c", None]}),
    "another type": NOTES.set_column(0, "sample_id", pa.array([0, 1, 2], pa.uint64())),
    "a column less": NOTES.select(["sample_id"]),
    "a row less": NOTES.slice(0, 2),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_other_content_under_the_digests_of_a_part_is_not_valid(tmp_path: Path, name: str) -> None:
    path = tmp_path / "part"
    write_part(path, NOTES, "d1")
    assert part_is_valid(path, "d1")
    metadata = pq.read_schema(path).metadata
    pq.write_table(ALTERATIONS[name].replace_schema_metadata(metadata), path)
    assert not part_is_valid(path, "d1")


def test_how_a_table_is_chunked_sliced_or_padded_does_not_matter(tmp_path: Path) -> None:
    whole = samples(20, problem="x")
    pieces = pa.concat_tables([whole.slice(0, 3), whole.slice(3, 0), whole.slice(3, 17)])
    longer = pa.concat_tables([samples(9), whole, samples(2)])
    under_nulls = pa.array(["secret", "x"] * 10).filter(pa.array([True] * 20))
    masked = pa.array(under_nulls.to_numpy(zero_copy_only=False), mask=np.arange(20) % 2 == 0)
    for number, table in enumerate((whole, pieces, longer.slice(9, 20), whole.set_column(8, "problem", masked))):
        path = tmp_path / str(number)
        write_part(path, table, "d1")
        assert part_is_valid(path, "d1")
        assert read_part(path).to_pylist() == whole.to_pylist()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_every_float16_comes_back_bit_for_bit(scratch: Path, bits: NDArray[np.int16]) -> None:
    path = scratch / "part"
    ids = np.arange(len(bits)) * 5
    write_part(path, vectors_table(ids, "target", bits.view(np.float16)), "d1")
    found_ids, found = vectors_of(read_part(path), "target")
    assert found.dtype == np.float16
    assert found.view(np.int16).tolist() == bits.tolist()
    assert found_ids.tolist() == ids.tolist()
    assert part_is_valid(path, "d1")


def test_no_rows_still_have_a_width(tmp_path: Path) -> None:
    write_part(tmp_path / "part", vectors(0, width=10), "d1")
    ids, values = vectors_of(read_part(tmp_path / "part"), "logits")
    assert ids.shape == (0,)
    assert values.shape == (0, 10)


def test_vectors_of_several_row_groups_and_chunks_come_back_in_order(tmp_path: Path) -> None:
    table = vectors(50, width=3)
    pq.write_table(table, tmp_path / "part", row_group_size=7)
    chunked = pa.concat_tables([table.slice(0, 11), table.slice(11, 0), table.slice(11)])
    expected_ids, expected = vectors_of(table, "logits")
    for found_ids, found in (vectors_of(read_part(tmp_path / "part"), "logits"), vectors_of(chunked, "logits")):
        assert found.tobytes() == expected.tobytes()
        assert found_ids.tolist() == expected_ids.tolist()


def labels(rows: int = 6, k: int = 3) -> TopK:
    return top_k(np.random.default_rng(0).normal(0, 3, (rows, 7)), np.arange(rows) % 7, k)


@pytest.mark.parametrize(("rows", "k"), [(6, 3), (6, 1), (0, 3)])
def test_the_largest_logits_come_back_bit_for_bit_under_their_own_columns(tmp_path: Path, rows: int, k: int) -> None:
    path = tmp_path / "part"
    write_part(path, soft_labels_table(np.arange(rows) * 3, "logits", labels(rows, k)), "d1")
    assert part_is_valid(path, "d1")
    table = read_part(path)
    assert table.column_names == ["sample_id", "class", "logit", "tail", "label_logit", "mean", "std"]
    assert table.schema.field("class").type == pa.list_(pa.field("element", pa.uint16(), nullable=False), k)
    ids, found = soft_labels_of(table, "logits", 7)
    assert isinstance(found, TopK)
    assert ids.tolist() == (np.arange(rows) * 3).tolist()
    assert found.words().tolist() == labels(rows, k).words().tolist()


def test_all_logits_are_stored_as_ever() -> None:
    dense = np.resize(EXTREMES[:-1], (4, 10))
    table = soft_labels_table(np.arange(4), "target", FullLogits(dense))
    assert table.equals(vectors_table(np.arange(4), "target", dense))
    ids, found = soft_labels_of(table, "target", 10)
    assert found.top_k is None
    assert found.logits().tobytes() == dense.tobytes()
    assert ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="10 values for 9 classes"):
        soft_labels_of(table, "target", 9)


@pytest.mark.parametrize("column", ["class", "logit", "tail", "label_logit", "mean", "std", "sample_id"])
def test_the_largest_logits_without_a_column_or_with_another_in_its_place_are_refused(column: str) -> None:
    table = soft_labels_table(np.arange(6), "logits", labels())
    position = table.column_names.index(column)
    for other in (pa.array(["x"] * 6), pa.array([[1.5]] * 6, pa.list_(pa.float32(), 1)), pa.array([0.5] * 6)):
        with pytest.raises(InputError, match="a part"):
            soft_labels_of(table.set_column(position, column, other), "logits", 7)
    with pytest.raises(InputError, match="a part has no column"):
        soft_labels_of(table.drop_columns([column]), "logits", 7)


def test_a_class_there_is_not_is_refused() -> None:
    table = soft_labels_table(np.arange(6), "logits", labels())
    with pytest.raises(InputError, match=r"largest of 6 logits: class 6 is outside the 6 classes"):
        soft_labels_of(table, "logits", 6)


def test_values_are_taken_in_any_memory_order() -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    _, found = vectors_of(vectors_table(np.arange(4), "logits", values.T), "logits")
    assert found.tolist() == values.T.tolist()


WRONG_VECTORS = {
    "absent": pa.table({"sample_id": [1]}),
    "no list": pa.table({"sample_id": [1], "logits": [0.5]}),
    "a list of any length": pa.table({"sample_id": [1], "logits": pa.array([[0.5]], pa.list_(pa.float16()))}),
    "of float32": pa.table({"sample_id": [1], "logits": pa.array([[0.5]], pa.list_(pa.float32(), 1))}),
    "a vector is null": pa.table({"sample_id": [1, 2], "logits": pa.array([[0.5], None], pa.list_(pa.float16(), 1))}),
    "a value is null": pa.table({"sample_id": [1], "logits": pa.array([[None]], pa.list_(pa.float16(), 1))}),
    "no sample_id": pa.table({"logits": pa.array([[0.5]], pa.list_(pa.float16(), 1))}),
    "sample_id is text": pa.table({"sample_id": ["1"], "logits": pa.array([[0.5]], pa.list_(pa.float16(), 1))}),
}


@pytest.mark.parametrize("name", WRONG_VECTORS)
def test_a_table_without_whole_vectors_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="a part"):
        vectors_of(WRONG_VECTORS[name], "logits")


def test_an_altered_part_is_refused_by_its_sha256(tmp_path: Path) -> None:
    write_part(tmp_path / "part", selection(), "d1")
    with pytest.raises(InputError, match=r"part was altered.*\n.*prune verify"):
        read_part(tmp_path / "part", "0" * 64)


def test_columns_can_be_chosen_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    write_part(tmp_path / "part", selection(), "d1")
    assert read_part(tmp_path / "part", columns=["keep"]).column_names == ["keep"]
    with pytest.raises(InputError, match="kept"):
        read_part(tmp_path / "part", columns=["kept"])


def test_a_third_of_the_logits_takes_less_than_all_of_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    logits_nC = generator.normal(0, 3, (2000, 100)).astype(np.float16)
    kept = top_k(logits_nC, generator.integers(0, 100, 2000), 32)
    for name, labels in (("all", FullLogits(logits_nC)), ("kept", kept)):
        write_part(tmp_path / name, soft_labels_table(np.arange(2000), "logits", labels), "digest")
    # 7 bits a class of 100, and not the four bytes that Parquet gives a uint16.
    bound = 2000 * (32 * 7 / 8 + 32 * 2 + 16 + 2 + 4 + 4 + 8) * 1.1
    assert (tmp_path / "kept").stat().st_size < bound < (tmp_path / "all").stat().st_size
