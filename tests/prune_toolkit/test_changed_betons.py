"""Betons that change under a command, or whose bytes rot: one sentence and a code, never a killed process."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.manifest import Manifest
from prune_toolkit.images.beton_hashes import check_hashes
from trainer.data.loaders import ffcv_available, open_loader
from trainer.models.info import default_preprocessing

Run = Callable[..., Any]
TEACHER = ("--teacher", "teachers:linear", "--device", "cpu", "--image-size", 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """An index, with a beton, of 40 JPEGs in ten classes, and its scores."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(40):
        place = folder / "images" / f"c{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(place / f"{number:02d}.jpg")
    prune("index", "--data", folder / "images", "--beton", "-o", folder / "index")
    prune("score", folder / "index", *TEACHER, "--loader", "torch", "-o", folder / "scores")
    return folder


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    shutil.copytree(photos / "index", tmp_path / "index")
    return tmp_path / "index"


def rot(path: Path, row: int) -> None:
    """Flip one bit in the middle of an image, and keep the time of the file."""
    beton, status = Beton.open(path), path.stat()
    at = int(beton.image_pointer_N[row] + beton.image_size_N[row] * 3 // 4)
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("kind", ["torch", "ffcv"])
@pytest.mark.parametrize("size_bytes", [0, 10_000])
def test_a_beton_cut_short_between_epochs_ends_the_next_one(copied: Path, kind: str, size_bytes: int) -> None:
    if kind == "ffcv" and not ffcv_available()[0]:
        pytest.skip("ffcv is not installed")
    path = copied / "train.beton"
    loader = open_loader(Beton.open(path), kind=kind, preprocessing=default_preprocessing(8), workers=1)
    rows_n = np.arange(40)
    assert sum(len(batch.rows) for batch in loader.batches(rows_n, batch_size=16)) == 40
    os.truncate(path, size_bytes)
    with pytest.raises(InputError, match=r"train\.beton was changed or removed by another program"):
        next(loader.batches(rows_n, batch_size=16))
    loader.close()


def test_a_beton_that_is_written_again_or_removed_is_noticed(copied: Path) -> None:
    beton = Beton.open(copied / "train.beton")
    beton.state.check()
    (copied / "train.beton").unlink()
    with pytest.raises(InputError, match="changed or removed"):
        beton.state.check()


def test_an_empty_beton_is_refused(copied: Path, tmp_path: Path, prune: Run) -> None:
    os.truncate(copied / "train.beton", 0)
    told = prune("score", copied, *TEACHER, "-o", tmp_path / "out", code=3).stderr
    assert "train.beton has 0 bytes" in told
    told = prune("index", "--data", copied / "train.beton", "-o", tmp_path / "out", code=3).stderr
    assert "is not a usable beton: it is shorter than a header" in told


def test_a_rotten_image_is_not_scored(copied: Path, tmp_path: Path, prune: Run) -> None:
    rot(copied / "train.beton", 7)
    told = prune("score", copied, *TEACHER, "--loader", "torch", "-o", tmp_path / "out", code=3).stderr
    key = Manifest.open(copied).samples(["key"]).column("key")[7].as_py()
    assert f"train.beton is damaged: the image of {key} is not the one that was indexed" in told
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_rotten_image_gets_no_new_sha256(photos: Path, tmp_path: Path, prune: Run) -> None:
    whole = (photos / "index" / "train.beton").read_bytes()
    try:
        rot(photos / "index" / "train.beton", 7)
        words = ("select", photos / "scores", "--keep", 1.0, "--out", tmp_path / "out")
        assert "is damaged: the image of" in prune(*words, code=3).stderr
        assert not (tmp_path / "out" / "manifest.json").exists()
    finally:
        (photos / "index" / "train.beton").write_bytes(whole)


def test_pixels_of_a_source_that_stores_pixels_are_compared(tmp_path: Path, prune: Run) -> None:
    prune("index", "--data", "demo:digits", "--beton", "-o", tmp_path / "index")
    manifest = Manifest.open(tmp_path / "index")
    samples = manifest.samples()
    row_n = np.arange(len(samples))
    check_hashes(Beton.open(manifest.beton_path), row_n, samples, of_pixels=True)
    rot(tmp_path / "index" / "train.beton", 3)
    with pytest.raises(InputError, match=r"is damaged: the image of"):
        check_hashes(Beton.open(manifest.beton_path), row_n, samples, of_pixels=True)


def test_pngs_which_a_beton_decodes_have_no_hash_to_compare(tmp_path: Path, prune: Run) -> None:
    for number in range(4):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (number * 60, 0, 0)).save(stream, "PNG")
        place = tmp_path / "images" / f"c{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(stream.getvalue())
    prune("index", "--data", tmp_path / "images", "--beton", "-o", tmp_path / "index")
    manifest = Manifest.open(tmp_path / "index")
    samples: pa.Table = manifest.samples()
    check_hashes(Beton.open(manifest.beton_path), np.arange(4), samples, of_pixels=False)
