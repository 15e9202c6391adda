import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from manifests.errors import InputError
from manifests.sources import downloads, open_source, read_source
from manifests.sources.base import ReadOptions


@pytest.fixture
def fashion_root(shared_data: Path, tmp_path: Path) -> Path:
    """A root as torchvision leaves it behind after a download."""
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (shared_data / "fashion_mnist").glob("*.gz"):
        (raw / path.name).symlink_to(path)
    return tmp_path / "root"


def no_child(*_: object, **__: object) -> None:
    raise AssertionError("nothing had to be downloaded")


def test_what_lies_below_the_root_is_opened_without_a_download(
    fashion_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", no_child)
    source = open_source(f"torchvision:FashionMNIST={fashion_root}", split="val")
    assert (source.kind, source.name, source.split) == ("idx", "FashionMNIST", "test")
    assert source.class_names[0] == "T-shirt/top"
    assert len(source.keys) == 10_000


def test_torchvision_in_the_child_process_finds_the_same_files(fashion_root: Path) -> None:
    before = sorted(path.name for path in (fashion_root / "FashionMNIST" / "raw").iterdir())
    downloads._download("FashionMNIST", fashion_root)
    after = sorted(path.name for path in (fashion_root / "FashionMNIST" / "raw").iterdir())
    assert set(before) <= set(after)
    assert len(open_source(f"torchvision:FashionMNIST={fashion_root}").keys) == 60_000


def test_the_child_fetches_what_is_missing(fashion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import shutil, sys; shutil.copytree({!r}, sys.argv[2] + '/' + sys.argv[1], symlinks=True)"
    monkeypatch.setattr(downloads, "_CHILD", child.format(str(fashion_root / "FashionMNIST")))
    assert len(open_source(f"torchvision:FashionMNIST={tmp_path / 'new' / 'root'}").keys) == 60_000


def test_a_failed_download_shows_its_last_line_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import sys; sys.exit('Traceback ...\\n<urlopen error: no route to host>\\n')"
    monkeypatch.setattr(downloads, "_CHILD", child)
    with pytest.raises(InputError, match="could not fetch KMNIST: <urlopen error: no route to host>") as caught:
        open_source(f"torchvision:KMNIST={tmp_path}")
    assert str(tmp_path / "KMNIST" / "raw") in str(caught.value.hint)


def test_a_silent_failure_tells_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_CHILD", "import os; os._exit(7)")
    with pytest.raises(InputError, match="exit code 7"):
        open_source(f"torchvision:CIFAR10={tmp_path}")


def test_a_download_that_leaves_nothing_behind_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_CHILD", "")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte is missing"):
        open_source(f"torchvision:MNIST={tmp_path}")


def test_a_module_in_the_current_folder_is_not_imported_by_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colorsys.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.setattr(downloads, "_CHILD", "import colorsys, sys; sys.exit(colorsys.__file__)")
    with pytest.raises(InputError, match=f"{Path(sys.base_prefix).name}.*colorsys"):
        open_source(f"torchvision:MNIST={tmp_path / 'root'}")


def test_an_incomplete_image_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", no_child)
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(folder / "0.JPEG")
    with pytest.raises(InputError, match="holds 2 images, Imagenette has 9469") as caught:
        open_source(f"torchvision:Imagenette={tmp_path}")
    assert "remove the folder" in str(caught.value.hint)
    shutil.rmtree(tmp_path / "imagenette2")


def test_a_split_that_is_not_there_is_refused_before_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", no_child)
    with pytest.raises(InputError, match="has no split 'extra'"):
        open_source(f"torchvision:MNIST={tmp_path}", split="extra")


def test_an_own_imagenette_is_named_by_words_not_by_wordnet_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = downloads._KNOWN["Imagenette"]
    fewer = dataclasses.replace(known, counts={"train": 10, "val": 10})
    monkeypatch.setitem(downloads._KNOWN, "Imagenette", fewer)
    from torchvision.datasets import Imagenette

    names = Imagenette._WNID_TO_CLASS
    for split in ("train", "val"):
        for wnid in names:
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(folder / "0.JPEG")
    source = open_source(f"torchvision:Imagenette={tmp_path}", split="test")
    assert source.split == "val"
    assert source.class_names == tuple(words[0] for _, words in sorted(names.items()))


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_class_names_of_mnist_likes_are_torchvisions(name: str) -> None:
    from torchvision import datasets

    theirs = tuple(text.split(" - ")[0] for text in getattr(datasets, name).classes)
    assert downloads._KNOWN[name].class_names == theirs


def test_every_known_set_is_one_of_torchvisions() -> None:
    from torchvision import datasets

    assert all(hasattr(datasets, name) for name in downloads._KNOWN)


def test_svhn_and_stl10_below_a_root_are_opened_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both readers are compared with torchvision's in test_sources_array_files."""
    monkeypatch.setattr("subprocess.run", no_child)
    for name, counts in (("SVHN", {"train": 4, "test": 4, "extra": 4}), ("STL10", {"train": 4, "test": 4})):
        fewer = dataclasses.replace(downloads._KNOWN[name], counts=counts)
        monkeypatch.setitem(downloads._KNOWN, name, fewer)
    images = np.arange(4 * 32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3, 4)
    savemat(tmp_path / "extra_32x32.mat", {"X": images, "y": np.array([[1], [10], [3], [9]], np.uint8)})
    source = open_source(f"torchvision:SVHN={tmp_path}", split="extra")
    assert (source.kind, source.name, source.split) == ("svhn", "SVHN", "extra")
    assert source.labels_N.tolist() == [1, 0, 3, 9]
    (tmp_path / "stl10_binary").mkdir()
    for split in ("train", "test"):
        np.zeros(4 * 3 * 96 * 96, np.uint8).tofile(tmp_path / "stl10_binary" / f"{split}_X.bin")
        np.array([1, 10, 3, 9], np.uint8).tofile(tmp_path / "stl10_binary" / f"{split}_y.bin")
    source = open_source(f"torchvision:STL10={tmp_path}", split="val")
    assert (source.kind, source.name, source.split) == ("stl10", "STL10", "test")
    assert [source.class_names[label] for label in source.labels_N] == ["airplane", "truck", "car", "ship"]


@pytest.mark.parametrize(("name", "arguments"), [("SVHN", ["test"]), ("EMNIST", ["digits"]), ("STL10", [])])
def test_the_child_is_told_which_part_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]
) -> None:
    monkeypatch.setattr(downloads, "_CHILD", "import sys; sys.exit(repr(sys.argv[1:]))")
    configuration = "digits" if name == "EMNIST" else None
    with pytest.raises(InputError, match="could not fetch") as caught:
        read_source(f"torchvision:{name}={tmp_path}", ReadOptions(split="test", configuration=configuration))
    assert str([name, str(tmp_path), *arguments]) in str(caught.value)
