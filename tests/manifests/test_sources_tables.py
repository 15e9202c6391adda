import io
import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem, decode_rgb
from manifests.sources import open_source, row_groups


def shard(path: Path, first: int = 0, count: int = 10, *, group: int = 4, **columns: Any) -> Path:
    """`count` rows whose image bytes are b"image 7" and whose label is row % 3, unless told otherwise."""
    table = pa.table(
        {
            "image": pa.array([f"image {row}".encode() for row in range(first, first + count)], pa.binary()),
            "label": pa.array([row % 3 for row in range(first, first + count)], pa.int64()),
            **columns,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def numbers(images: Sequence[object]) -> list[int]:
    return [int(image.data.split()[1]) for image in images if isinstance(image, Encoded)]


def test_shards_are_numbered_through_in_the_order_of_their_names(tmp_path: Path) -> None:
    shard(tmp_path / "set" / "train-00001-of-00002.parquet", 10, 5)
    shard(tmp_path / "set" / "train-00000-of-00002.parquet", 0, 10)
    shard(tmp_path / "set" / "test-00000-of-00001.parquet", 100, 3)
    source = open_source(str(tmp_path / "set"))
    assert (source.kind, source.name, source.split) == ("parquet", "set", "train")
    assert list(source.keys) == [f"train/{row:08d}" for row in range(15)]
    assert source.labels_N.tolist() == [row % 3 for row in range(15)]
    assert numbers(source.read(range(15))) == list(range(15))
    assert numbers(source.read([14, 0, 9, 10, 14])) == [14, 0, 9, 10, 14]
    assert source.read([]) == []
    held_out = open_source(str(tmp_path / "set"), split="validation")
    assert (held_out.split, held_out.keys[2], numbers(held_out.read([2]))) == ("test", "test/00000002", [102])


@pytest.mark.parametrize(
    ("file", "spec", "split", "key"),
    [
        ("data/train-0.parquet", ".", None, "train/00000000"),
        ("train/0000.parquet", ".", None, "train/00000000"),
        ("val/0000.parquet", ".", "test", "val/00000000"),
        ("all.parquet", ".", None, "train/00000000"),
        ("all.parquet", "all.parquet", None, "train/00000000"),
        ("test.parquet", "test.parquet", None, "test/00000000"),
        ("test.parquet", "test.parquet", "val", "test/00000000"),
        ("fold1-0.parquet", ".", "fold1", "fold1/00000000"),
    ],
)
def test_files_are_found_where_hubs_put_them(tmp_path: Path, file: str, spec: str, split: str | None, key: str) -> None:
    shard(tmp_path / file)
    source = open_source(str(tmp_path / spec), split=split)
    assert source.keys[0] == key
    assert numbers(source.read([9])) == [9]


@pytest.mark.parametrize("files", [["train-0.parquet"], ["all.parquet"], ["fold1-0.parquet"]])
def test_a_split_that_no_file_has_is_refused(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        shard(tmp_path / file)
        for spec in (tmp_path, tmp_path / file):
            with pytest.raises(InputError, match="no split 'test'"):
                open_source(str(spec), split="test")


def test_images_may_be_structs_of_bytes_and_path(tmp_path: Path) -> None:
    values = [{"bytes": b"image 0", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"other": [b"x"] * 3, "img": pa.array(values, kind), "label": pa.array([0, 1, 0], pa.int32())})
    pq.write_table(table, tmp_path / "train.parquet")
    images = open_source(str(tmp_path)).read([0, 1, 2])
    assert images[0] == Encoded(b"image 0")
    assert [str(image) for image in images[1:]] == [
        "the row holds a path, not the bytes of an image",
        "the row holds no image",
    ]


def test_the_label_column_is_the_preferred_the_only_or_the_asked_one(tmp_path: Path) -> None:
    coarse = pa.array([row % 2 for row in range(10)], pa.int8())
    both = shard(tmp_path / "both.parquet", coarse_label=coarse)
    assert open_source(str(both)).labels_N.tolist() == [row % 3 for row in range(10)]
    assert open_source(str(both), label="coarse_label").labels_N.tolist() == [row % 2 for row in range(10)]
    table = pq.read_table(both)
    pq.write_table(table.rename_columns(["image", "x", "fine_label"]), tmp_path / "fine.parquet")
    assert open_source(str(tmp_path / "fine.parquet")).labels_N.tolist() == [row % 2 for row in range(10)]
    pq.write_table(table.rename_columns(["image", "x", "y"]), tmp_path / "unclear.parquet")
    with pytest.raises(InputError, match="not clear which column holds the labels") as caught:
        open_source(str(tmp_path / "unclear.parquet"))
    assert "x, y" in str(caught.value.hint)
    pq.write_table(table.drop_columns(["label"]).rename_columns(["image", "kind"]), tmp_path / "only.parquet")
    assert open_source(str(tmp_path / "only.parquet")).labels_N.tolist() == [row % 2 for row in range(10)]
    with pytest.raises(InputError, match="'image' holds binary, not classes"):
        open_source(str(both), label="image")


def test_class_names_come_from_a_file_beside_or_the_hub_metadata(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet")
    assert open_source(str(path)).class_names == ("0", "1", "2")
    features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    table = pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    declared = open_source(str(path))
    assert declared.class_names == ("a", "b", "c")
    assert declared.read_as.labels == "column label of whole numbers, named by the files themselves"
    (tmp_path / "names.json").write_text('["x", "y", "z"]')
    named = open_source(str(path))
    assert named.class_names == ("x", "y", "z")
    assert named.read_as.labels == "column label of whole numbers, named by names.json"
    (tmp_path / "mine.txt").write_text("k\nl\nm\n")
    assert open_source(str(path), classes=tmp_path / "mine.txt").class_names == ("k", "l", "m")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "c", "b"], r"class 1 is 'c' in .*names.json, and 'b' in .*train.parquet itself"),
        (["x", "y", "z", "w"], "4 class names given, .*train.parquet has 3 classes"),
    ],
)
def test_names_of_another_data_set_beside_the_files_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    path = shard(tmp_path / "train.parquet")
    features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    table = pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    file = tmp_path / "names.json"
    file.write_text(json.dumps(names))
    with pytest.raises(InputError, match=said):
        open_source(str(path))
    if len(names) == 3:
        assert open_source(str(path), classes=file).class_names == ("a", "c", "b")


@pytest.mark.parametrize(
    "metadata", [b"", b"[", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": 1}}}}']
)
def test_metadata_without_names_is_no_error(tmp_path: Path, metadata: bytes) -> None:
    path = shard(tmp_path / "train.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
    assert open_source(str(path)).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": pa.array([0, 1, None] * 3 + [0])}, "row 2 has no label"),
        ({"label": pa.array([0, 1, -1] * 3 + [0])}, "'label' is -1 in 3 of 10 rows, which have no class"),
        ({"label": pa.array([0] * 10)}, "only one class"),
        ({"label": pa.array([0.5, 1.0] * 5)}, "'label' holds decimals such as 0.5, not classes"),
        ({"label": pa.array([[0, 1], [1]] * 5)}, "'label' holds lists: several labels per image, or one-hot ones"),
        ({"label": pa.array([b"cat", b"dog"] * 5)}, "'label' holds binary, not classes"),
        ({"label": pa.array([2**40, 1] * 5)}, "is not a class number"),
        ({"image": pa.array(["text"] * 10)}, "no column of encoded images"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(str(shard(tmp_path / "train.parquet", **columns)))


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.parquet")
    shard(tmp_path / "train-1.parquet", label=pa.array([1.5] * 10))
    with pytest.raises(InputError, match=r"train-1\.parquet: column 'label' is missing or not of the type in train-0"):
        open_source(str(tmp_path))


def test_a_file_without_rows_holds_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        open_source(str(shard(tmp_path / "train.parquet", count=0)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_an_input_error_or_a_problem_of_rows(tmp_path: Path, data: st.DataObject) -> None:
    path = shard(tmp_path / "train.parquet")
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        damaged = bytearray(whole)
        for position in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=5)):
            damaged[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(damaged)
    try:
        source = open_source(str(path))
    except InputError:
        return
    assert len(source.read(range(len(source.keys)))) == len(source.keys)


def test_a_row_group_with_fewer_rows_than_the_footer_says_is_a_problem_of_its_rows(tmp_path: Path) -> None:
    source = open_source(str(shard(tmp_path / "train.parquet")))
    table = pq.read_table(tmp_path / "train.parquet")
    # The footer is remembered from opening; the file behind it loses rows of its second group.
    shorter = pa.concat_tables([table.slice(0, 4), table.slice(4, 2), table.slice(8, 2)])
    group = pq.ParquetFile.read_row_group

    def read(file: pq.ParquetFile, number: int, **options: object) -> pa.Table:
        whole = group(file, number, **options)
        return shorter.select(whole.column_names).slice(4, 2) if number == 1 else whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", read)
        images = source.read(range(10))
    assert [isinstance(image, ImageProblem) for image in images] == [False] * 4 + [True] * 4 + [False] * 2
    assert "holds 2 rows, the footer says 4" in str(images[5])


def test_a_row_group_that_cannot_be_read_is_a_problem_of_its_rows(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.parquet")
    source = open_source(str(path))
    group = pq.read_metadata(path).row_group(1).column(0)
    with path.open("r+b") as stream:
        stream.seek(group.dictionary_page_offset or group.data_page_offset)
        stream.write(b"\xff" * group.total_compressed_size)
    images = source.read(range(10))
    assert [isinstance(image, ImageProblem) for image in images] == [False] * 4 + [True] * 4 + [False] * 2
    assert str(images[4]).startswith("row group 1 of train.parquet cannot be read")
    assert str(tmp_path) not in str(images[4])
    path.unlink()
    assert isinstance(source.read([5])[0], ImageProblem)


@pytest.mark.parametrize("budget", [0, 60, 1 << 20])
def test_rows_in_any_order_from_many_threads_are_right_whatever_is_kept(
    tmp_path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "CACHE_BYTES", budget)
    shard(tmp_path / "train-0.parquet", 0, 20)
    shard(tmp_path / "train-1.parquet", 20, 13, group=5)
    source = open_source(str(tmp_path))
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 33, 7).tolist() for _ in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for batch, images in zip(batches, pool.map(source.read, batches), strict=True):
            assert numbers(images) == batch


def test_a_row_outside_is_an_error_of_the_caller(tmp_path: Path) -> None:
    source = open_source(str(shard(tmp_path / "train.parquet")))
    for row in (-1, 10):
        with pytest.raises(IndexError):
            source.read([row])


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    source = open_source(str(shard(tmp_path / "train.parquet")))
    assert numbers(pickle.loads(pickle.dumps(source)).read([3])) == [3]


def test_cifar100_has_all_rows_its_names_and_whole_images(shared_data: Path) -> None:
    folder = shared_data / "cifar100"
    fine = open_source(str(folder))
    coarse = open_source(str(folder), label="coarse_label")
    assert (len(fine.keys), len(fine.class_names), len(coarse.class_names)) == (50_000, 100, 20)
    assert fine.class_names == tuple(json.loads((folder / "names.json").read_text()))
    assert coarse.class_names == tuple(json.loads((folder / "coarse_names.json").read_text()))
    np.testing.assert_array_equal(np.bincount(fine.labels_N), np.full(100, 500))
    np.testing.assert_array_equal(np.bincount(coarse.labels_N), np.full(20, 2500))
    assert all(len(np.unique(coarse.labels_N[fine.labels_N == label])) == 1 for label in range(100))
    table = pq.read_table(folder / "train-00001-of-00002.parquet", columns=["image", "label"])
    rows = [25_000, 49_999, 31_415]
    for row, image in zip(rows, fine.read(rows), strict=True):
        data = table["image"][row - 25_000].as_py()
        assert image == Encoded(data)
        assert fine.labels_N[row] == table["label"][row - 25_000].as_py()
        np.testing.assert_array_equal(
            decode_rgb(Encoded(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        )
