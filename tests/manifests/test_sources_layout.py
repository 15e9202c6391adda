"""What is a split, a class, an image, in folders as people have them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from manifests.errors import InputError
from manifests.images.decode import Encoded, decode_rgb
from manifests.sources import open_held_out, open_source


def put(path: Path, format_: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, format_)
    return path


def tree(root: Path, *folders: str) -> Path:
    """Three classes of one image in each folder; a folder with a dot at its end holds one image and no classes."""
    for folder in folders:
        for name in ("0.png",) if folder.endswith(".") else ("hat/0.png", "shoes/0.png", "dress/0.png"):
            put(root / folder.rstrip(".") / name)
    return root


@pytest.mark.parametrize(
    ("folders", "split", "prefix", "held_out"),
    [
        (("",), None, "", None),
        (("train", "test"), "train", "train/", "test"),
        (("training_set", "test_set"), "training_set", "training_set/", "test_set"),
        (("seg_train/seg_train", "seg_test/seg_test"), "seg_train", "seg_train/seg_train/", "seg_test"),
        (("Training", "Testing"), "Training", "Training/", "Testing"),
        (("train", "dev"), "train", "train/", "dev"),
        (("training", "validation", "evaluation"), "training", "training/", "validation"),
        (("train/train", "test/test"), "train", "train/train/", "test"),
        (("letters_train/letters_train", "letters_test."), "letters_train", "letters_train/letters_train/", None),
        (("train", "val", "test."), "train", "train/", "val"),
        (("train", "val", "test/images."), "train", "train/", "val"),
        (("train", "val", "extra"), "train", "train/", "val"),
        (("photos/train", "photos/val"), "train", "photos/train/", "val"),
        (("101_ObjectCategories",), None, "101_ObjectCategories/", None),
        (("train/images", "val/images"), "train", "train/images/", "val"),
    ],
)
def test_splits_are_known_by_the_words_of_their_names(
    tmp_path: Path, folders: tuple[str, ...], split: str | None, prefix: str, held_out: str | None
) -> None:
    root = str(tree(tmp_path / "d", *folders))
    source = open_source(root)
    assert (source.split, source.class_names) == (split, ("dress", "hat", "shoes"))
    assert list(source.keys) == [f"{prefix}{name}/0.png" for name in ("dress", "hat", "shoes")]
    if held_out is not None:
        assert open_held_out(root).split == held_out


def test_what_lies_beside_the_splits_is_told(tmp_path: Path) -> None:
    source = open_source(str(tree(tmp_path, "train", "val", "test.", "extra")))
    assert source.read_as.other_splits == ("test", "val")
    assert str(source.read_as.left_out) == "folders beside the splits: 1 (extra)"


@pytest.mark.parametrize(
    ("folders", "message", "choice"),
    [
        (("fold_1", "fold_2"), "fold_1, fold_2 may be splits or classes: each holds dress, hat, shoes", "fold_1"),
        (("color", "grayscale", "segmented"), "may be splits or classes", "color"),
        (("train", "bus", "car"), "train may be a split, or a class beside bus, car", "train"),
        (("train", "unlabelled."), "train may be a split, or a class beside unlabelled", "train"),
    ],
)
def test_folders_that_may_be_either_are_refused_and_split_decides(
    tmp_path: Path, folders: tuple[str, ...], message: str, choice: str
) -> None:
    root = tree(tmp_path, *folders)
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(root))
    assert str(caught.value.hint) == f"if splits, choose one: --split {choice}; if classes: --split none"
    assert open_source(str(root), split=choice).class_names == ("dress", "hat", "shoes")
    assert open_source(str(root), split="none").class_names == tuple(sorted(name.rstrip(".") for name in folders))


def test_a_class_called_train_is_a_class_also_with_one_folder_in_each(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        put(tmp_path / name / "images" / "0.png")
    assert open_source(str(tmp_path)).class_names == ("bus", "car", "train")


def test_classes_with_other_subfolders_each_are_classes(tmp_path: Path) -> None:
    for name in ("cat/persian", "cat/siam", "dog/pug", "dog/collie"):
        put(tmp_path / name / "0.png")
    assert open_source(str(tmp_path)).class_names == ("cat", "dog")


def test_folders_of_the_system_are_neither_classes_nor_images(tmp_path: Path) -> None:
    root = tree(tmp_path, "")
    for junk in (
        "__MACOSX/hat",
        "hat/@eaDir/0.png",
        "#recycle",
        "$RECYCLE.BIN",
        "lost+found",
        "hat/.ipynb_checkpoints",
    ):
        put(root / junk / "1.png")
    (root / "logs").mkdir()
    source = open_source(str(root))
    assert source.class_names == ("dress", "hat", "shoes")
    assert list(source.keys) == ["dress/0.png", "hat/0.png", "shoes/0.png"]
    assert source.read_as.left_out.counts == {"folders of the system": 6, "folders without images": 1}


def test_images_are_known_by_their_endings_or_without_one_by_their_first_bytes(tmp_path: Path) -> None:
    root = tree(tmp_path, "")
    for name in ("a.jfif", "b.jpe", "C.JPG", "no-ending", "download.jpg_large", "e.png?w=640"):
        put(root / "hat" / name, "JPEG")
    (root / "hat" / "LICENSE").write_text("text")
    (root / "hat" / "boxes.txt").write_text("text")
    source = open_source(str(root))
    assert [key for key in source.keys if key.startswith("hat/")] == [
        "hat/0.png", "hat/C.JPG", "hat/a.jfif", "hat/b.jpe", "hat/no-ending",
    ]  # fmt: skip
    assert source.read_as.left_out.counts == {
        "files ending in .jpg_large": 1,
        "files ending in .png?w=640": 1,
        "files ending in .txt": 1,
        "files without an ending": 1,
    }
    assert sorted(source.read_as.left_out.images_by_content) == [
        "files ending in .jpg_large",
        "files ending in .png?w=640",
    ]


@pytest.mark.parametrize(("ending", "format_"), [("avif", "AVIF"), ("jp2", "JPEG2000"), ("jpg", "AVIF")])
def test_avif_and_jpeg_2000_are_decoded_where_pillow_has_them(tmp_path: Path, ending: str, format_: str) -> None:
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}[format_]):
        pytest.skip(f"this Pillow has no {format_}")
    put(tree(tmp_path, "") / "hat" / f"a.{ending}", format_)
    source = open_source(str(tmp_path))
    image = source.read([source.keys.index(f"hat/a.{ending}")])[0]
    assert isinstance(image, Encoded)
    assert np.abs(decode_rgb(image).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("file", ["names.txt", "names.json", "by-folder.json"])
def test_folders_that_are_numbers_are_the_classes_of_these_numbers(tmp_path: Path, file: str) -> None:
    names = [f"name {number}" for number in range(12)]
    for number in range(12):
        put(tmp_path / "d" / str(number) / "0.png")
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "by-folder.json").write_text(json.dumps({str(number): names[number] for number in range(12)}))
    source = open_source(str(tmp_path / "d"), classes=tmp_path / file)
    for key, label in zip(source.keys, source.labels_N, strict=True):
        assert source.class_names[label] == f"name {key.split('/')[0]}"


def test_folders_counted_from_1_need_names_by_folder(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        put(tmp_path / "d" / str(number) / "0.png")
    (tmp_path / "names.txt").write_text("one\ntwo\nten\n")
    with pytest.raises(InputError, match=r"has the class folder 10, but .* names the classes 0 to 2") as caught:
        open_source(str(tmp_path / "d"), classes=tmp_path / "names.txt")
    assert '{"folder": "name"}' in str(caught.value.hint)
    (tmp_path / "names.json").write_text('{"10": "ten", "2": "two", "1": "one"}')
    source = open_source(str(tmp_path / "d"), classes=tmp_path / "names.json")
    assert source.class_names == ("one", "two", "ten")
    assert dict(zip(source.keys, source.labels_N.tolist(), strict=True)) == {"1/0.png": 0, "10/0.png": 2, "2/0.png": 1}


def test_two_folders_of_the_same_number_are_refused(tmp_path: Path) -> None:
    for name in ("7", "07"):
        put(tmp_path / "d" / name / "0.png")
    (tmp_path / "names.txt").write_text("\n".join("abcdefgh"))
    with pytest.raises(InputError, match="two folders of the same number"):
        open_source(str(tmp_path / "d"), classes=tmp_path / "names.txt")


def test_the_same_images_without_a_split_folder_have_the_same_labels(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "train", "test")
    shutil.copytree(root / "train", tmp_path / "b")
    one, two = open_source(str(root)), open_source(str(tmp_path / "b"))
    assert one.class_names == two.class_names
    assert one.labels_N.tolist() == two.labels_N.tolist()
