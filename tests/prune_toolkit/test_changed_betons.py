"""Betons that change under a command, or whose bytes rot: one sentence and a code, never a killed process."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.manifest import Manifest
from prune_toolkit.images.beton_check import check_of
from prune_toolkit.images.sample_images import BetonImages
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


def rot(path: Path, row: int, at: int | None = None) -> None:
    """Flip one bit of a byte of an image, one in the middle if it is not named, and keep the time of the file."""
    beton, status = Beton.open(path), path.stat()
    at = int(beton.image_pointer_N[row] + (beton.image_size_N[row] * 3 // 4 if at is None else at))
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


def test_what_is_written_into_a_beton_between_the_comparison_and_the_copy_is_noticed(copied: Path) -> None:
    manifest, beton = Manifest.open(copied), Beton.open(copied / "train.beton")
    images = BetonImages(beton=beton, local={}, check=check_of(beton, manifest))
    found = images.stored(manifest.samples(), 1, None)
    next(found)
    rot(copied / "train.beton", 7)
    os.utime(copied / "train.beton")
    with pytest.raises(InputError, match="changed or removed by another program"):
        list(found)


def test_a_rotten_image_gets_no_new_sha256(photos: Path, tmp_path: Path, prune: Run) -> None:
    whole = (photos / "index" / "train.beton").read_bytes()
    try:
        rot(photos / "index" / "train.beton", 7)
        words = ("select", photos / "scores", "--keep", 1.0, "--out", tmp_path / "out")
        assert "is damaged: the image of" in prune(*words, code=3).stderr
        assert not (tmp_path / "out" / "manifest.json").exists()
    finally:
        (photos / "index" / "train.beton").write_bytes(whole)


def test_a_beton_that_the_user_trusts_is_not_compared(copied: Path, tmp_path: Path, prune: Run) -> None:
    rot(copied / "train.beton", 7)
    words = (*TEACHER, "--loader", "torch", "--trust-beton")
    prune("score", copied, *words, "-o", tmp_path / "scores")
    prune("select", tmp_path / "scores", "--keep", 0.5, "--trust-beton", "-o", tmp_path / "selection")
    prune("label", tmp_path / "selection", *words, "--views", 2, "-o", tmp_path / "labelled")


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_pixels_of_a_source_that_stores_pixels_are_compared(channel: int, tmp_path: Path, prune: Run) -> None:
    prune("index", "--data", "demo:digits", "--beton", "-o", tmp_path / "index")
    manifest = Manifest.open(tmp_path / "index")
    samples, path = manifest.samples(), manifest.beton_path
    assert path is not None
    check_of(Beton.open(path), manifest)(np.arange(len(samples)), samples)
    # Digits are grey: their hash is that of one channel of the three that a beton stores.
    rot(path, 3, 3 * 20 + channel)
    with pytest.raises(InputError, match=rf"the image of {samples.column('key')[3]} is not the one that was indexed"):
        check_of(Beton.open(path), manifest)(np.arange(len(samples)), samples)


def test_decoded_pngs_are_compared_by_the_sha256_of_the_file(tmp_path: Path, prune: Run) -> None:
    for number in range(20):
        place = tmp_path / "images" / f"c{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 12, 0, 0)).save(place / f"{number}.png")
    prune("index", "--data", tmp_path / "images", "--beton", "-o", tmp_path / "index")
    teacher = ("--teacher", "teachers:linear", "--device", "cpu", "--image-size", 8, "--loader", "torch")
    prune("score", tmp_path / "index", *teacher, "-o", tmp_path / "scores")
    beton = tmp_path / "index" / "train.beton"
    rot(beton, 3)
    # The scores name no beton of their own: the index beside the beton does, and lists the same samples.
    select = ("select", tmp_path / "scores", "--keep", 1, "-o", tmp_path / "selection")
    for words in (("score", tmp_path / "index", *teacher, "-o", tmp_path / "again"), select):
        told = prune(*words, code=3).stderr
        assert "train.beton is damaged: its sha256 is not the one that the header names" in told
    (tmp_path / "index" / "manifest.json").unlink()
    # Nothing names a sha256 then.
    prune(*select)
