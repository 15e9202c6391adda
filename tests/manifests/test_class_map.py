"""Classes of another copy: by name in any order, by a table of two columns, never by a guess."""

import os
from pathlib import Path

import pytest

from manifests.copies.class_map import match_classes, read_class_map
from manifests.errors import InputError, MismatchError


def test_classes_match_by_name_whatever_the_order() -> None:
    assert match_classes(["cat", "dog", "eel"], ["eel", "cat", "dog"]).tolist() == [1, 2, 0]
    sorted_names, natural = ["1", "10", "2"], ["1", "2", "10"]
    assert match_classes(sorted_names, natural).tolist() == [0, 2, 1]
    assert match_classes(natural, sorted_names).tolist() == [0, 2, 1]


def test_a_class_map_translates_the_classes_it_names() -> None:
    pairs = [("n01440764", "tench"), ("n01443537", "goldfish"), ("n99999999", "of neither side")]
    assert match_classes(["n01440764", "n01443537", "cat"], ["cat", "goldfish", "tench"], pairs).tolist() == [2, 1, 0]


def test_other_classes_are_refused_with_the_difference() -> None:
    with pytest.raises(MismatchError) as caught:
        match_classes(["cat", "dog", "hat"], ["cap", "cat", "dog"])
    assert "only in the manifest hat; only in the data cap" in caught.value.message
    assert "--class-map" in (caught.value.hint or "")
    with pytest.raises(MismatchError, match=r"only in the manifest none; only in the data eel"):
        match_classes(["cat", "dog"], ["cat", "dog", "eel"])
    many = [f"c{number}" for number in range(9)]
    with pytest.raises(MismatchError, match=r"c0, c1, c2, c3, c4, \.\.\. \(9 in all\); only in the data x"):
        match_classes(many, ["x"])


def test_a_map_with_its_columns_turned_is_told() -> None:
    with pytest.raises(MismatchError) as caught:
        match_classes(["n1", "n2"], ["crab", "crane"], [("crab", "n1"), ("crane", "n2")])
    assert "the other way round" in (caught.value.hint or "")
    with pytest.raises(MismatchError) as caught:
        match_classes(["n1", "n2"], ["crab", "crane"], [("n1", "crab")])
    assert "complete the class map" in (caught.value.hint or "")


def test_a_class_that_a_map_calls_otherwise_is_told_with_that_name() -> None:
    with pytest.raises(MismatchError) as caught:
        match_classes(["cat", "hat"], ["cat", "hat"], [("hat", "cap")])
    assert "only in the manifest hat (cap by the class map); only in the data hat" in caught.value.message


def test_accents_match_in_both_spellings() -> None:
    one, two = "caf\u00e9", "cafe\u0301"
    assert match_classes([one, "tea"], ["tea", two]).tolist() == [1, 0]
    assert match_classes([two, "tea"], ["tea", one]).tolist() == [1, 0]
    assert match_classes(["coffee", "tea"], ["tea", two], [("coffee", one)]).tolist() == [1, 0]
    # Where they are two classes, they stay two.
    assert match_classes([one, two], [two, one]).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["crane", "maillot"])
def test_a_readable_name_of_two_classes_is_refused_with_both(name: str) -> None:
    pairs = [("n02012849", name), ("n03126707", name), ("n01440764", "tench")]
    wnids = ["n02012849", "n03126707", "n01440764"]
    for ours, theirs, rows in (
        (wnids, [name, "tench"], pairs),
        # Only one of the two is a class here: the other may still be what the data means.
        (["n02012849", "n01440764"], [name, "tench"], pairs),
        ([name, "tench"], wnids, [row[::-1] for row in pairs]),
    ):
        with pytest.raises(InputError) as caught:
            match_classes(ours, theirs, rows)
        assert f"{name!r} is 'n02012849' and 'n03126707'" in caught.value.message


def test_a_doubtful_name_of_no_class_here_is_nobodys_business() -> None:
    pairs = [("n02012849", "crane"), ("n03126707", "crane"), ("n01440764", "tench"), ("n01443537", "goldfish")]
    assert match_classes(["n01440764", "n01443537"], ["goldfish", "tench"], pairs).tolist() == [1, 0]


def test_two_classes_that_a_map_makes_one_are_refused() -> None:
    with pytest.raises(InputError, match="a and b would both be 'b'"):
        match_classes(["a", "b"], ["b"], [("a", "b"), ("c", "d")])


@pytest.mark.parametrize("header", ["ours,theirs\n", "wnid,name\n", "", "\ufeffOurs,Theirs\r\n"])
def test_the_header_of_a_map_is_optional(tmp_path: Path, header: str) -> None:
    path = tmp_path / "map.csv"
    path.write_text(header + 'n1, crab\n\nn2,"crane, bird"\n', "utf-8")
    assert match_classes(["n1", "n2"], ["crane, bird", "crab"], read_class_map(path)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"n1\n", "row 1 has 1 names, expected two"),
        (b"n1,crab\nn2,\n", "row 2 has 1 names"),
        (b"n1,crab,3\n", "row 1 has 3 names"),
        (b"", "holds no class names"),
        (b"ours,theirs\n", "holds no class names"),
        (b"\xff\xfe\x00", "cannot read class names"),
        (b'n1,"crab\n', "cannot read class names"),
    ],
)
def test_what_is_no_map_is_refused_by_row(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_class_map(path)
    assert says in caught.value.message


def test_a_missing_map_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read class names from .*none\.csv"):
        read_class_map(tmp_path / "none.csv")


@pytest.mark.timeout(20)
def test_a_pipe_or_device_is_not_a_class_map(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.csv"):
        with pytest.raises(InputError, match="not a regular file"):
            read_class_map(tmp_path / name)
