"""A manifest is data: what it may not say, and that it is refused before memory is taken for it."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.errors import InputError
from manifests.format.header_file import parse_header
from manifests.format.part_checks import check_whole
from manifests.format.parts import SAMPLES_SCHEMA, write_part
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.untrusted import bounds
from manifests.untrusted.bounds import read_bounded
from manifests.untrusted.pages import Chunk, Footer, pages, read_footer
from manifests.untrusted.rules import MAX_VALUES, check_ids, check_json, check_keys, check_order, path_problem

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "1.2"
BAD_KEYS = {
    "": "empty",
    "a\0b": "a NUL",
    "a\nb": "a control character",
    "a\x1b[2Jb": "a control character",
    "a\x85b": "a control character",
    "/etc/passwd": "an absolute path",
    "\\\\server\\share": "an absolute path",
    "C:\\x": "a drive letter",
    "c:x": "a drive letter",
    "..": "leads out",
    "../x": "leads out",
    "a/../../x": "leads out",
    "a\\..\\x": "leads out",
    "a/..": "leads out",
    "a/" + "é" * 128: "longer than 255 bytes",
    "ab/" * 1365 + "cd": "longer than 4,096 bytes",
}
GOOD_KEYS = [
    "train/00000001",
    "a..b/..c/d...jpg",
    "é" * 127,
    "ab:c",
    "a b/c.JPEG",
    "名/写真.png",
    "ab/" * 1365 + "c",
    "-",
]


@pytest.mark.parametrize(("key", "reason"), BAD_KEYS.items(), ids=lambda text: repr(text)[:20])
def test_a_key_that_leads_elsewhere_is_refused_with_its_reason(key: str, reason: str) -> None:
    keys = pa.chunked_array([["a/1.jpg"], ["b/2.jpg", key]])
    with pytest.raises(InputError, match="sample 2 has the key") as refused:
        check_keys(keys, "manifest")
    assert reason in str(refused.value)
    assert reason in (path_problem(key) or "")


def test_plain_keys_pass() -> None:
    check_keys(pa.chunked_array([GOOD_KEYS]), "manifest")
    check_keys(pa.chunked_array([], pa.string()), "manifest")
    assert [path_problem(key) for key in GOOD_KEYS] == [None] * len(GOOD_KEYS)


def test_keys_that_are_no_text_are_refused() -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    for keys in (broken, pa.array(["a", None])):
        with pytest.raises(InputError, match=r"UTF-8|have no key"):
            check_keys(keys, "manifest")


@pytest.mark.parametrize("ids", [[-1, 0], [0, 3], [1, 1], [1, 0]])
def test_sample_ids_that_do_not_ascend_within_the_data_are_refused(ids: list[int]) -> None:
    check_ids([0, 2], 3, "part")
    with pytest.raises(InputError, match="do not ascend within 3 samples"):
        check_ids(ids, 3, "part")


def header(**changes: Any) -> bytes:
    """The golden header with some values replaced, named as in {"data.count": 5}."""
    content = json.loads((GOLDEN / "scores" / "manifest.json").read_bytes())
    for path, value in changes.items():
        *holders, last = path.split("__")
        holder = content
        for name in holders:
            holder = holder[int(name) if isinstance(holder, list) else name]
        holder[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files__0__path": "../samples/part-00000.parquet"}, "leads out of its folder"),
        ({"files__0__path": "/samples/part-00000.parquet"}, "an absolute path"),
        ({"files__0__path": "a//b.parquet"}, "empty or a dot"),
        ({"files__0__bytes": 1 << 40}, "bytes, not from 0"),
        ({"files__0__rows": 8193}, "rows, not from 0 to 8,192"),
        ({"files__0__rows": -1}, "rows, not from 0"),
        ({"data__count": 10**15}, r"data\.count is 10{15}, not from 0 to 8,192"),
        ({"data__readable": 14}, r"data\.readable is 14"),
        ({"views__count": 10**12}, r"views\.count"),
        ({"views__top_k": 4}, r"views\.top_k is 4, not from 1 to 2"),
        ({"features__width": 1 << 40}, r"features\.width"),
        ({"teacher__preprocessing__image_px": 0}, "image_px is 0"),
        ({"data__name": "a\x1b[31mb"}, r"data\.name: .* holds a control character"),
        ({"teacher__spec": "a\nprune: all is well"}, r"teacher\.spec: .* holds a control character"),
        ({"later": {"ü\0": 1}}, "holds a control character"),
        ({"later": json.loads("[" * 70 + "]" * 70)}, "nested deeper than 64 levels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_out_of_bounds_is_refused_with_its_field(changes: dict[str, Any], told: str) -> None:
    parse_header(header(), "manifest.json")
    with pytest.raises(InputError, match=told):
        parse_header(header(**changes), "manifest.json")


def test_json_of_more_values_than_any_header_is_not_even_read() -> None:
    check_json(b"[" + b"[]," * (MAX_VALUES // 2 - 1) + b"[]]")
    with pytest.raises(InputError, match="more than any header"):
        parse_header(b"[" + b"[]," * MAX_VALUES + b"[]]", "manifest.json")


def parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def test_bounds_change_nothing_of_what_is_read(tmp_path: Path) -> None:
    for path in GOLDEN.rglob("*.parquet"):
        data = path.read_bytes()
        assert read_bounded(data, None).equals(pq.ParquetFile(io.BytesIO(data)).read(), check_metadata=True)
    write_part(tmp_path / "empty", SAMPLES_SCHEMA.empty_table(), "d")
    assert read_bounded((tmp_path / "empty").read_bytes(), ["key"]).num_rows == 0


@pytest.mark.parametrize("codec", ["none", "zstd", "snappy", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_say_what_pyarrow_says_of_their_columns(codec: str, version: str) -> None:
    table = pa.table(
        {"a": np.arange(5000), "b": ["x", None] * 2500, "v": pa.array([[1.0, 2.0]] * 5000, pa.list_(pa.float32(), 2))}
    )
    data = parquet(table, compression=codec, data_page_version=version, data_page_size=2000, row_group_size=2000)
    metadata, footer = pq.ParquetFile(io.BytesIO(data)).metadata, read_footer(data)
    assert (footer.rows, footer.column_count, footer.row_group_count) == (5000, 3, 3)
    for position, chunk in enumerate(footer.chunks):
        told = metadata.row_group(position // 3).column(position % 3)
        found = list(pages(data, chunk))
        assert len(found) > 1
        assert told.num_values == chunk.values <= sum(page.values for page in found)
        # Headers of pages are counted with them there, at most some 60 bytes each.
        own = sum(page.uncompressed_bytes for page in found)
        assert own < told.total_uncompressed_size < own + 60 * len(found)


class TestBombs:
    """A few kilobytes that stand for a lot; MAX_PART_BYTES is small here, so that the tests are."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "MAX_PART_BYTES", 1 << 20)

    def test_a_column_that_decompresses_to_much(self) -> None:
        data = parquet(pa.table({"a": [b"\0" * 2_000_000]}), compression="zstd", use_dictionary=False)
        assert len(data) < 2_000
        with pytest.raises(ValueError, match="1 MiB uncompressed"):
            read_bounded(data, None)

    def test_one_long_text_in_every_row(self) -> None:
        data = parquet(pa.table({"key": ["x" * 1000] * 8192}))
        assert len(data) < 5_000
        with pytest.raises(ValueError, match="texts are more than 1 MiB"):
            read_bounded(data, None)

    def test_one_value_in_every_place_of_a_vector(self) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8192 * 200, np.uint8)), 200)
        data = parquet(pa.table({"v": vectors}))
        assert len(data) < 5_000
        with pytest.raises(ValueError, match="rows are more than 1 MiB"):
            read_bounded(data, None)

    def test_vectors_that_are_null_and_take_memory_all_the_same(self) -> None:
        data = parquet(pa.table({"v": pa.nulls(8192, pa.list_(pa.float16(), 100))}))
        assert len(data) < 5_000
        with pytest.raises(ValueError, match="rows are more than 1 MiB"):
            read_bounded(data, None)

    def test_texts_that_are_too_long_together(self) -> None:
        table = pa.table({"key": ["x" * 100] * 8192})
        assert read_bounded(parquet(table), None).equals(table)
        with pytest.raises(ValueError, match="texts are more than 1 MiB"):
            read_bounded(parquet(table.append_column("problem", table.column("key"))), None)

    def test_a_page_that_says_it_is_larger_than_the_footer_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "MAX_PART_BYTES", 600_000)
        data = parquet(pa.table({"a": [b"\0" * 500_000]}), compression="zstd", use_dictionary=False)
        # PAR1, field 1 (type), field 2 (uncompressed size, three bytes of which the last is the highest).
        assert data[:7] == b"PAR1\x15\x00\x15"
        forged = data[:9] + b"\x7f" + data[10:]
        assert forged != data
        read_bounded(data, None)
        with pytest.raises(ValueError, match="pages hold more than"):
            read_bounded(forged, None)


def test_wide_vectors_are_read_some_rows_at_a_time_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1000, dtype=np.float16)), 10)
    table = pa.table({"sample_id": range(100), "v": vectors}, metadata={"prune.config": "x"})
    data = parquet(table)
    at_once = read_bounded(data, None)
    monkeypatch.setattr(bounds, "BATCH_VALUES", 80)
    in_turn = read_bounded(data, None)
    assert (at_once.column("v").num_chunks, in_turn.column("v").num_chunks) == (1, 15)
    assert in_turn.equals(table)
    assert in_turn.schema.equals(at_once.schema, check_metadata=True)


@pytest.mark.slow
@pytest.mark.parametrize("item", ["uint8", "float16"])
def test_the_largest_part_is_read_within_a_gibibyte(tmp_path: Path, item: str) -> None:
    width = (bounds.MAX_PART_BYTES // 8192 - 8) // np.dtype(item).itemsize
    few = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(128 * width, item)), width)})
    (tmp_path / "part").write_bytes(parquet(pa.concat_tables([few] * 64)))
    # Not ru_maxrss: a process inherits it from the one that started it.
    code = (
        "import sys; from pathlib import Path; from manifests.untrusted.bounds import read_bounded; "
        "table = read_bounded(Path(sys.argv[1]).read_bytes(), None); table.column('v').combine_chunks(); "
        "print(len(table), Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "part"], capture_output=True, text=True, check=True)
    rows, peak_kib = map(int, told.stdout.split())
    assert rows == 8192
    assert peak_kib < 1 << 20


def test_the_width_of_fixed_bytes_is_counted_in_bytes() -> None:
    # In bits it is more than 32 bits hold.
    assert bounds._value_bytes(pa.binary(1 << 29)) == 1 << 29
    assert bounds._value_bytes(pa.list_(pa.uint8(), 192)) == 1


def test_a_long_description_is_not_read() -> None:
    table = pa.table({"a": [1]})
    read_bounded(parquet(table.replace_schema_metadata({"note": "x" * 800_000})), None)
    with pytest.raises(ValueError, match=r"its description has 2,\d+,\d+ bytes"):
        read_bounded(parquet(table.replace_schema_metadata({"note": "x" * 1_000_000})), None)


EMPTY_PAGE = bytes.fromhex("15001500150000")
"""A header of fields 1 to 3, all of them 0: type, uncompressed size, size."""


@pytest.mark.parametrize(
    ("page", "most", "told"),
    [
        (EMPTY_PAGE, 1 << 16, "more than 65,536 pages"),
        # Field 5 is text that nothing reads.
        (EMPTY_PAGE[:-1] + b"\x28\x80\x20" + b"x" * 4096 + b"\0", 1 << 10, "its page headers are too long"),
    ],
    ids=["many", "long"],
)
def test_pages_without_anything_in_them_are_counted(page: bytes, most: int, told: str) -> None:
    def check(count: int) -> None:
        data = page * count
        chunks = [Chunk(0, 0, len(data), 1)]
        bounds._check_pages(Footer(1, 1, 0, 1, 1, chunks), pa.schema([("a", pa.int64())]), data)

    check(10)
    with pytest.raises(ValueError, match=told):
        check(most + 1)


def test_the_header_of_a_page_has_an_end() -> None:
    # Field 5 is text of 100,000 bytes.
    page = EMPTY_PAGE[:-1] + b"\x28\xa0\x8d\x06" + b"x" * 100_000 + b"\0"
    with pytest.raises(ValueError, match="cut off"):
        list(pages(page, Chunk(0, 0, len(page), 1)))


def test_row_groups_have_the_rows_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet(pa.table({"a": range(10)}), row_group_size=5)
    read_bounded(data, None)
    footer = read_footer(data)
    monkeypatch.setattr(bounds, "read_footer", lambda _data: footer._replace(group_rows=10_000))
    with pytest.raises(ValueError, match="row groups have 10,000 rows, the file 10"):
        read_bounded(data, None)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"a": np.zeros(8193)}), "8,193 rows"),
        (pa.table({"a": [{"b": 1}]}), "of type struct"),
        (pa.table({"a": [[1]]}), "of type list"),
        (pa.table({"a": [[["x"]]]}), "of type list"),
        (pa.table([[1], [2]], names=["a", "a"]), "the same name"),
        (pa.table({f"c{i}": [1] for i in range(4097)}), "4,097 columns"),
    ],
    ids=["rows", "struct", "list", "nested", "twice", "columns"],
)
def test_a_table_that_no_part_has_is_refused(table: pa.Table, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_bounded(parquet(table), None)


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "selection", tmp_path / "m")
    return tmp_path / "m"


def replace_part(folder: Path, path: str, table: pa.Table, rows: int | None = None) -> Manifest:
    """Put a table into a manifest whose header agrees with it."""
    write_part(folder / path, table, "d")
    header = json.loads((folder / "manifest.json").read_bytes())
    [entry] = [entry for entry in header["files"] if entry["path"] == path]
    data = (folder / path).read_bytes()
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": rows or table.num_rows}
    (folder / "manifest.json").write_text(json.dumps(header))
    return Manifest.open(folder)


def changed(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


SAMPLES, SELECTION = "samples/part-00000.parquet", "selection/part-00000.parquet"


def test_samples_that_are_not_what_the_header_says_are_refused(forged: Path) -> None:
    whole = Manifest.open(forged).samples()
    keys, labels = whole.column("key").to_pylist(), whole.column("label").to_pylist()
    for table, told in (
        (changed(whole, "key", ["../x", *keys[1:]]), r"sample 0 has the key '\.\./x': it leads out"),
        (changed(whole, "label", [*labels[:-1], 3]), "row 12 has label 3, but there are 3 classes"),
        (changed(whole, "label", [-1, *labels[1:]]), "row 0 has label -1"),
        (changed(whole, "sample_id", [1, 0, *range(2, 13)]), "do not ascend"),
        (changed(whole, "sample_id", list(range(1, 14))), "do not ascend"),
        (whole.slice(0, 5), "5 rows for 13 samples"),
        (whole.slice(1, 12), "consecutive samples of one part"),
        (whole.drop_columns(["view_id"]), "no column 'view_id'"),
        (whole.set_column(2, "label", whole.column("label").cast(pa.string())), "label is of type string, not int32"),
    ):
        manifest = replace_part(forged, SAMPLES, table)
        with pytest.raises(InputError, match=told):
            manifest.samples()
        assert not verify(forged).ok
    with pytest.raises(InputError, match="13 rows, the header says 7"):
        replace_part(forged, SAMPLES, whole, rows=7).samples()
    assert replace_part(forged, SAMPLES, whole).samples().equals(whole)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["a", "b", "é", "\U0001f600"], None),
        ([], None),
        (["a"], None),
        (["b", "a"], "'b' comes before 'a'"),
        (["a", "c", "b"], "'c' comes before 'b'"),
        (["a", "a"], "'a' comes before 'a'"),
        # As UTF-16 the first is the smaller one.
        (["\U0001f600", "\ufb00"], "not in order"),
    ],
)
def test_keys_ascend_by_their_bytes(keys: list[str], told: str | None) -> None:
    # Chunks of one and of two keys.
    column = pa.chunked_array([keys[:1], keys[1:]], pa.string())
    if told is None:
        check_order(column, "part")
        return
    with pytest.raises(InputError, match=told):
        check_order(column, "part")


def test_samples_in_another_order_are_refused(forged: Path) -> None:
    whole = Manifest.open(forged).samples()
    keys = whole.column("key").to_pylist()
    manifest = replace_part(forged, SAMPLES, changed(whole, "key", [keys[1], keys[0], *keys[2:]]))
    for columns in (None, ["key"]):
        with pytest.raises(InputError, match=f"keys are not in order: '{keys[1]}' comes before '{keys[0]}'"):
            manifest.samples(columns)
    assert not verify(forged).ok
    assert manifest.samples(["label"]).num_rows == 13


def test_the_parts_of_samples_follow_on_each_other() -> None:
    ids = np.arange(3)
    for keys, told in ((["a", "b", "c"], None), (["b", "c", "a"], "not in order")):
        parts = [pa.table({"sample_id": ids[at], "key": keys[at]}) for at in (slice(0, 2), slice(2, 3))]
        if told is None:
            check_whole(pa.concat_tables(parts), 3, "samples")
            continue
        with pytest.raises(InputError, match=told):
            check_whole(pa.concat_tables(parts), 3, "samples")


def test_a_selection_that_lacks_a_reason_is_refused(forged: Path) -> None:
    table = Manifest.open(forged).selection()
    with pytest.raises(InputError, match="no column 'reason'"):
        replace_part(forged, SELECTION, table.drop_columns(["reason"])).selection()


def test_text_that_is_not_utf8_is_refused(forged: Path) -> None:
    whole = Manifest.open(forged).samples()
    broken = pa.array([b"\xff", *[None] * 12], pa.binary()).view(pa.string())
    with pytest.raises(InputError, match="a problem is not valid UTF-8"):
        replace_part(forged, SAMPLES, whole.set_column(8, SAMPLES_SCHEMA.field("problem"), broken)).samples()


def test_scores_that_the_header_names_must_be_there_as_numbers(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "scores", tmp_path / "m")
    path = "scores/teacher/part-00000.parquet"
    table = Manifest.open(tmp_path / "m").scores()
    at = table.column_names.index("el2n")
    with pytest.raises(InputError, match="no column 'el2n'"):
        replace_part(tmp_path / "m", path, table.remove_column(at)).scores()
    with pytest.raises(InputError, match="el2n is of type"):
        replace_part(tmp_path / "m", path, table.set_column(at, "el2n", table.column(at).cast(pa.float64()))).scores()


@pytest.mark.parametrize(
    "local", [{"classes": 0.5}, {"beton": {}}, {"data": "a\0b"}, {"data": "\ud800"}, {"is_copy": 1}]
)
def test_local_json_of_wrong_types_is_refused(local: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(next(path.parent for path in sorted(GOLDEN.glob("*/manifest.json"))), folder)
    (folder / "local.json").write_text(json.dumps({"data": None, "is_copy": None, "later": 3}))
    assert Manifest.open(folder).local["later"] == 3
    (folder / "local.json").write_text(json.dumps(local))
    with pytest.raises(InputError, match=rf"local\.json cannot be used: its '{next(iter(local))}' is not"):
        _ = Manifest.open(folder).local


@pytest.mark.parametrize("value", ['"\\ud800"', "1e999"])
def test_a_run_block_that_cannot_be_written_again_is_refused(value: str) -> None:
    header = json.loads(next(iter(sorted(GOLDEN.glob("*/manifest.json")))).read_bytes())
    text = json.dumps(header | {"run": {"wall": "HERE"}}).replace('"HERE"', value)
    with pytest.raises(InputError, match="no canonical form"):
        parse_header(text.encode(), "manifest.json")
