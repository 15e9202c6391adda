import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.images.decode import Pixels
from manifests.sources import open_source
from manifests.sources.idx import read_idx

IMAGES = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
LABELS = np.array([1, 0, 2, 1], np.uint8)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def idx_folder(folder: Path, prefix: str = "train", *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        data = idx_bytes(values)
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", [".", "raw", "FashionMNIST/raw"])
def test_idx_files_are_found_where_people_keep_them(tmp_path: Path, below: str, packed: bool) -> None:
    idx_folder(tmp_path / "set" / below, packed=packed)
    source = open_source(str(tmp_path / "set"))
    assert (source.kind, source.split) == ("idx", "train")
    assert source.name == ("FashionMNIST" if "Fashion" in below else "set")
    assert list(source.keys) == [f"train/0000000{row}" for row in range(4)]
    assert source.labels_N.tolist() == [1, 0, 2, 1]
    assert source.class_names == ("0", "1", "2")
    images = source.read([3, 0])
    for row, image in zip((3, 0), images, strict=True):
        assert isinstance(image, Pixels)
        np.testing.assert_array_equal(image.array, IMAGES[row])


def test_the_test_split_is_t10k(tmp_path: Path) -> None:
    idx_folder(tmp_path, "t10k")
    for spelling in ("test", "val", "validation"):
        assert open_source(str(tmp_path), split=spelling).keys[0] == "test/00000000"
    with pytest.raises(InputError, match="no split 'train'"):
        open_source(str(tmp_path))


def test_names_beside_the_files_name_the_classes(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    (tmp_path / "names.json").write_text('["a", "b", "c", "never seen"]')
    assert open_source(str(tmp_path)).class_names == ("a", "b", "c", "never seen")
    (tmp_path / "names.json").write_text('["a", "b"]')
    with pytest.raises(InputError, match=r"train/00000002 has label 2, outside 0\.\.1"):
        open_source(str(tmp_path))


def test_missing_or_fewer_labels_are_refused(tmp_path: Path) -> None:
    labels = idx_folder(tmp_path) / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(LABELS[:3])))
    with pytest.raises(InputError, match="3 labels for 4 images"):
        open_source(str(tmp_path))
    labels.unlink()
    with pytest.raises(InputError, match="holds no train-labels-idx1-ubyte"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends 4 bytes too early"),
        (b"\0\0\x08\x01", "ends 12 bytes too early"),
        (b"\0\0\x0d\x03" + bytes(12), "expected 00000803"),
        (b"\0\0\x08\x01" + bytes(12), "expected 00000803"),
        (idx_bytes(IMAGES)[:-1], "too early"),
        (idx_bytes(IMAGES) + b"x", "continues after"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "cannot hold"),
        (idx_bytes(np.zeros((0, 2, 2), np.uint8)), "cannot hold"),
    ],
)
def test_an_idx_file_that_is_not_what_its_header_says_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    plain, packed = tmp_path / "a-ubyte", tmp_path / "a-ubyte.gz"
    plain.write_bytes(data.replace(b"\x08\x01", b"\x08\x03") if "12 bytes" in message else data)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        with pytest.raises(InputError, match=message):
            read_idx(path, 3)


def test_a_gzip_that_unpacks_to_more_than_declared_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(idx_bytes(IMAGES))
        for _ in range(200):
            stream.write(bytes(1 << 20))
    with pytest.raises(InputError, match="continues after"):
        read_idx(path, 3)


def test_every_cut_of_a_packed_file_is_refused(tmp_path: Path) -> None:
    data = gzip.compress(idx_bytes(IMAGES))
    path = tmp_path / "cut.gz"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError):
            read_idx(path, 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 70), value=st.integers(0, 255))
def test_a_changed_byte_of_a_packed_file_is_noticed(tmp_path: Path, position: int, value: int) -> None:
    data = bytearray(gzip.compress(idx_bytes(IMAGES), mtime=0))
    data[position % len(data)] = value
    path = tmp_path / "changed.gz"
    path.write_bytes(data)
    try:
        read = read_idx(path, 3)
    except InputError:
        return
    np.testing.assert_array_equal(read, IMAGES)


def test_fashion_mnist_is_what_torchvision_reads(shared_data: Path, tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (shared_data / "fashion_mnist").glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for split in ("train", "test"):
        oracle = FashionMNIST(tmp_path, train=split == "train")
        source = open_source(str(shared_data / "fashion_mnist"), split=split)
        assert list(source.class_names) == oracle.classes
        np.testing.assert_array_equal(source.labels_N, oracle.targets.numpy())
        rows = range(0, len(oracle), 997)
        stored = np.stack([image.array for image in source.read(rows) if isinstance(image, Pixels)])
        np.testing.assert_array_equal(stored, oracle.data.numpy()[rows])
        assert list(source.keys) == sorted(source.keys, key=str.encode)
    shutil.rmtree(tmp_path)


def test_digits_are_scikit_learns_split_by_class() -> None:
    from sklearn.datasets import load_digits

    train, test = open_source("demo:digits"), open_source("demo:digits", split="val")
    assert (train.kind, train.name, train.split, test.split) == ("digits", "digits", "train", "test")
    assert (len(train.keys), len(test.keys)) == (1298, 499)
    assert train.class_names == tuple("0123456789")
    digits = load_digits()
    per_class = np.bincount(digits.target)
    np.testing.assert_array_equal(np.bincount(test.labels_N), np.round(per_class * 5 / 18))
    np.testing.assert_array_equal(np.bincount(test.labels_N) + np.bincount(train.labels_N), per_class)
    expected = sorted(
        (int(label), np.rint(image * 255 / 16).astype(np.uint8).tobytes())
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    got = [
        (int(label), image.array.tobytes())
        for source in (train, test)
        for label, image in zip(source.labels_N, source.read(range(len(source.keys))), strict=True)
        if isinstance(image, Pixels)
    ]
    assert sorted(got) == expected
    assert got[0] == (0, np.rint(digits.images[0] * 255 / 16).astype(np.uint8).tobytes())
