"""Lists of files as data sets have them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.errors import InputError
from manifests.sources import ReadOptions
from manifests.sources.list_file import ListedFile, read_list


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train.csv", "filename,label\na.jpg,hat\nb.jpg,shoes\n", [("a.jpg", "hat"), ("b.jpg", "shoes")]),
        ("metadata.csv", "\ufefffile_name,label\r\na.jpg,hat\r\n", [("a.jpg", "hat")]),
        ("labels.csv", "id,breed\n000bec,boston_bull\n", [("000bec", "boston_bull")]),
        ("train.csv", 'image,label\n"a, b.jpg",hat\n', [("a, b.jpg", "hat")]),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nval_1,n03995372 85 1 499 272\n", [("val_1", "n03995372")]),
        ("val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t62\t62\n", [("val_0.JPEG", "n01")]),
        ("train_list.txt", "train/a b.jpg 0\ntrain/c.jpg 1\n", [("train/a b.jpg", "0"), ("train/c.jpg", "1")]),
        ("train.txt", "apple_pie/1005649\napple_pie/101\n", [("apple_pie/1005649", None), ("apple_pie/101", None)]),
        (
            "images.txt",
            "1 001.Albatross/one.jpg\n2 002.Auk/two.jpg\n",
            [("001.Albatross/one.jpg", None), ("002.Auk/two.jpg", None)],
        ),
        ("list.tsv", "path\tclass\nx/a.png\tcat\n", [("x/a.png", "cat")]),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "label": 3}\n\n{"file_name": "b.png", "label": 1}\n',
            [("a.png", "3"), ("b.png", "1")],
        ),
        ("a.csv", "a.jpg,hat\nb.jpg,shoes\n", [("a.jpg", "hat"), ("b.jpg", "shoes")]),
    ],
)
def test_lists_are_read_with_a_header_or_without(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str | None]]
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert [(line.file, line.label) for line in read_list(tmp_path / name)] == expected


def test_columns_are_chosen_by_name_and_splits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text("who,what,filename,label,split\n1,cat,a.png,7,train\n2,dog,b.png,8,test\n")
    assert read_list(path) == [ListedFile("a.png", "7", "train"), ListedFile("b.png", "8", "test")]
    chosen = read_list(path, ReadOptions(file_column="who", label="what"))
    assert chosen == [ListedFile("1", "cat", "train"), ListedFile("2", "dog", "test")]
    with pytest.raises(InputError, match="has no column 'kind'") as caught:
        read_list(path, ReadOptions(label="kind"))
    assert "who, what, filename" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "label,width\nhat,3\n", "no column of files"),
        ("a.csv", "file,label\na.png\n", "a line has 1 columns"),
        ("truth.txt", "490\n361\n", "numbers without the names of files"),
        ("a.jsonl", "[1]\n", "not a JSON object"),
        ("a.jsonl", "{\n", "cannot read"),
    ],
)
def test_what_is_not_a_list_of_files_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".txt"]))
def test_any_bytes_are_a_list_or_an_input_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_bytes(data)
    try:
        listed = read_list(path)
    except InputError:
        return
    assert all(isinstance(line, ListedFile) for line in listed)
