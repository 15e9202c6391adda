import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import InputError, UsageError
from manifests.sources import open_source
from manifests.sources.names import (
    check_source_labels,
    check_unique_keys,
    data_set_name,
    read_class_names,
    resolve_names,
    row_keys,
)


@pytest.mark.parametrize("name", ["gone", "gone.parquet", "gone/deeper"])
def test_what_is_not_there_is_named_with_the_accepted_layouts(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder") as caught:
        open_source(str(tmp_path / name))
    assert "DIR/train/CLASS" in str(caught.value.hint)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.doc").write_bytes(b"text")
    with pytest.raises(InputError, match="not a data set this tool reads"):
        open_source(str(tmp_path / "data.doc"))


def test_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is a manifest, not a data set"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("spec", ["demo:faces", "torchvision:Nothing", "torchvision:"])
def test_unknown_names_list_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError, match="unknown") as caught:
        open_source(spec)
    assert "known: " in str(caught.value.hint)


def test_a_label_column_of_data_without_columns_is_refused(tmp_path: Path) -> None:
    for spec in ("demo:digits", str(tmp_path), "torchvision:MNIST"):
        with pytest.raises(UsageError, match="one label per sample"):
            open_source(spec, label="coarse_label")


def test_sources_are_imported_without_torch_pyarrow_pillow_or_sklearn() -> None:
    code = (
        "import sys, manifests.sources, manifests.images.decode;"
        "sys.exit(str([name for name in ('torch', 'pyarrow', 'sklearn', 'PIL') if name in sys.modules] or '') or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.json", '["cat", "hot dog"]'),
        ("names.json", '{"1": "hot dog", "0": "cat"}'),
        ("names.txt", "cat\nhot dog\n"),
        ("names.txt", "\ufeffcat\r\nhot dog\r\n\r\n"),
    ],
)
def test_class_names_are_read_from_a_list_an_object_or_lines(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.write_text(text, "utf-8")
    assert read_class_names(path) == ("cat", "hot dog")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("names.json", '{"0": "cat", "2": "dog"}', "none for class 1"),
        ("names.json", '["cat", 3]', "class 1 is 3"),
        ("names.json", '["cat", ""]', "class 1 is ''"),
        ("names.json", '["cat", "dog", "cat"]', "0 and 2 are both named 'cat'"),
        ("names.json", '"cat"', "no class names"),
        ("names.json", "[", "not valid JSON"),
        ("names.json", "[" * 100_000, "not valid JSON"),
        ("names.txt", "cat\n\ndog", "class 1 is ''"),
    ],
)
def test_malformed_class_names_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_names(tmp_path / file)


def test_class_names_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"caf\xe9")
    for name in ("gone.json", "names.txt"):
        with pytest.raises(InputError, match="cannot read class names"):
            read_class_names(tmp_path / name)


def test_names_are_those_given_then_those_known_then_numbers() -> None:
    labels_N = np.array([0, 2, 1])
    assert resolve_names(labels_N, given=None, known=None, where="here") == ("0", "1", "2")
    assert resolve_names(labels_N, given=None, known=("a", "b", "c"), where="here") == ("a", "b", "c")
    assert resolve_names(labels_N, given=("x", "y", "z"), known=("a", "b", "c"), where="here") == ("x", "y", "z")
    with pytest.raises(InputError, match="2 class names given, here has 3 classes"):
        resolve_names(labels_N, given=("x", "y"), known=("a", "b", "c"), where="here")
    with pytest.raises(InputError, match="is not a class number"):
        resolve_names(np.array([0, 20_000_000]), given=None, known=None, where="here")


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_label_out_of_range_names_its_key(label: int) -> None:
    with pytest.raises(InputError, match=rf"train/00000001 has label {label}, outside 0\.\.2"):
        check_source_labels(np.array([0, label, 1]), ("a", "b", "c"), row_keys("train", 3), "here")


@pytest.mark.parametrize(("labels", "message"), [([], "no samples"), ([1, 1, 1], r"only one class has samples \(b\)")])
def test_labels_of_fewer_than_two_classes_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_source_labels(np.array(labels, np.int64), ("a", "b"), row_keys("train", len(labels)), "here")


@given(st.integers(0, 300), st.sampled_from(["train", "row"]))
def test_row_keys_sort_as_their_rows(count: int, split: str) -> None:
    keys = row_keys(split, count)
    assert keys == sorted(set(keys), key=str.encode)
    assert all(int(key.removeprefix(f"{split}/")) == row for row, key in enumerate(keys))


def test_row_keys_have_eight_digits_and_more_when_needed() -> None:
    assert row_keys("train", 2) == ["train/00000000", "train/00000001"]


def test_a_key_that_occurs_twice_is_named() -> None:
    check_unique_keys(["a", "b"], "here")
    with pytest.raises(InputError, match="the key b occurs twice"):
        check_unique_keys(["a", "b", "b"], "here")


def test_the_name_of_a_data_set_is_not_that_of_its_split(tmp_path: Path) -> None:
    for part in ("flowers", "flowers/train", "flowers/raw", "flowers/data/test"):
        assert data_set_name(tmp_path / part) == "flowers"


def test_labels_of_a_file_with_more_names_than_labels_are_fine(tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text(json.dumps([f"digit {number}" for number in range(10)]))
    assert open_source("demo:digits", classes=names).class_names[3] == "digit 3"
    names.write_text(json.dumps(["a", "b"]))
    with pytest.raises(InputError, match="2 class names given"):
        open_source("demo:digits", classes=names)
