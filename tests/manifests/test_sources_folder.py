import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.images.decode import Encoded, ImageProblem
from manifests.sources import open_source


def put(path: Path, grey: int = 0) -> Path:
    """A 2x2 PNG, whatever the file's extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), grey).save(path, "PNG")
    return path


def tree(root: Path, *keys: str) -> Path:
    for number, key in enumerate(keys):
        put(root / key, number)
    return root


def test_class_folders_give_keys_below_the_named_folder(tmp_path: Path) -> None:
    source = open_source(str(tree(tmp_path / "pets", "dog/2.png", "dog/1.png", "cat/9.png")))
    assert (source.kind, source.name, source.split) == ("folder", "pets", None)
    assert source.class_names == ("cat", "dog")
    assert list(source.keys) == ["cat/9.png", "dog/1.png", "dog/2.png"]
    assert source.labels_N.tolist() == [0, 1, 1]
    assert source.labels_N.dtype == np.int32


def test_a_split_folder_prefixes_the_keys(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/dog/2.png")
    assert list(open_source(str(root)).keys) == ["train/cat/1.png", "train/dog/1.png"]
    for spelling in ("val", "test", "validation", "VAL"):
        source = open_source(str(root), split=spelling)
        assert list(source.keys) == ["val/cat/2.png", "val/dog/2.png"]
        assert source.split == "val"
    named = open_source(str(root / "train"))
    assert list(named.keys) == ["cat/1.png", "dog/1.png"]
    assert named.name == tmp_path.name


def test_keys_are_sorted_by_their_utf8_bytes_whatever_the_folders_are_called(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/z.png", "a b/é.png", "a b/z.png", "Z/\U0001f600.png", "Z/\uffee.png", "é/1.png")
    source = open_source(str(root))
    assert list(source.keys) == sorted(source.keys, key=str.encode)
    assert source.keys[:2] == ["Z/\uffee.png", "Z/\U0001f600.png"]
    assert [source.class_names[label] for label in source.labels_N] == [key.split("/")[0] for key in source.keys]


def test_hidden_and_foreign_files_are_skipped_and_nested_folders_walked(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat/deep/er/1.JPEG", "cat/.2.png", ".git/3.png", "dog/.h/4.png", "dog/5.Pgm")
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / "png").write_text("x")
    (root / "README.md").write_text("x")
    assert list(open_source(str(root)).keys) == ["cat/deep/er/1.JPEG", "dog/5.Pgm"]


def test_order_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = tree(tmp_path, "b/2.png", "b/10.png", "a/x.jpg", "a/n/1.webp", "a/n2/0.bmp", "C/1.tiff", "C/2.ppm")
    oracle = ImageFolder(root)
    source = open_source(str(root))
    assert list(source.class_names) == oracle.classes
    expected = {Path(path).relative_to(root).as_posix(): label for path, label in oracle.samples}
    assert dict(zip(source.keys, source.labels_N.tolist(), strict=True)) == expected


def test_real_photographs_come_in_the_order_of_torchvision_byte_for_byte(shared_data: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = shared_data / "imagefolder_clothing"
    oracle = ImageFolder(root / "test").samples
    source = open_source(str(root), split="test")
    assert [(str(root / key), label) for key, label in zip(source.keys, source.labels_N, strict=True)] == oracle
    rows = [7, 0, 119, 7]
    for row, image in zip(rows, source.read(rows), strict=True):
        assert image == Encoded(Path(oracle[row][0]).read_bytes())


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    store = tree(tmp_path / "store", "a.png", "more/b.png")
    root = tree(tmp_path / "data", "cat/0.png", "dog/0.png")
    (root / "cat" / "1.png").symlink_to(store / "a.png")
    (root / "cat" / "all").symlink_to(store / "more")
    (root / "owl").symlink_to(store)
    source = open_source(str(root))
    assert list(source.keys) == [
        "cat/0.png", "cat/1.png", "cat/all/b.png", "dog/0.png", "owl/a.png", "owl/more/b.png",
    ]  # fmt: skip
    assert all(".." not in key for key in source.keys)
    assert all(isinstance(image, Encoded) for image in source.read(range(6)))


@pytest.mark.parametrize("target", ["..", ".", "../../cat"])
def test_a_link_to_a_folder_above_itself_is_left_out(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path, "cat/n/0.png", "dog/0.png")
    (root / "cat" / "n" / "loop").symlink_to(target)
    source = open_source(str(root))
    assert list(source.keys) == ["cat/n/0.png", "dog/0.png"]
    assert str(source.read_as.left_out) == "links to a folder above themselves: 1 (cat/n/loop)"


def test_folders_that_link_to_each_other_are_followed_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "cat/0.png", "dog/0.png")
    other = tree(tmp_path / "other", "1.png")
    (root / "cat" / "there").symlink_to(other)
    (other / "back").symlink_to(root / "cat")
    source = open_source(str(root))
    assert list(source.keys) == ["cat/0.png", "cat/there/1.png", "dog/0.png"]
    assert source.read_as.left_out.counts == {"links to a folder above themselves": 1}


def test_what_cannot_be_read_is_a_problem_in_its_place_without_a_path(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png")
    (root / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    source = open_source(str(root))
    (root / "cat" / "1.png").unlink()
    (root / "dog" / "0.png").unlink()
    os.mkfifo(root / "dog" / "0.png")
    assert list(source.keys) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png"]
    images = source.read([3, 2, 1, 0])
    assert [type(image) for image in images] == [ImageProblem, ImageProblem, ImageProblem, Encoded]
    assert [str(image) for image in images[:3]] == [
        "not a regular file",
        "cannot be read: No such file or directory",
        "cannot be read: No such file or directory",
    ]


def test_a_pipe_or_device_among_the_images_is_left_out_and_told(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat/0.png", "dog/0.png")
    os.mkfifo(root / "dog" / "1.png")
    os.mkfifo(root / "dog" / "2")
    os.mkfifo(root / "dog" / "3.csv")
    (root / "dog" / "4.jpg").symlink_to("/dev/zero")
    source = open_source(str(root))
    assert list(source.keys) == ["cat/0.png", "dog/0.png"]
    assert source.read_as.left_out.counts == {
        "pipes, sockets and devices": 2,
        "files without an ending": 1,
        "files ending in .csv": 1,
    }


def test_class_names_from_a_file_rename_sorted_folders(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "n01/0.png", "n02/0.png")
    names = tmp_path / "names.json"
    names.write_text('{"1": "shark", "0": "tench"}')
    source = open_source(str(root), classes=names)
    assert source.class_names == ("tench", "shark")
    assert source.labels_N.tolist() == [0, 1]


def test_class_names_that_are_the_folders_fix_their_order(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "cat/0.png", "dog/0.png")
    names = tmp_path / "names.txt"
    names.write_text("dog\nowl\ncat\n")
    source = open_source(str(root), classes=names)
    assert source.class_names == ("dog", "owl", "cat")
    assert source.labels_N.tolist() == [2, 0]


def test_too_few_class_names_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "cat/0.png", "dog/0.png", "owl/0.png")
    names = tmp_path / "names.json"
    names.write_text('["cat", "dog"]')
    with pytest.raises(InputError, match=r"names 2 classes.*3 class folders") as caught:
        open_source(str(root), classes=names)
    assert "owl" in str(caught.value.hint)


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    source = open_source(str(tree(tmp_path, "train/0.png", "bus/0.png")))
    assert source.class_names == ("bus", "train")


def test_a_stray_image_beside_the_class_folders_of_a_split_is_ignored(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/0.png", "train/dog/0.png", "train/cover.png")
    assert list(open_source(str(root)).keys) == ["train/cat/0.png", "train/dog/0.png"]


def test_a_folder_without_images_is_left_out_unless_the_class_names_hold_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "cat/0.png", "owl/0.png")
    (root / "dog").mkdir()
    source = open_source(str(root))
    assert source.class_names == ("cat", "owl")
    assert source.labels_N.tolist() == [0, 1]
    assert str(source.read_as.left_out) == "folders without images: 1 (dog)"
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    assert open_source(str(root), classes=tmp_path / "names.txt").labels_N.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("keys", "folders", "split", "message"),
    [
        ((), (), None, "holds no class folders$"),
        (("1.png", "2.png"), (), None, "no class folders, but images"),
        (("train/1.png", "test/2.png"), (), None, "no class folders, but images"),
        ((), ("cat", "dog"), None, "class folders but no images"),
        (("cat/1.png",), (), None, "only one class has samples"),
        (("cat/1.png",), ("dog",), None, "only one class has samples"),
        (("train/cat/1.png",), ("train/dog",), None, "only one class has samples"),
        (("cat/1.png", "dog/1.png"), (), "test", "has no split 'test'"),
        (("val/cat/1.png", "val/dog/1.png"), (), None, "has no split 'train'"),
        (("train/cat/1.png", "train/dog/1.png"), (), "extra", "has no split 'extra'"),
    ],
)
def test_a_wrong_layout_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, keys: tuple[str, ...], folders: tuple[str, ...], split: str | None, message: str
) -> None:
    tree(tmp_path, *keys)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path), split=split)
    assert caught.match(message) if "$" not in message else caught.value.message.endswith(message[:-1])
    assert caught.value.hint


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"new\nline.png", b"tab\there.png", "\x85.png".encode()])
def test_a_file_whose_name_no_key_may_hold_is_left_out(tmp_path: Path, name: bytes) -> None:
    root = tree(tmp_path, "cat/0.png", "dog/0.png")
    try:
        os.link(os.fsencode(root / "dog" / "0.png"), os.fsencode(root / "dog") + b"/" + name)
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    source = open_source(str(root))
    assert list(source.keys) == ["cat/0.png", "dog/0.png"]
    assert source.read_as.left_out.counts == {"names with control characters or that are not UTF-8": 1}


def test_twenty_thousand_files_are_listed_without_a_stat_each(tmp_path: Path) -> None:
    for label in range(20):
        folder = tmp_path / f"class{label:02d}"
        folder.mkdir()
        for number in range(1000):
            os.close(os.open(folder / f"{number}.jpg", os.O_CREAT | os.O_WRONLY))
    seconds = []
    for work in (lambda: [path.stat() for path in tmp_path.rglob("*")], lambda: open_source(str(tmp_path))):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    source = found
    assert seconds[1] < 2 * seconds[0]
    assert len(source.keys) == 20_000
    assert np.bincount(source.labels_N).tolist() == [1000] * 20


@pytest.mark.timeout(20)
def test_a_pipe_among_the_images_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat/1.png", "dog/2.png")
    os.mkfifo(root / "cat" / "3.png")
    (root / "dog" / "4").symlink_to(root / "cat" / "3.png")
    assert list(open_source(str(root)).keys) == ["cat/1.png", "dog/2.png"]
