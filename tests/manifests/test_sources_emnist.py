"""EMNIST's idx files: several sets, images on their side, letters that count from 1."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from manifests.errors import InputError, UsageError
from manifests.images.decode import Pixels
from manifests.sources import open_source, read_source
from manifests.sources.base import ReadOptions, Source
from manifests.sources.idx import EMNIST_NAMES
from manifests.sources.telling import reading_lines

ROWS = 30


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def emnist(folder: Path, which: str, *, packed: bool = False, first: int = 0) -> Path:
    """Random images, not symmetric, of all classes of a set or the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(which))
    for split in ("train", "test"):
        images = generator.integers(0, 256, (ROWS, 28, 28), np.uint8)
        labels = (first + np.arange(ROWS) % len(EMNIST_NAMES[which])).astype(np.uint8)
        for what, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(values)
            path = folder / f"emnist-{which}-{split}-{what}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return folder


def pixels(source: Source) -> NDArray[np.uint8]:
    return np.stack([image.array for image in source.read(range(len(source.keys))) if isinstance(image, Pixels)])


@pytest.mark.parametrize(("which", "first"), [("balanced", 0), ("letters", 1), ("digits", 0), ("byclass", 0)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_it_is_what_torchvision_reads(tmp_path: Path, which: str, first: int, split: str) -> None:
    """Except that torchvision has 27 classes of letters."""
    from torchvision.datasets import EMNIST

    emnist(tmp_path / "EMNIST" / "raw", which, first=first)
    oracle = EMNIST(tmp_path, split=which, train=split == "train")
    source = open_source(str(tmp_path), split=split)
    assert (source.kind, source.split, source.name) == ("idx", split, f"emnist-{which}")
    np.testing.assert_array_equal(pixels(source), oracle.data.numpy())
    shown = np.asarray(oracle[3][0])
    np.testing.assert_array_equal(pixels(source)[3], shown)
    named = [source.class_names[label] for label in source.labels_N]
    assert named == [oracle.classes[label] for label in oracle.targets.tolist()]
    assert "images: on their side, as EMNIST stores them and torchvision shows them" in reading_lines(source)


def test_the_names_are_those_of_the_mapping(tmp_path: Path) -> None:
    """Letters have two code points: A and a."""
    emnist(tmp_path, "letters", packed=True, first=1)
    mapping = tmp_path / "emnist-letters-mapping.txt"
    mapping.write_text("".join(f"{label} {64 + label} {96 + label}\n" for label in range(1, 27)))
    source = open_source(str(tmp_path))
    assert source.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert source.labels_N[:3].tolist() == [0, 1, 2]
    assert source.read_as.labels == "the file emnist-letters-train-labels-idx1-ubyte.gz, which counts from 1"
    mapping.write_text("1 65 97\n3 67 99\n")
    with pytest.raises(InputError, match="does not name classes from 0 or 1 on"):
        open_source(str(tmp_path))
    mapping.write_text("a b\n")
    with pytest.raises(InputError, match="cannot read the class names"):
        open_source(str(tmp_path))


def test_one_of_several_sets_is_chosen(tmp_path: Path) -> None:
    emnist(emnist(tmp_path / "gzip", "digits"), "balanced")
    with pytest.raises(InputError, match="holds several sets of idx files: balanced, digits") as caught:
        open_source(str(tmp_path))
    assert caught.value.hint == "choose one with --config"
    source = read_source(str(tmp_path), ReadOptions(configuration="digits"))
    assert source.class_names == tuple("0123456789")
    with pytest.raises(InputError, match="has no configuration 'letters'"):
        read_source(str(tmp_path), ReadOptions(configuration="letters"))


@pytest.mark.parametrize("packed", [True, False])
def test_names_may_have_a_dot(tmp_path: Path, packed: bool) -> None:
    images = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    for name, values in (("images.idx3", images), ("labels.idx1", np.array([1, 0, 2, 1], np.uint8))):
        data = idx_bytes(values)
        path = tmp_path / f"t10k-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    source = open_source(str(tmp_path), split="test")
    np.testing.assert_array_equal(pixels(source), images)
    assert source.read_as.images is None
    next(tmp_path.glob("*labels*")).unlink()
    with pytest.raises(InputError, match=r"holds no t10k-labels\.idx1-ubyte"):
        open_source(str(tmp_path), split="test")


def test_torchvisions_root_is_opened_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_child(*_: object, **__: object) -> None:
        raise AssertionError("nothing had to be downloaded")

    monkeypatch.setattr("subprocess.run", no_child)
    emnist(emnist(tmp_path / "EMNIST" / "raw", "digits"), "balanced", packed=True)
    spec = f"torchvision:EMNIST={tmp_path}"
    source = read_source(spec, ReadOptions(configuration="balanced", split="test"))
    assert (source.name, source.split, len(source.class_names)) == ("EMNIST-balanced", "test", 47)
    with pytest.raises(UsageError, match="holds several sets") as caught:
        open_source(spec)
    assert "--config: byclass, bymerge, balanced" in str(caught.value.hint)
    with pytest.raises(UsageError, match="MNIST has only one configuration"):
        read_source(f"torchvision:MNIST={tmp_path}", ReadOptions(configuration="balanced"))


def test_the_names_known_are_torchvisions() -> None:
    from torchvision.datasets import EMNIST

    theirs = {which: "".join(names).removeprefix("N/A") for which, names in EMNIST.classes_split_dict.items()}
    assert theirs == EMNIST_NAMES
