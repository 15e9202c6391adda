"""Thumbnails: exact means of cells, alike for another encoding, checked when they are read."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from copies_support import jpeg, manifest_of, photos, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import InputError
from manifests.format.header_file import read_header
from manifests.format.parts import write_part
from manifests.images.thumbnails import mean_difference, thumbnail
from manifests.manifest import Manifest, commit, file_entry
from manifests.tables.thumbnails_table import TABLE, stored_thumbnails, thumbnails_table

CLASSES = ("cat", "dog", "eel")


def exact_means(pixels: np.ndarray) -> np.ndarray:
    """Means over the cells' areas: every pixel as 8x8 smaller ones, so that cells cut none."""
    fine = np.repeat(np.repeat(pixels, 8, axis=0), 8, axis=1).astype(np.float64)
    height, width = pixels.shape[:2]
    return fine.reshape(8, height, 8, width, 3).mean(axis=(1, 3))


def test_cells_that_cut_pixels_weigh_them() -> None:
    # 12 pixels over 8 cells: a cell is 1.5 pixels wide, two thirds of the first are pixel 0, one third is pixel 1.
    row = np.arange(0, 240, 20, dtype=np.uint8)
    pixels = np.repeat(np.broadcast_to(row[None, :, None], (8, 12, 1)), 3, axis=2)
    assert thumbnail(pixels).reshape(8, 8, 3)[0, :3, 0].tolist() == [7, 33, 67]  # 20 / 3, 100 / 3, 200 / 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_thumbnail_is_the_mean_over_each_of_64_cells(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = np.floor(exact_means(pixels) + 0.5 + 1e-9)
    assert np.array_equal(thumbnail(pixels).reshape(8, 8, 3), expected)


def test_a_large_image_is_no_trouble() -> None:
    pixels = np.full((2, 30_000, 3), 255, np.uint8)
    assert (thumbnail(pixels) == 255).all()
    assert np.array_equal(thumbnail(picture(3, 800, 1200)).reshape(8, 8, 3), _rounded(picture(3, 800, 1200)))


def _rounded(pixels: np.ndarray) -> np.ndarray:
    means = pixels.astype(np.float64).reshape(8, 150, 8, 100, 3).mean(axis=(1, 3))
    return np.floor(means + 0.5 + 1e-9)


def test_an_image_of_fewer_pixels_than_cells_has_one_too() -> None:
    flat = np.full((1, 3, 3), 77, np.uint8)
    assert (thumbnail(np.ascontiguousarray(flat)) == 77).all()


def test_another_encoding_is_near_and_another_image_is_far() -> None:
    near, far = [], []
    for seed in range(20):
        one = thumbnail(picture(seed, 400, 300))
        again = Image.open(io.BytesIO(jpeg(picture(seed, 237, 178), quality=40))).convert("RGB")
        near.append(np.abs(one.astype(int) - thumbnail(np.asarray(again)).astype(int)).mean())
        far.append(np.abs(one.astype(int) - thumbnail(picture(seed + 1, 400, 300)).astype(int)).mean())
    assert max(near) < 4
    assert min(far) > 16


def test_the_difference_is_the_mean_over_all_values() -> None:
    one = np.zeros((3, 192), np.uint8)
    other = np.zeros((3, 192), np.uint8)
    other[1] = 255
    other[2, :96] = 3
    assert mean_difference(one, other).tolist() == [0.0, 255.0, 1.5]
    assert mean_difference(other, one).tolist() == [0.0, 255.0, 1.5]
    many = np.random.default_rng(0).integers(0, 256, (2, 70_000, 192), np.uint8)
    expected = np.array([np.abs(many[0, row].astype(int) - many[1, row]).mean() for row in range(0, 70_000, 999)])
    np.testing.assert_allclose(mean_difference(many[0], many[1])[::999], expected, rtol=1e-6)


def test_stored_thumbnails_come_back_in_the_order_asked(tmp_path: Path) -> None:
    files = photos(CLASSES)
    manifest = manifest_of(tmp_path / "m", files, CLASSES, thumbnails=True)
    assert manifest.header.schema_version == "1.3"
    asked = np.array([7, 0, 7, 3])
    keys = sorted(files)
    expected = [thumbnail(np.asarray(Image.open(io.BytesIO(files[keys[row]])))) for row in asked]
    assert np.array_equal(stored_thumbnails(manifest, asked), expected)
    assert stored_thumbnails(manifest, asked[:0]).shape == (0, 192)
    with pytest.raises(InputError, match="sample 99 has no thumbnail"):
        stored_thumbnails(manifest, np.array([3, 99]))


def test_a_thumbnail_takes_about_two_hundred_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8192, 192), np.uint8)
    write_part(tmp_path / "part.parquet", thumbnails_table(np.arange(8192), noise), "0" * 64)
    assert (tmp_path / "part.parquet").stat().st_size < 210 * 8192


def test_a_header_without_thumbnails_is_of_the_version_it_was(tmp_path: Path) -> None:
    assert manifest_of(tmp_path / "m", photos(CLASSES), CLASSES).header.schema_version == "1.1"


IDS = pa.array(range(3), pa.int64())


@pytest.mark.parametrize(
    ("pixels", "ids", "says"),
    [
        (pa.FixedSizeListArray.from_arrays(pa.array([1] * 9, pa.uint8()), 3), IDS, "not hold 192 bytes per sample"),
        (pa.FixedSizeListArray.from_arrays(pa.array([1] * 576, pa.int16()), 192), IDS, "not hold 192 bytes per sample"),
        (pa.array([1, 2, 3], pa.uint8()), IDS, "not hold 192 bytes per sample"),
        (pa.array([[1] * 192, None, [1] * 192], pa.list_(pa.uint8(), 192)), IDS, "rows without a value"),
        (
            pa.FixedSizeListArray.from_arrays(pa.array([1] * 576, pa.uint8()), 192),
            pa.array([0, 2, 1], pa.int64()),
            "do not ascend",
        ),
    ],
)
def test_a_part_of_something_else_is_refused(tmp_path: Path, pixels: pa.Array, ids: pa.Array, says: str) -> None:
    write_part(tmp_path / TABLE / "part-00000.parquet", pa.table({"sample_id": ids, "pixels": pixels}), "0" * 64)
    base = manifest_of(tmp_path / "base", photos(CLASSES), CLASSES).header
    entry = file_entry(tmp_path, f"{TABLE}/part-00000.parquet", 3)
    manifest = commit(tmp_path, base.model_copy(update={"files": [entry]}))
    with pytest.raises(InputError, match=says):
        stored_thumbnails(Manifest(tmp_path, manifest.header), np.array([0]))
    assert read_header(tmp_path).files[0].path.startswith(TABLE)
