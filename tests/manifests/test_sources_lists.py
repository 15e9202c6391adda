"""Images whose labels or splits stand in a list."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.sources import open_held_out, open_source
from manifests.sources.base import ReadOptions, Source
from manifests.sources.listed import match_names
from manifests.sources.open import read_source


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path, "PNG")


def classes_of(source: Source) -> dict[str, str]:
    return {key: source.class_names[label] for key, label in zip(source.keys, source.labels_N, strict=True)}


def test_images_beside_a_csv_are_labelled_by_it(tmp_path: Path) -> None:
    put(*(tmp_path / "k" / "images" / f"{name}.png" for name in "abc"))
    (tmp_path / "k" / "train.csv").write_text("id,breed\na,pug\nb,collie\nc,pug\n")
    (tmp_path / "k" / "sample_submission.csv").write_text("id,label\na,x\nb,y\nc,x\n")
    source = open_source(str(tmp_path / "k"))
    assert classes_of(source) == {"images/a.png": "pug", "images/b.png": "collie", "images/c.png": "pug"}
    assert source.read_as.labels == "the list train.csv"
    assert source.read_as.left_out.examples == {"files ending in .csv": ["sample_submission.csv"]}


def test_a_list_is_not_left_out_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file of its name, in another folder, is."""
    put(*(tmp_path / "d" / "images" / f"{name}.png" for name in "ab"))
    for place in (tmp_path / "d" / "images", tmp_path / "d", tmp_path):
        (place / "my.csv").write_text("file,kind\na,x\nb,y\n")
    (tmp_path / "d" / "images" / "my.csv").write_text("no list")
    monkeypatch.chdir(tmp_path / "d")
    for path, others in ((tmp_path / "my.csv", 2), (Path("my.csv"), 1), (Path("../my.csv"), 2)):
        source = read_source(str(tmp_path / "d"), ReadOptions(list_file=path, label="kind"))
        assert source.read_as.left_out.counts == {"files ending in .csv": others}


def test_the_metadata_of_the_hub_labels_the_images_of_its_folder(tmp_path: Path) -> None:
    for split, label in (("train", "ab"), ("test", "ba")):
        put(tmp_path / "hf" / split / "1.png", tmp_path / "hf" / split / "2.png")
        lines = f"file_name,label\n1.png,{label[0]}\n2.png,{label[1]}\n"
        (tmp_path / "hf" / split / "metadata.csv").write_text(lines)
    source = open_source(str(tmp_path / "hf"))
    assert (source.split, classes_of(source)) == ("train", {"train/1.png": "a", "train/2.png": "b"})
    assert classes_of(open_held_out(str(tmp_path / "hf"))) == {"test/1.png": "b", "test/2.png": "a"}


def test_tiny_imagenet_is_read_as_it_is_distributed(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    for wnid in ("n02", "n01"):
        put(root / "train" / wnid / "images" / f"{wnid}_0.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t1\t1\n")
    put(*(root / "val" / "images" / f"val_{row}.JPEG" for row in (0, 1, 2)), root / "test" / "images" / "test_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t62\t62\nval_1.JPEG\tn01\t0\t0\t62\t62\nval_2.JPEG\tn01\t0\t0\t62\t62\n"
    )
    (root / "wnids.txt").write_text("n02\nn01\n")
    train, held_out = open_source(str(root)), open_held_out(str(root))
    assert classes_of(train) == {"train/n01/images/n01_0.JPEG": "n01", "train/n02/images/n02_0.JPEG": "n02"}
    assert held_out.split == "val"
    assert list(classes_of(held_out).values()) == ["n02", "n01", "n01"]
    assert train.class_names == held_out.class_names == ("n01", "n02")
    assert open_source(str(root), classes=root / "wnids.txt").class_names == ("n02", "n01")
    with pytest.raises(InputError, match=r"only one class|no class folders"):
        open_source(str(root), split="test")


def test_a_list_of_class_numbers_takes_names_by_number(tmp_path: Path) -> None:
    put(*(tmp_path / "d" / "train" / f"{name}.png" for name in "abc"))
    (tmp_path / "d" / "train_list.txt").write_text("train/a.png 10\ntrain/b.png 2\ntrain/c.png 2\n")
    assert classes_of(open_source(str(tmp_path / "d"))) == {"train/a.png": "10", "train/b.png": "2", "train/c.png": "2"}
    (tmp_path / "names.txt").write_text("\n".join(f"name {row}" for row in range(11)))
    named = open_source(str(tmp_path / "d"), classes=tmp_path / "names.txt")
    assert list(classes_of(named).values()) == ["name 10", "name 2", "name 2"]


def food(root: Path) -> Path:
    for row in range(4):
        put(root / "images" / "pie" / f"{row}.jpg", root / "images" / "soup" / f"{row}.jpg")
    (root / "meta").mkdir()
    (root / "meta" / "classes.txt").write_text("pie\nsoup\n")
    for split, rows in (("train", (0, 1, 2)), ("test", (3,))):
        lines = [f"{name}/{row}" for name in ("pie", "soup") for row in rows]
        (root / "meta" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_official_lists_are_the_splits_of_class_folders(tmp_path: Path) -> None:
    root = food(tmp_path / "food")
    source = open_source(str(root))
    assert (source.split, source.read_as.other_splits) == ("train", ("test",))
    assert len(source.keys) == 6
    assert source.read_as.left_out.counts == {"images that the list does not name": 2, "files ending in .txt": 2}
    assert list(classes_of(open_held_out(str(root)))) == ["images/pie/3.jpg", "images/soup/3.jpg"]
    assert len(open_source(str(root), split="none").keys) == 8


def test_the_lists_of_cub_give_splits_by_number(tmp_path: Path) -> None:
    root = tmp_path / "CUB_200_2011"
    keys = ["001.Auk/a.jpg", "001.Auk/b.jpg", "002.Jay/c.jpg", "002.Jay/d.jpg"]
    put(*(root / "images" / key for key in keys))
    (root / "images.txt").write_text("".join(f"{row} {key}\n" for row, key in enumerate(keys, 1)))
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 0\n4 1\n")
    (root / "classes.txt").write_text("1 001.Auk\n2 002.Jay\n")
    assert classes_of(open_source(str(root))) == {"images/001.Auk/a.jpg": "001.Auk", "images/002.Jay/d.jpg": "002.Jay"}
    assert list(open_held_out(str(root)).keys) == ["images/001.Auk/b.jpg", "images/002.Jay/c.jpg"]
    left_out = open_source(str(root)).read_as.left_out
    assert left_out.examples["files ending in .txt"] == ["classes.txt"]


def test_a_list_that_is_named_decides_with_its_splits(tmp_path: Path) -> None:
    put(*(tmp_path / "d" / f"{name}.png" for name in "abcde"))
    path = tmp_path / "all.csv"
    path.write_text("file,kind,fold\na,x,train\nb,y,train\nc,x,test\nd,y,test\ngone,y,test\n")
    options = ReadOptions(list_file=path, label="kind", split_column="fold")
    train = read_source(str(tmp_path / "d"), options)
    assert (train.split, classes_of(train)) == ("train", {"a.png": "x", "b.png": "y"})
    assert train.read_as.left_out.counts == {
        "images that the list does not name": 1,
        "lines of the list without a file": 1,
    }
    assert read_source(str(tmp_path / "d"), replace(options, split="test")).keys == ["c.png", "d.png"]
    assert len(read_source(str(tmp_path / "d"), replace(options, split="none")).keys) == 4


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"a.csv": "file,label\n1.png,x\n2.png,y\n", "b.csv": "file,label\n1.png,y\n2.png,x\n"},
            "a.csv, b.csv list its",
        ),
        ({"a.csv": "file,label\n1.png,x\n1.png,y\n2.png,y\n"}, "lists 1.png as 'x' and as 'y'"),
        ({"a.csv": "file,label\n7.png,x\n8.png,y\n"}, "no class folders, but images"),
        ({}, "no class folders, but images"),
    ],
)
def test_lists_that_do_not_decide_are_refused(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    put(tmp_path / "1.png", tmp_path / "2.png")
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path))


def test_a_list_of_other_files_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "d" / "1.png", tmp_path / "d" / "2.png")
    (tmp_path / "a.csv").write_text("file,label\n7.png,x\n8.png,y\n")
    with pytest.raises(InputError, match=r"none of the 2 files that .* lists is below") as caught:
        read_source(str(tmp_path / "d"), ReadOptions(list_file=tmp_path / "a.csv"))
    assert "7.png" in str(caught.value.hint)


def test_flat_images_name_the_list_in_the_folder_above(tmp_path: Path) -> None:
    put(tmp_path / "images" / "1.png", tmp_path / "images" / "2.png")
    (tmp_path / "train.csv").write_text("file,label\n1.png,x\n2.png,y\n")
    with pytest.raises(InputError, match=r"train\.csv above may list them: --list FILE"):
        open_source(str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("names", "keys", "expected"),
    [
        (["a.jpg"], ["x/a.jpg", "x/b.jpg"], ["x/a.jpg"]),
        (["./x/a.jpg", "x\\b.jpg"], ["x/a.jpg", "x/b.jpg"], ["x/a.jpg", "x/b.jpg"]),
        (["images/x/a"], ["x/a.jpg"], ["x/a.jpg"]),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], [None]),
        (["y/a.jpg"], ["d/x/a.jpg", "d/y/a.jpg"], ["d/y/a.jpg"]),
        (["a", "a.b"], ["a.png", "a.b.png"], ["a.png", "a.b.png"]),
        ([], ["a.png"], []),
        (["a"], [], [None]),
    ],
)
def test_names_are_matched_by_path_by_last_parts_and_without_ending(
    names: list[str], keys: list[str], expected: list[str | None]
) -> None:
    assert match_names(names, keys) == expected
