"""`prune import FILE --key --score`: somebody else's numbers become scores of a manifest."""

import csv
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_manifests import make
from PIL import Image

from manifests.integrity import verify
from manifests.manifest import Manifest
from prune_toolkit.imports.match_keys import match_keys

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "1.2"
INDEX, SCORES = GOLDEN / "index", GOLDEN / "scores"
KEYS = Manifest.open(INDEX).samples().column("key").to_pylist()
READABLE = [key for key in KEYS if "broken" not in key]
VALUES = {key: float(row * row % 7) for row, key in enumerate(READABLE)}
FLAGS = ("--key", "file", "--score", "hard", "--harder", "high")
Run = Callable[..., subprocess.CompletedProcess[str]]


def table(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("file", "hard")) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Every readable sample, from the last to the first."""
    return table(tmp_path / "scores.csv", list(reversed(VALUES.items())))


def imported(folder: Path, name: str = "imported") -> dict[int, float]:
    found = Manifest.open(folder).scores(name)
    return dict(zip(*(found.column(column).to_pylist() for column in found.column_names[:2]), strict=True))


EXPECTED = {KEYS.index(key): value for key, value in VALUES.items()}


def test_a_column_becomes_a_score_of_a_scored_manifest(prune: Run, scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = prune("import", scores, SCORES, *FLAGS, "-o", out).stdout
    assert "imported/hard of 12 samples" in told
    manifest, parent = Manifest.open(out), Manifest.open(SCORES)
    assert imported(out) == EXPECTED
    assert manifest.header.scores[-1].model_dump(exclude_none=True) == {
        "set": "imported",
        "name": "hard",
        "formula": "column hard",
        "source": "imported",
        "harder": "high",
    }
    assert manifest.header.scores[:-1] == parent.header.scores
    assert manifest.header.parents == [parent.id]
    assert manifest.header.teacher == parent.header.teacher
    assert verify(out).ok
    for entry in parent.header.files:
        assert (out / entry.path).read_bytes() == (SCORES / entry.path).read_bytes()


def test_selecting_by_it_takes_the_middle_of_its_ranking(prune: Run, scores: Path, tmp_path: Path) -> None:
    out, chosen = tmp_path / "out", tmp_path / "chosen"
    prune("import", scores, SCORES, *FLAGS, "-o", out)
    prune("select", out, "--keep", "0.5", "--score", "imported/hard", "--no-beton", "-o", chosen)
    selection = Manifest.open(chosen).selection()
    reasons = dict(zip(KEYS, selection.column("reason").to_pylist(), strict=True))
    # a-red has 0, 1, 4, 2 in the order of its readable keys.
    assert [reasons[key] for key in READABLE[:4]] == ["too easy", "kept", "too hard", "kept"]


def test_an_index_with_scores_is_selected_from_without_labels(prune: Run, scores: Path, tmp_path: Path) -> None:
    out, chosen = tmp_path / "out", tmp_path / "chosen"
    prune("import", scores, INDEX, *FLAGS, "-o", out)
    assert Manifest.open(out).kind == "scores"
    images = GOLDEN.parent / "images"
    words = ("select", out, "--keep", "0.5", "--score", "hard", "--data", images, "-o", chosen)
    assert "labels none" in prune(*words).stdout
    header = Manifest.open(chosen).header
    assert header.labels is None
    assert not [entry for entry in header.files if entry.path.startswith("targets")]
    assert verify(chosen).ok
    refused = prune(*words[:-1], tmp_path / "other", "--views", "1", code=2).stderr
    assert "--views: without soft labels" in refused


def test_parquet_is_read_like_csv_and_several_columns_at_once(prune: Run, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    columns = {"file": list(VALUES), "a": list(VALUES.values()), "b": [-value for value in VALUES.values()]}
    pq.write_table(pa.table(columns), path)
    flags = ("--score", "a", "--score", "b", "--harder", "high", "--harder", "low", "--name", "up", "--name", "down")
    prune("import", path, INDEX, "--key", "file", *flags, "--set", "mine", "-o", tmp_path / "out")
    found = Manifest.open(tmp_path / "out").scores("mine")
    assert found.column("up").to_pylist() == list(VALUES.values())
    assert found.column("down").to_pylist() == [-value for value in VALUES.values()]
    specs = {spec.name: spec.harder for spec in Manifest.open(tmp_path / "out").header.scores}
    assert specs == {"up": "high", "down": "low"}


@pytest.mark.parametrize(
    ("missing", "expected"), [("mean", 13 / 6), ("hardest", 5.0), ("easiest", 0.0), ("-2.5", -2.5), (None, None)]
)
def test_samples_without_a_value_are_refused_or_get_what_was_asked(
    prune: Run, tmp_path: Path, missing: str | None, expected: float | None
) -> None:
    known = dict(zip(READABLE[:6], [0.0, 1.0, 2.0, 2.0, 3.0, 5.0], strict=True))
    path = table(tmp_path / "s.csv", [*known.items(), (READABLE[6], ""), (READABLE[7], "nan")])
    out = tmp_path / "out"
    if missing is None:
        refused = prune("import", path, INDEX, *FLAGS, "-o", out, code=4).stderr
        assert f"no hard for 6 of 13 samples; the first: {READABLE[6]}" in refused
        assert not out.exists()
        return
    prune("import", path, INDEX, *FLAGS, "--missing", missing, "-o", out)
    assert list(imported(out).values()) == pytest.approx([*known.values(), *[expected] * 6])


def test_rows_that_match_nothing_are_counted_and_listed(prune: Run, tmp_path: Path) -> None:
    strangers = [f"x/{row}.jpg" for row in range(5)]
    path = table(tmp_path / "s.csv", [*VALUES.items(), *((key, 1) for key in strangers)])
    listing = tmp_path / "unmatched.txt"
    told = prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out", "--list", listing).stderr
    assert "5 of 17 rows of s.csv match no sample" in told
    assert "the first: x/0.jpg, x/1.jpg, x/2.jpg;" in told
    assert listing.read_text().split() == strangers
    assert imported(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize(
    ("rows", "flags", "code", "message"),
    [
        ([("x.jpg", 1)], (), 4, "1 of 1 rows of s.csv match no sample"),
        ([(READABLE[0], 1), (READABLE[0], 2)], (), 3, f"names {READABLE[0]} twice, as 1 and 2"),
        ([(READABLE[0], "inf")], (), 3, f"of {READABLE[0]} is inf"),
        ([(READABLE[0], 1e39)], (), 3, "scores must be finite float32 numbers"),
        ([(READABLE[0], "high")], (), 3, "cannot be read"),
        ([], (), 3, ""),
        ([(READABLE[0], 1)], ("--score", "other"), 2, "has no column 'other'"),
        ([(READABLE[0], 1)], ("--set", "teacher"), 2, "not one of teacher"),
        ([(READABLE[0], 1)], ("--set", "../up"), 2, "--set ../up"),
        ([(READABLE[0], 1)], ("--name", "a/b"), 2, "--name 'a/b'"),
        ([(READABLE[0], 1)], ("--missing", "worst"), 2, "--missing worst"),
        ([(READABLE[0], 1)], ("--missing", "1e39"), 2, "--missing 1e39"),
        ([(READABLE[0], 1)], ("--harder", "low"), 2, "give --harder once"),
        ([(READABLE[0], 1)], ("--indices", "--logits"), 2, "--indices and --logits"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    prune: Run, tmp_path: Path, rows: list[tuple[Any, ...]], flags: tuple[str, ...], code: int, message: str
) -> None:
    path = table(tmp_path / "s.csv", rows) if rows else tmp_path / "absent.csv"
    assert message in prune("import", path, INDEX, *FLAGS, *flags, "-o", tmp_path / "out", code=code).stderr
    assert not (tmp_path / "out").exists()


def test_another_kind_of_file_is_told_which_kinds_are_read(prune: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "s.json", [(READABLE[0], 1)])
    told = prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out", code=2).stderr
    assert "s.json: scores with keys can be read from .csv, .tsv and .parquet files" in told


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(prune: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s.{suffix}"
    for names in (["file", "hard", "hard"], ["file", "file", "hard"]):
        if suffix == "csv":
            path.write_text(f"{','.join(names)}\n{READABLE[0]},1,2\n")
        else:
            pq.write_table(pa.table([[READABLE[0]], [1.0], [2.0]], names=names), path)
        told = prune("import", path, INDEX, "--key", "file", "--score", "hard", "--harder", "high", code=3).stderr
        assert "has 2 columns named" in told


def test_one_column_may_be_two_scores_and_be_called_key(prune: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("file,key\n" + "".join(f"{key},{value}\n" for key, value in VALUES.items()))
    flags = ("--key", "file", "--score", "key", "--score", "key", "--name", "a", "--name", "b", "--harder", "high")
    prune("import", path, INDEX, *flags, "-o", tmp_path / "out")
    scores = Manifest.open(tmp_path / "out").scores("imported")
    assert scores.column("a").to_pylist() == scores.column("b").to_pylist() == list(EXPECTED.values())


def test_a_key_with_a_line_break_is_told_and_listed_in_one_line(prune: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", [*VALUES.items(), ("a\nb\r\x1b[31m", 3), ("\u202eé", 4)])
    listing = tmp_path / "list.txt"
    told = prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out", "--list", listing).stderr
    assert len(told.splitlines()) == 1
    assert f"of {INDEX}; the first: a\\nb\\r\\u001b[31m, \\u202eé; all of them: {listing}\n" in told
    assert listing.read_text(encoding="utf-8").split("\n") == ["a\\nb\\r\x1b[31m", "\u202eé", ""]


def test_a_list_is_written_of_a_finished_import_too(prune: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", [*VALUES.items(), ("x.jpg", 3)])
    words = ("import", path, INDEX, *FLAGS, "-o", tmp_path / "out")
    prune(*words)
    assert prune(*words).stderr == f"{tmp_path / 'out'} is finished already\n"
    assert "x.jpg" in prune(*words, "--list", tmp_path / "list.txt").stderr
    assert (tmp_path / "list.txt").read_text() == "x.jpg\n"


def test_a_file_in_the_place_of_the_folder_is_told_as_such(prune: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scores = table(tmp_path / "s.csv", list(VALUES.items()))
    (tmp_path / "s.txt").write_text("0\n")
    np.save(tmp_path / "l.npy", np.zeros((13, 3), np.float32))
    for words in (
        (scores, INDEX, *FLAGS),
        (tmp_path / "s.txt", INDEX, "--indices", "--no-beton"),
        (tmp_path / "l.npy", INDEX, "--logits", "--teacher-name", "x", "--image-size", "8"),
    ):
        told = prune("import", *words, "-o", tmp_path / "file", code=2).stderr
        assert "file is a file; the manifest needs a folder" in told


def test_the_next_command_can_be_typed_as_it_stands(prune: Run, tmp_path: Path) -> None:
    path, out = table(tmp_path / "s.csv", list(VALUES.items())), tmp_path / "my scores"
    told = prune("import", path, INDEX, *FLAGS, "-o", out).stdout.splitlines()[-1]
    words = shlex.split(told.removeprefix("next: "))
    assert words == ["prune", "select", str(out), "--keep", "0.5", "--score", "imported/hard"]


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_table_with_other_signs_between_its_columns_is_told(prune: Run, tmp_path: Path, sign: str, name: str) -> None:
    (tmp_path / "s.csv").write_text(f"file{sign}hard\n{READABLE[0]}{sign}1\n")
    told = prune("import", tmp_path / "s.csv", INDEX, *FLAGS, "-o", tmp_path / "out", code=2).stderr
    assert f"its columns seem to be separated by {name}: use commas in .csv, tabs in .tsv" in told


def test_equal_rows_and_a_finished_import_are_no_fault(prune: Run, tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", [*VALUES.items(), *VALUES.items()])
    first = json.loads(prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out", "--json").stdout)
    again = json.loads(prune("import", path, INDEX, *FLAGS, "-o", tmp_path / "out", "--json").stdout)
    assert first["id"] == again["id"]
    refused = prune("import", path, tmp_path / "out", *FLAGS, "-o", tmp_path / "twice", code=2).stderr
    assert "already has scores of set imported" in refused
    prune("import", path, INDEX, *FLAGS, "--missing", "0", "-o", tmp_path / "out", code=2)


def rows_of(theirs: list[str | None], ours: list[str]) -> list[int]:
    return match_keys(pa.chunked_array([pa.array(theirs, pa.string())]), pa.chunked_array([ours])).row_F.tolist()


def test_keys_match_as_they_are_then_by_a_file_name_that_is_unique_on_both_sides() -> None:
    ours = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg", "c/4.jpg"]
    assert rows_of(["a/1.jpg", "b/1.jpg"], ours) == [0, 2]
    assert rows_of(["2.jpg", "/data/x/3.jpg", "C:\\photos\\4.jpg"], ours) == [1, 3, 4]
    # Two of ours are called 1.jpg; once one of them is taken the other one is meant.
    assert rows_of(["1.jpg"], ours) == [-1]
    assert rows_of(["a/1.jpg", "1.jpg"], ours) == [0, 2]
    assert rows_of(["x/3.jpg", "y/3.jpg"], ours) == [-1, -1]
    assert rows_of(["x/3.jpg", "x/3.jpg"], ours) == [3, 3]
    assert rows_of([None, "5.jpg", ""], ours) == [-1, -1, -1]


def test_folders_above_the_classes_say_nothing_of_them() -> None:
    ours = ["home/2.jpg", "street/1.jpg"]
    assert rows_of(["/home/u/places/street/1.jpg", "/home/u/places/home/2.jpg"], ours) == [1, 0]
    assert rows_of(["/home/u/home/1.jpg"], ours) == [-1]
    assert rows_of(["/scratch/test/clothing/shirt/1.jpg"], ["train/shirt/1.jpg", "train/hat/2.jpg"]) == [0]
    assert rows_of(["/scratch/test/shirt/1.jpg"], ["train/shirt/1.jpg", "train/hat/2.jpg"]) == [-1]


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("cat/2.jpg", 1),
        ("imagenet/train/cat/2.jpg", 1),
        ("C:\\data\\training\\cat\\2.jpg", 1),
        ("data/test/old/train/cat/2.jpg", 1),
        ("animals/2.jpg", 1),
        ("test/cat/2.jpg", -1),
        ("D:\\val\\cat\\2.jpg", -1),
        ("test/2.jpg", -1),
        ("train/eel/3.jpg", -1),
        ("x/eel/old/3.jpg", -1),
        ("x/dog/3.jpg", 3),
        ("a\nb/2.jpg", 1),
    ],
)
def test_a_name_in_the_folder_of_another_class_or_split_is_another_image(key: str, row: int) -> None:
    ours = ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/3.jpg", "train/eel/4.jpg"]
    assert rows_of([key], ours) == [row]


def test_row_numbers_are_no_names(prune: Run, tmp_path: Path) -> None:
    ours = ["train/00000000", "train/00000007"]
    make(tmp_path / "index", ours, [0, 1], data={"source": "idx"})
    path = table(tmp_path / "s.csv", [("train/00000000", 1), ("test/00000007", 99)])
    refused = prune("import", path, tmp_path / "index", *FLAGS, "-o", tmp_path / "out", code=4).stderr
    assert "1 of 2 rows of s.csv match no sample" in refused
    assert "no hard for 1 of 2 samples; the first: train/00000007" in refused
    (tmp_path / "s.txt").write_text("train/00000000\n00000007\n")
    told = prune("import", tmp_path / "s.txt", tmp_path / "index", "--indices", "--no-beton", "-o", tmp_path / "chosen")
    assert "1 samples kept" in told.stdout
    pq.write_table(pa.table({"key": ["train/00000000", "00000007"], "z": [[1.0, 2, 3]] * 2}), tmp_path / "l.parquet")
    words = ("import", tmp_path / "l.parquet", tmp_path / "index", "--logits", "--teacher-name", "x", "--image-size", 8)
    assert "no logits for 1 of 2 samples" in prune(*words, "-o", tmp_path / "scored", code=4).stderr


@given(st.permutations(range(8)), st.integers(0, 8))
def test_the_order_of_either_side_plays_no_part(order: list[int], by_name: int) -> None:
    ours = [f"{row % 3}/{row}.jpg" for row in range(8)]
    theirs = [ours[row] if row >= by_name else f"elsewhere/{row}.jpg" for row in order]
    assert rows_of(theirs, ours) == order


@pytest.mark.slow
def test_a_million_rows_are_matched_about_as_fast_as_they_are_written_down_and_in_little_memory(tmp_path: Path) -> None:
    import resource
    import sys
    import time

    count, start = 1_281_167, time.monotonic()
    ours = pa.array([f"train/n{row % 1000:08d}/n{row % 1000:08d}_{row}.JPEG" for row in range(count)])
    names = pa.array([f"n{row % 1000:08d}_{row}.JPEG" for row in np.random.default_rng(0).permutation(count).tolist()])
    before, made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    matched = match_keys(pa.chunked_array([names]), pa.chunked_array([ours]))
    assert matched.by_name == count
    assert sorted(matched.row_F.tolist()) == list(range(count))
    assert time.monotonic() - made < 10 * (made - start)
    if sys.platform == "linux":
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500


ROW_FLAGS = ("--score", "el2n", "--harder", "high")


def of_rows(path: Path, values: Any) -> Path:
    np.save(path, np.asarray(values))
    return path


@pytest.mark.parametrize("only_readable", [False, True])
def test_an_array_holds_one_number_per_row_in_the_order_of_keys(
    prune: Run, tmp_path: Path, only_readable: bool
) -> None:
    """Row 4 cannot be read: its number plays no part."""
    values = [float(row) for row in range(13) if not only_readable or "broken" not in KEYS[row]]
    prune("import", of_rows(tmp_path / "s.npy", values), INDEX, *ROW_FLAGS, "-o", tmp_path / "out")
    assert imported(tmp_path / "out") == {row: float(row) for row in range(13) if row != 4}
    assert Manifest.open(tmp_path / "out").header.scores[-1].formula == "array el2n"


def test_arrays_of_an_archive_are_scores_by_their_names(prune: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", a=np.arange(13), b=-np.arange(13.0), other=np.zeros((2, 2)))
    words = ("import", tmp_path / "s.npz", INDEX, "--harder", "low", "-o", tmp_path / "x", "--score")
    prune(*words, "a", "--score", "b", "-o", tmp_path / "out")
    found = Manifest.open(tmp_path / "out").scores("imported")
    assert found.column("b").to_pylist() == [-row for row in found.column("sample_id").to_pylist()]
    assert "has no array 'c'" in prune(*words, "c", code=2).stderr
    assert "other is float64 of shape (2, 2)" in prune(*words, "other", code=3).stderr


@pytest.mark.parametrize(
    ("values", "flags", "code", "message"),
    [
        (np.arange(11), ROW_FLAGS, 4, "has rows of 11 samples"),
        (np.zeros((13, 1)), ROW_FLAGS, 3, "numbers of shape (N,)"),
        (np.full(13, np.inf), ROW_FLAGS, 3, "scores must be finite"),
        (np.full(13, np.nan), ROW_FLAGS, 4, "to fill them in: --missing"),
        (np.array(["a"] * 13), ROW_FLAGS, 3, "numbers of shape (N,)"),
        (np.arange(13), (*ROW_FLAGS, "--key", "file"), 2, "holds arrays without keys"),
        (np.arange(13), (*ROW_FLAGS, "--score", "b"), 2, "holds one array"),
        (np.arange(13), ("--score", "a"), 2, "--harder is missing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    prune: Run, tmp_path: Path, values: Any, flags: tuple[str, ...], code: int, message: str
) -> None:
    path = of_rows(tmp_path / "s.npy", values)
    assert message in prune("import", path, INDEX, *flags, "-o", tmp_path / "out", code=code).stderr


def test_the_order_of_rows_is_certain_or_asked_for(prune: Run, tmp_path: Path, scores: Path) -> None:
    """ImageFolder lists a/1, a/2, a-b/1; keys sort as a-b/1, a/1, a/2."""
    for number, name in enumerate(["a/1.png", "a/2.png", "a-b/1.png"]):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / name)
    index = tmp_path / "index"
    prune("index", "--data", tmp_path / "images", "-o", index)
    path, logits = of_rows(tmp_path / "s.npy", [10, 11, 12]), tmp_path / "l.npy"
    np.save(logits, np.float32([[1, 0], [2, 0], [3, 0]]))
    teacher = ("--logits", "--teacher-name", "t", "--image-size", "8")
    for words in ((path, index, *ROW_FLAGS), (logits, index, *teacher)):
        assert "--order imagefolder or --order keys" in prune("import", *words, "-o", tmp_path / "x", code=2).stderr
    for order, expected in (("imagefolder", [12, 10, 11]), ("keys", [10, 11, 12])):
        prune("import", path, index, *ROW_FLAGS, "--order", order, "-o", tmp_path / order)
        assert imported(tmp_path / order) == dict(enumerate(map(float, expected)))
        prune("import", logits, index, *teacher, "--order", order, "-o", tmp_path / f"logits-{order}")
        [(_, found)] = Manifest.open(tmp_path / f"logits-{order}").logits()
        assert found[:, 0].tolist() == [value - 9 for value in expected]
    told = prune("import", scores, INDEX, *FLAGS, "--order", "keys", "-o", tmp_path / "y", code=2).stderr
    assert "found by their keys, in any order" in told


def test_rows_of_a_list_of_files_have_no_certain_order(prune: Run, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    (images / "train.csv").write_text("image,label\n1.png,cat\n0.png,dog\n")
    prune("index", "--data", images, "-o", tmp_path / "index")
    path = of_rows(tmp_path / "s.npy", [10, 11])
    words = ("import", path, tmp_path / "index", *ROW_FLAGS, "-o", tmp_path / "out")
    assert "the list train.csv may have another order" in prune(*words, code=2).stderr
    prune(*words, "--order", "keys")
    assert imported(tmp_path / "out") == {0: 10.0, 1: 11.0}
