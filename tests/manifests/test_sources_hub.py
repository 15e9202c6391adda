"""Parquet files as hubs and notebooks leave them: which are the split, and which column is the label."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.sources import open_held_out, open_source


def write(path: Path, count: int = 4, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [f"image {row}".encode() for row in range(count)], "label": [row % 2 for row in range(count)]}
    pq.write_table(pa.table({**table, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("files", "split", "held_out"),
    [
        (("cifar100-train.parquet", "cifar100-test.parquet"), "train", "test"),
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), "train", "test"),
        (("data/train-00000-of-00001-b42f1c3a.parquet", "data/valid-00000-of-00001-27a.parquet"), "train", "valid"),
        (("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"), "train", "test"),
        (("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"), "train", "test"),
        (("default/partial-train/0000.parquet", "default/partial-train/0001.parquet"), "partial-train", None),
        (("train.parquet", "dev.parquet"), "train", "dev"),
        (("train.parquet", "train_extra.parquet", "validation.parquet"), "train", "validation"),
        (("train.parquet", "train-extra.parquet", "validation.parquet"), "train", "validation"),
        (("my_training_set.parquet", "my_test_set.parquet"), "my_training_set", "my_test_set"),
        (("train-0.parquet", "train-1.parquet", "val-0.parquet", "test-0.parquet"), "train", "val"),
    ],
)
def test_the_split_is_a_word_of_the_files_or_folders(
    tmp_path: Path, files: tuple[str, ...], split: str, held_out: str | None
) -> None:
    for file in files:
        write(tmp_path / "repo" / file)
    source = open_source(str(tmp_path / "repo"))
    assert source.split == split
    shards = [file for file in files if file.split("/")[-1][:4] == "0000"]
    assert len(source.keys) == (8 if shards or files[0] == "train-0.parquet" else 4)
    if held_out is not None:
        assert open_held_out(str(tmp_path / "repo")).split == held_out


@pytest.mark.parametrize("name", ["0000", "part-0000", "part-00000-3f2a-c000.snappy", "data_0", "00000"])
def test_numbered_files_without_a_split_are_one_data_set(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.parquet")
    write(tmp_path / f"{name.replace('0', '1', 1)}.parquet")
    source = open_source(str(tmp_path))
    assert (source.split, len(source.keys), source.read_as.warnings) == (None, 8, ())


def test_a_split_is_asked_for_by_its_exact_name(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("train_extra", 6), ("odd", 8)):
        write(tmp_path / f"{name}.parquet", count)
    assert len(open_source(str(tmp_path)).keys) == 4
    assert len(open_source(str(tmp_path), split="train_extra").keys) == 6
    assert len(open_source(str(tmp_path), split="odd").keys) == 8
    assert len(open_source(str(tmp_path), split="none").keys) == 18


def test_files_of_no_split_beside_a_split_are_told(tmp_path: Path) -> None:
    for name in ("train", "hats"):
        write(tmp_path / f"{name}.parquet")
    assert str(open_source(str(tmp_path)).read_as.left_out) == "files of no split: 1 (hats.parquet)"


def test_files_of_several_unknown_names_are_read_with_a_warning(tmp_path: Path) -> None:
    for name in ("hats", "shoes"):
        write(tmp_path / f"{name}.parquet")
    source = open_source(str(tmp_path))
    assert len(source.keys) == 8
    assert source.read_as.warnings == ("files of several names are read as one data set: hats, shoes",)


def test_two_splits_of_the_same_words_are_refused(tmp_path: Path) -> None:
    for name in ("a_train", "b_train"):
        write(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="several splits for 'train': a_train, b_train"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("train-00000-of-00003", "train-00002-of-00003"),
            "1 of 3 shards missing .*: train-00001-of-00003.par",
        ),
        (("train-0-of-12",), "11 of 12 shards missing .*: train-1-of-12.parquet, train-2-of-12.parquet"),
        (("train-00000-of-00002", "train-00001-of-00003"), "shards missing"),
        (("train-0-of-99999999999",), "99,999,999,998 of 99,999,999,999 shards missing"),
        (("0-of-2",), "1 of 2 shards missing"),
    ],
)
def test_missing_shards_are_refused_by_name(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for file in files:
        write(tmp_path / f"{file}.parquet")
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path))


def test_a_missing_shard_of_another_split_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet")
    write(tmp_path / "test-00001-of-00002.parquet")
    assert open_source(str(tmp_path)).split == "train"


def test_several_configurations_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("cfg1", "cfg2"):
        write(tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="holds several configurations: cfg1, cfg2"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path / "cfg2")).split == "train"


@pytest.mark.parametrize("table", ["train/metadata.parquet", "scores.parquet", "data/metadata.parquet"])
def test_a_table_without_images_beside_class_folders_is_not_the_data(tmp_path: Path, table: str) -> None:
    for key in ("train/hat/0.png", "train/shoes/0.png"):
        (tmp_path / "d" / key).parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "d" / key)
    (tmp_path / "d" / table).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"file_name": ["x"], "loss": [0.5]}), tmp_path / "d" / table)
    source = open_source(str(tmp_path / "d"))
    assert (source.kind, source.split, list(source.keys)) == (
        "folder",
        "train",
        ["train/hat/0.png", "train/shoes/0.png"],
    )


def test_tables_without_images_alone_are_refused_as_such(tmp_path: Path) -> None:
    pq.write_table(pa.table({"loss": [0.5]}), tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=r"no column of encoded images in its Parquet files: .*scores"):
        open_source(str(tmp_path))


TEXT = ["hat", "dress", "shoes", "dress"]


@pytest.mark.parametrize(
    ("columns", "names", "labels"),
    [
        ({"label": TEXT}, ("dress", "hat", "shoes"), [1, 0, 2, 0]),
        ({"label": pa.array(TEXT).dictionary_encode()}, ("dress", "hat", "shoes"), [1, 0, 2, 0]),
        ({"label": TEXT, "image_id": [3, 2, 1, 0]}, ("dress", "hat", "shoes"), [1, 0, 2, 0]),
        ({"label": TEXT, "width": [32, 32, 32, 33]}, ("dress", "hat", "shoes"), [1, 0, 2, 0]),
        ({"label": TEXT, "__index_level_0__": [2, 0, 3, 1]}, ("dress", "hat", "shoes"), [1, 0, 2, 0]),
        ({"label": [1.0, 0.0, 2.0, 1.0]}, ("0", "1", "2"), [1, 0, 2, 1]),
        ({"label": [True, False, True, True]}, ("false", "true"), [1, 0, 1, 1]),
    ],
)
def test_labels_of_any_kind_that_names_classes_are_read(
    tmp_path: Path, columns: dict[str, Any], names: tuple[str, ...], labels: list[int]
) -> None:
    source = open_source(str(write(tmp_path / "train.parquet", **columns)))
    assert source.class_names == names
    assert source.labels_N.tolist() == labels


def test_text_is_numbered_alike_in_all_shards_and_by_given_names(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", 2, label=["hat", "shoes"])
    write(tmp_path / "train-1.parquet", 2, label=["dress", "hat"])
    source = open_source(str(tmp_path))
    assert [source.class_names[label] for label in source.labels_N] == ["hat", "shoes", "dress", "hat"]
    (tmp_path / "names.txt").write_text("shoes\nhat\ndress\nbag\n")
    source = open_source(str(tmp_path), classes=tmp_path / "names.txt")
    assert source.class_names == ("shoes", "hat", "dress", "bag")
    assert source.labels_N.tolist() == [1, 0, 2, 1]
    (tmp_path / "names.txt").write_text("shoes\nhat\n")
    with pytest.raises(InputError, match="row 2 has the label 'dress', which the class names lack"):
        open_source(str(tmp_path), classes=tmp_path / "names.txt")


@pytest.mark.parametrize(
    "column", ["__index_level_0__", "id", "image_id", "idx", "index", "width", "size_bytes", "Unnamed: 0"]
)
def test_row_numbers_ids_and_sizes_are_no_labels_unless_asked_for(tmp_path: Path, column: str) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [b"a", b"b"], column: [0, 1]}), path)
    with pytest.raises(InputError, match="not clear which column holds the labels") as caught:
        open_source(str(path))
    assert "--label COLUMN" in str(caught.value.hint)
    assert open_source(str(path), label=column).labels_N.tolist() == [0, 1]


def test_a_column_that_the_hub_declares_to_hold_classes_is_the_label(tmp_path: Path) -> None:
    features = {"species": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "age": {"_type": "Value"}}
    table = pa.table({"image": [b"a", b"b"], "age": [3, 4], "species": [1, 0]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train.parquet")
    source = open_source(str(tmp_path))
    assert (source.class_names, source.labels_N.tolist()) == (("cat", "dog"), [1, 0])
    assert source.read_as.labels == "column species of whole numbers, named by the files themselves"
