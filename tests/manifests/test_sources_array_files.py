"""Images in arrays as others store them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from manifests.errors import InputError
from manifests.images.decode import Pixels
from manifests.sources import open_held_out, open_source

RGB = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
LABELS = np.array([0, 2, 1, 2], np.int64)


def pixels(source: Any, row: int) -> NDArray[np.uint8]:
    image = source.read([row])[0]
    assert isinstance(image, Pixels)
    return image.array


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}_x", "{}_y")])
def test_the_arrays_of_an_npz_are_found_by_split(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = {}
    for split, count in (("train", 4), ("val", 3), ("test", 2)):
        arrays |= {names[0].format(split): RGB[:count], names[1].format(split): LABELS[:count, None].astype(np.uint8)}
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    source = open_source(str(tmp_path / "pathmnist.npz"))
    assert (source.kind, source.name, source.split) == ("npz", "pathmnist", "train")
    assert source.labels_N.tolist() == [0, 2, 1, 2]
    assert source.keys[0] == "train/00000000"
    np.testing.assert_array_equal(pixels(source, 3), RGB[3])
    assert open_held_out(str(tmp_path / "pathmnist.npz")).split == "val"


def test_pairs_of_npy_files_are_read_and_grey_ones_too(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", RGB[..., :1])
    np.save(tmp_path / "labels.npy", LABELS)
    source = open_source(str(tmp_path))
    assert (source.kind, source.split, source.class_names) == ("npy", None, ("0", "1", "2"))
    np.testing.assert_array_equal(pixels(source, 1), RGB[1, ..., 0])
    (tmp_path / "names.json").write_text('["a", "b", "c"]')
    assert open_source(str(tmp_path)).class_names == ("a", "b", "c")


def test_svhn_is_read_from_its_mat_files(tmp_path: Path) -> None:
    from scipy.io import savemat

    images = np.arange(32 * 32 * 3 * 3, dtype=np.uint64).astype(np.uint8).reshape(32, 32, 3, 3)
    savemat(tmp_path / "train_32x32.mat", {"X": images, "y": np.array([[10], [1], [9]], np.uint8)})
    for spec in (tmp_path, tmp_path / "train_32x32.mat"):
        source = open_source(str(spec))
        assert (source.kind, source.split) == ("svhn", "train")
        assert source.labels_N.tolist() == [0, 1, 9]
        np.testing.assert_array_equal(pixels(source, 2), images[..., 2])


def test_stl10_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)
    stored.tofile(tmp_path / "train_X.bin")
    np.array([1, 10, 2], np.uint8).tofile(tmp_path / "train_y.bin")
    (tmp_path / "class_names.txt").write_text("\n".join(f"name {row}" for row in range(10)))
    source = open_source(str(tmp_path))
    assert (source.kind, source.labels_N.tolist(), source.class_names[9]) == ("stl10", [0, 9, 1], "name 9")
    np.testing.assert_array_equal(pixels(source, 1), np.transpose(stored[1], (2, 1, 0)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (RGB.astype(np.float32) / 255, LABELS, "images are float32, expected uint8"),
        (RGB[..., :2], LABELS, r"images have the shape \(4, 5, 6, 2\)"),
        (RGB, np.eye(4, 3), "labels are float64 of the shape"),
        (RGB, np.eye(4, 3, dtype=np.int64), "labels are int64 of the shape"),
        (RGB, LABELS[:3], "3 labels for 4 images"),
        (np.array([object()] * 4), LABELS, "Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_not_images_with_one_label_each_are_refused(
    tmp_path: Path, images: NDArray[Any], labels: NDArray[Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "a.npz"))


def test_other_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", scores=LABELS, weights=LABELS)
    with pytest.raises(InputError, match="holds no arrays of images and labels") as caught:
        open_source(str(tmp_path / "a.npz"))
    assert caught.value.hint == "arrays it has: scores, weights"


@pytest.mark.parametrize("name", ["a.npz", "train_32x32.mat"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"MATLAB 5.0 MAT-file" + b" " * 109)
    with pytest.raises(InputError):
        open_source(str(tmp_path / name))
