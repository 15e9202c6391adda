import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests.base.files import write_atomic
from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.errors import InputError
from manifests.format.header import DataSet, Header, Tool
from manifests.format.parts import (
    PART_ROWS,
    SAMPLES_SCHEMA,
    SELECTION_SCHEMA,
    part_path,
    part_rows,
    soft_labels_table,
    vectors_table,
    write_part,
)
from manifests.format.top_k import TopK, top_k
from manifests.manifest import Manifest, commit, file_entry, part_entries, write_local

COUNT = PART_ROWS + 7
TABLES = ["samples", "scores/teacher", "scores/dynamics", "logits/view-000", "logits/view-001", "selection",
          "targets/view-000"]  # fmt: skip


def samples(rows: range) -> pa.Table:
    hashes = [hashlib.sha256(str(row).encode()).digest()[:16] for row in rows]
    return pa.table(
        {
            "sample_id": rows,
            "key": [f"train/{row:08d}" for row in rows],
            "label": [row % 3 for row in rows],
            "size_bytes": rows,
            "content_hash": hashes,
            "view_id": [int.from_bytes(h[:8], "little") for h in hashes],
            "width": [28] * len(rows),
            "height": [28] * len(rows),
            "problem": [None] * len(rows),
        },
        schema=SAMPLES_SCHEMA,
    )


def vectors(rows: range, name: str, view: int) -> pa.Table:
    ids = np.array(rows)
    return vectors_table(ids, name, ((ids[:, None] + np.arange(3)) % 1000 + view / 2).astype(np.float16))


def scores(rows: range) -> pa.Table:
    return pa.table({"sample_id": rows, "loss": pa.array(np.array(rows) / 7, pa.float32())})


def selection(rows: range) -> pa.Table:
    columns = [list(rows), [row % 2 == 0 for row in rows], ["kept"] * len(rows), [1.0] * len(rows), [0.5] * len(rows)]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SELECTION_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SELECTION_SCHEMA)


def make(folder: Path, count: int = COUNT) -> Manifest:
    """A manifest that holds every kind of table; only even rows have targets."""
    for part in range(2):
        rows = part_rows(part, count)
        tables = {
            "samples": samples(rows),
            "scores/teacher": scores(rows),
            "scores/dynamics": scores(rows),
            "logits/view-000": vectors(rows, "logits", 0),
            "logits/view-001": vectors(rows, "logits", 1),
            "selection": selection(rows),
            "targets/view-000": vectors(rows[::2], "target", 0),
        }
        for table, content in tables.items():
            write_part(folder / part_path(table, part), content, "d1")
    write_atomic(folder / BETON_NAME, b"not read by these tests")
    files = [*part_entries(folder, TABLES, count), file_entry(folder, BETON_NAME, count)]
    data = DataSet(
        name="d", source="folder", count=count, readable=count, class_names=["a", "b", "c"], fingerprint="f" * 64
    )
    write_local(folder, {"data": "/somewhere", "split": None})
    return commit(
        folder, Header(kind="selection", data=data, tool=Tool(name="prune-toolkit", version="1"), files=files)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make(tmp_path_factory.mktemp("manifest") / "selection")


@pytest.fixture
def copied(made: Manifest, tmp_path: Path) -> Manifest:
    """A manifest of its own for tests that damage it."""
    shutil.copytree(made.path, tmp_path / "copy")
    return Manifest.open(tmp_path / "copy")


def test_a_manifest_is_opened_by_its_path_or_text(made: Manifest) -> None:
    for path in (made.path, str(made.path)):
        manifest = Manifest.open(path)
        assert (manifest.path, manifest.kind, manifest.class_names) == (made.path, "selection", ["a", "b", "c"])
        assert manifest.id == made.id == manifest.header.id
        assert len(manifest.id) == 64


def test_the_same_content_has_the_same_id_anywhere(made: Manifest, tmp_path: Path) -> None:
    assert make(tmp_path / "elsewhere").id == made.id
    assert make(tmp_path / "smaller", COUNT - 1).id != made.id


def test_tables_are_read_over_all_parts_in_row_order(made: Manifest) -> None:
    whole = range(COUNT)
    assert made.samples().equals(samples(whole))
    assert made.scores().equals(scores(whole))
    assert made.scores("dynamics").equals(scores(whole))
    assert made.selection().equals(selection(whole))
    assert made.samples(["key", "sample_id"]).column_names == ["key", "sample_id"]


def test_a_table_becomes_a_data_frame_of_the_same_rows(made: Manifest) -> None:
    frame = made.samples().to_pandas()
    assert list(frame.columns) == SAMPLES_SCHEMA.names
    assert frame["key"].iloc[-1] == f"train/{COUNT - 1:08d}"
    assert frame["view_id"].dtype == np.uint64


def test_soft_labels_are_streamed_as_they_are_stored(made: Manifest, tmp_path: Path) -> None:
    for (ids, dense), (other_ids, others) in zip(made.soft_labels("targets"), made.targets(), strict=True):
        assert np.array_equal(ids, other_ids)
        assert dense.top_k is None
        assert dense.logits().tobytes() == others.tobytes()
    shutil.copytree(made.path, tmp_path / "top_k")
    kept = []
    for part, (ids, dense) in enumerate(made.logits(1)):
        kept.append(top_k(dense, ids % 3, 2))
        write_part(
            tmp_path / "top_k" / part_path("logits/view-001", part), soft_labels_table(ids, "logits", kept[-1]), ""
        )
    files = part_entries(tmp_path / "top_k", TABLES, COUNT)
    manifest = commit(tmp_path / "top_k", made.header.model_copy(update={"files": files}))
    streams = zip(manifest.soft_labels("logits", 1), manifest.logits(1), made.logits(1), strict=True)
    for (_, labels), (ids, dense), (wanted_ids, full) in streams:
        assert isinstance(labels, TopK)
        assert labels.words().tolist() == kept.pop(0).words().tolist()
        assert np.array_equal(ids, wanted_ids)
        assert dense.dtype == np.float16
        # One class of three is left out: its logit is the tail.
        np.testing.assert_allclose(dense.astype(float), full.astype(float), rtol=1e-3)


@pytest.mark.parametrize("view", [0, 1])
def test_logits_are_streamed_a_part_at_a_time(made: Manifest, view: int) -> None:
    stream = made.logits(view)
    assert isinstance(stream, Iterator)
    parts = list(stream)
    assert [len(ids) for ids, _ in parts] == [PART_ROWS, 7]
    assert np.concatenate([ids for ids, _ in parts]).tolist() == list(range(COUNT))
    values = np.concatenate([logits for _, logits in parts])
    assert values.dtype == np.float16
    assert values.shape == (COUNT, 3)
    assert values[100].tolist() == [100 + view / 2, 101 + view / 2, 102 + view / 2]


def test_targets_are_those_of_the_kept_samples(made: Manifest) -> None:
    ids = np.concatenate([ids for ids, _ in made.targets()])
    assert ids.tolist() == list(range(0, COUNT, 2))


def test_only_the_part_that_is_asked_for_is_read(copied: Manifest) -> None:
    (copied.path / "logits/view-000/part-00001.parquet").unlink()
    stream = copied.logits()
    assert len(next(stream)[0]) == PART_ROWS
    with pytest.raises(InputError, match=r"cannot read .*logits/view-000/part-00001\.parquet"):
        next(stream)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_there_is_told_from_one_that_is_not(made: Manifest, table: str) -> None:
    assert made.has(table)
    assert [entry.path for entry in made.files(table)] == [part_path(table, 0), part_path(table, 1)]
    assert not made.has(table + "x")
    assert not made.has(table.partition("/")[0] + "/")


def test_a_table_the_manifest_does_not_have_is_an_input_error(made: Manifest) -> None:
    for ask, table in (
        (lambda: made.scores("gradients"), "scores/gradients"),
        (lambda: made.logits(2), "logits/view-002"),
        (lambda: made.targets(1), "targets/view-001"),
    ):
        with pytest.raises(InputError, match=rf"a manifest of kind selection\) holds no {table}"):
            ask()


def read_all(manifest: Manifest, table: str) -> object:
    name = table.partition("/")[2]
    reads: dict[str, Callable[[], object]] = {
        "samples": lambda: manifest.samples(["sample_id"]),
        "scores": lambda: manifest.scores(name),
        "logits": lambda: list(manifest.logits(int(name[-3:]))),
        "selection": manifest.selection,
        "targets": lambda: list(manifest.targets()),
    }
    return reads[table.partition("/")[0]]()


@pytest.mark.parametrize("table", TABLES)
def test_an_altered_part_is_an_input_error_that_names_the_file(copied: Manifest, table: str) -> None:
    path = copied.path / part_path(table, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{part_path(table, 1)} was altered") as error:
        read_all(copied, table)
    assert error.value.hint is not None
    assert "prune verify" in error.value.hint


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_part_is_an_input_error_that_names_the_file(copied: Manifest, table: str) -> None:
    (copied.path / part_path(table, 0)).unlink()
    with pytest.raises(InputError, match=f"cannot read .*{part_path(table, 0)}"):
        read_all(copied, table)


def test_a_column_that_is_not_there_is_an_input_error(made: Manifest) -> None:
    with pytest.raises(InputError, match="colour"):
        made.samples(["colour"])


def test_parts_with_different_columns_are_an_input_error(copied: Manifest) -> None:
    path = part_path("scores/teacher", 1)
    write_part(copied.path / path, scores(range(PART_ROWS, COUNT)).rename_columns(["sample_id", "entropy"]), "d1")
    files = [e for e in copied.header.files if e.path != path] + [file_entry(copied.path, path, 7)]
    other = commit(copied.path, copied.header.model_copy(update={"files": files}))
    with pytest.raises(InputError, match="scores/teacher have different columns"):
        other.scores()


def test_logits_of_another_column_name_are_an_input_error(copied: Manifest) -> None:
    path = part_path("logits/view-000", 0)
    write_part(copied.path / path, vectors(range(PART_ROWS), "values", 0), "d1")
    files = [e for e in copied.header.files if e.path != path] + [file_entry(copied.path, path, PART_ROWS)]
    other = commit(copied.path, copied.header.model_copy(update={"files": files}))
    with pytest.raises(InputError, match="logits"):
        next(other.logits())


def test_the_beton_is_found_when_it_is_there_and_of_its_size(copied: Manifest) -> None:
    path = copied.path / BETON_NAME
    assert copied.beton_path == path
    path.write_bytes(b"cut")
    with pytest.raises(InputError, match=r"train\.beton has 3 bytes, the header says 23: truncated or replaced"):
        _ = copied.beton_path
    path.unlink()
    assert copied.beton_path is None


def test_a_beton_the_header_does_not_name_is_not_its_own(copied: Manifest) -> None:
    files = [entry for entry in copied.header.files if entry.path != BETON_NAME]
    assert commit(copied.path, copied.header.model_copy(update={"files": files})).beton_path is None


def test_where_the_images_are_is_in_no_id(copied: Manifest) -> None:
    assert copied.local == {"data": "/somewhere", "split": None}
    write_local(copied.path, {"data": "/elsewhere"})
    again = Manifest.open(copied.path)
    assert (again.local, again.id) == ({"data": "/elsewhere"}, copied.id)
    (copied.path / "local.json").unlink()
    assert Manifest.open(copied.path).local == {}


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00"])
def test_a_broken_local_json_is_an_input_error_with_the_next_step(copied: Manifest, text: str) -> None:
    (copied.path / "local.json").write_text(text)
    with pytest.raises(InputError, match=r"local\.json cannot be used: it is not a JSON object") as error:
        _ = copied.local
    assert error.value.hint == "delete it and name the images with --data"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"data": True}, "'data' is not text"),
        ({"beton": ["x"]}, "'beton' is not text"),
        ({"beton": "a\0b"}, "'beton' is not text"),
        ({"data": "x", "classes": 3}, "'classes' is not text"),
        ({"data": "x", "unlabelled": "no"}, "'unlabelled' is not true or false"),
    ],
)
def test_an_entry_of_local_json_that_is_of_another_kind_is_refused(
    copied: Manifest, entry: dict[str, object], reason: str
) -> None:
    (copied.path / "local.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match=reason):
        _ = copied.local


def test_a_linked_table_shares_its_bytes(made: Manifest, tmp_path: Path) -> None:
    made.link_table("samples", tmp_path)
    for part in range(2):
        assert (tmp_path / part_path("samples", part)).samefile(made.path / part_path("samples", part))
    made.link_table("samples", tmp_path)
    assert part_entries(tmp_path, ["samples"], COUNT) == made.files("samples")


def test_a_linked_table_replaces_a_stale_part_and_keeps_a_right_one(made: Manifest, tmp_path: Path) -> None:
    stale, right = (tmp_path / part_path("samples", part) for part in range(2))
    write_atomic(stale, b"of another run")
    shutil.copy(made.path / part_path("samples", 1), right)
    inode = right.stat().st_ino
    made.link_table("samples", tmp_path)
    assert stale.samefile(made.path / part_path("samples", 0))
    assert right.stat().st_ino == inode


def test_an_altered_or_missing_part_is_not_linked(copied: Manifest, tmp_path: Path) -> None:
    part = copied.path / part_path("samples", 0)
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"part-00000\.parquet was altered"):
        copied.link_table("samples", tmp_path / "out")
    part.unlink()
    with pytest.raises(InputError, match=r"cannot read .*part-00000\.parquet"):
        copied.link_table("samples", tmp_path / "out")
    assert not (tmp_path / "out" / part_path("samples", 0)).exists()


def test_a_commit_removes_what_a_killed_writer_left_but_nothing_else(copied: Manifest) -> None:
    (copied.path / HEADER_NAME).unlink()
    host = os.uname().nodename.replace(".", "-")
    left = copied.path / "logits" / "view-000" / f".part-00000.parquet.{host}.{os.getpid()}.tmp"
    other = copied.path / ".notes"
    for path in (left, other):
        path.write_bytes(b"half")
    assert commit(copied.path, copied.header).id == copied.id
    assert not left.exists()
    assert other.exists()


def test_an_interrupted_making_is_no_manifest(copied: Manifest) -> None:
    (copied.path / HEADER_NAME).unlink()
    with pytest.raises(InputError, match="interrupted"):
        Manifest.open(copied.path)


def test_committing_twice_gives_the_same_file(copied: Manifest) -> None:
    first = (copied.path / HEADER_NAME).read_bytes()
    commit(copied.path, copied.header)
    assert (copied.path / HEADER_NAME).read_bytes() == first


def test_a_file_entry_tells_size_and_digest(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "a", b"abc")
    entry = file_entry(tmp_path, "deep/a", 3)
    assert json.loads(entry.model_dump_json()) == {
        "path": "deep/a",
        "rows": 3,
        "bytes": 3,
        "sha256": hashlib.sha256(b"abc").hexdigest(),
    }
