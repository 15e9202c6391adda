"""`prune index`: what is written, for good images and bad ones, and that it goes on after a stop."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import tree_bytes

from manifests.betons.reader import Beton
from manifests.manifest import Manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with a JPEG, a PNG, a corrupt JPEG and an empty file."""
    generator = np.random.default_rng(1)
    for name, kind in (("cat", "jpg"), ("dog", "png")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{kind}", quality=95)
    whole = (tmp_path / "photos" / "cat" / "0.jpg").read_bytes()
    (tmp_path / "photos" / "cat" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "dog" / "empty.png").write_bytes(b"")
    return tmp_path / "photos"


def test_an_index_says_of_every_image_what_the_contract_asks(photos: Path, tmp_path: Path, prune) -> None:
    prune("index", photos, "-o", tmp_path / "index")
    rows = Manifest.open(tmp_path / "index").samples().to_pylist()
    assert [row["key"] for row in rows] == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    assert [row["sample_id"] for row in rows] == list(range(8))
    for row in rows:
        data = (photos / row["key"]).read_bytes()
        assert row["size_bytes"] == len(data)
        assert row["label"] == (0 if row["key"].startswith("cat/") else 1)
        if data:
            assert row["content_hash"] == hashlib.sha256(data).digest()[:16]
            assert row["view_id"] == int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
        broken = row["key"] in ("cat/broken.jpg", "dog/empty.png")
        assert (row["problem"] is not None) == broken
        assert (row["width"], row["height"]) == ((0, 0) if broken else (30, 20))


def test_unreadable_images_are_told_and_left_out_of_the_beton(photos: Path, tmp_path: Path, prune) -> None:
    result = prune("index", photos, "--beton", "-o", tmp_path / "index")
    assert "2 of 8 images cannot be read" in result.stderr
    assert "6 of 8 images readable" in result.stdout
    beton = Beton.open(tmp_path / "index" / "train.beton")
    assert beton.columns["sample_id"].tolist() == [0, 1, 2, 4, 5, 6]
    for row, key in enumerate(["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.png", "dog/1.png", "dog/2.png"]):
        with Image.open(photos / key) as image:
            assert np.array_equal(beton.pixels(row), np.asarray(image.convert("RGB")))


def test_the_same_images_give_the_same_id_whatever_the_workers(photos: Path, tmp_path: Path, prune) -> None:
    for name, workers in (("one", 1), ("four", 4)):
        prune("index", photos, "--beton", "--workers", workers, "-o", tmp_path / name)
    one, four = Manifest.open(tmp_path / "one"), Manifest.open(tmp_path / "four")
    assert one.id == four.id
    first, second = tree_bytes(tmp_path / "one"), tree_bytes(tmp_path / "four")
    assert first == second


def test_a_copy_of_the_images_elsewhere_gives_the_same_id(photos: Path, tmp_path: Path, prune) -> None:
    copy = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, copy)
    prune("index", photos, "-o", tmp_path / "one")
    prune("index", copy, "-o", tmp_path / "two")
    assert Manifest.open(tmp_path / "one").id == Manifest.open(tmp_path / "two").id


def test_a_finished_index_is_not_made_again_and_never_changed(photos: Path, tmp_path: Path, prune) -> None:
    prune("index", photos, "-o", tmp_path / "index")
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    assert "finished already" in prune("index", photos, "-o", tmp_path / "index").stderr
    (photos / "cat" / "new.jpg").write_bytes((photos / "cat" / "0.jpg").read_bytes())
    result = prune("index", photos, "-o", tmp_path / "index", code=2)
    assert "never changed" in result.stderr
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before


def test_ranks_share_an_index_without_contact(many_digits: Path, tmp_path: Path, prune) -> None:
    prune("index", many_digits, "-o", tmp_path / "alone")
    first = prune("index", many_digits, "-o", tmp_path / "shared", RANK="0", WORLD_SIZE="2")
    assert "other ranks are still working" in first.stderr
    assert not (tmp_path / "shared" / "manifest.json").exists()
    prune("index", many_digits, "-o", tmp_path / "shared", RANK="1", WORLD_SIZE="2")
    assert Manifest.open(tmp_path / "shared").id == Manifest.open(tmp_path / "alone").id
    assert tree_bytes(tmp_path / "shared") == tree_bytes(tmp_path / "alone")


def test_a_dry_run_writes_nothing(photos: Path, tmp_path: Path, prune) -> None:
    result = prune("index", photos, "--dry-run", "--json", "-o", tmp_path / "index")
    assert json.loads(result.stdout)["samples"] == 8
    assert not (tmp_path / "index").exists()


def test_images_of_no_use_at_all_are_an_error(tmp_path: Path, prune) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.jpg").write_bytes(b"no image")
    result = prune("index", tmp_path / "data", "-o", tmp_path / "index", code=3)
    assert "none of 2 images could be read" in result.stderr
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_max_side_shrinks_what_is_larger(tmp_path: Path, prune) -> None:
    for name, size in (("a", (64, 32)), ("b", (16, 16))):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / "data" / name / "x.jpg")
    prune("index", tmp_path / "data", "--beton", "--max-side", 32, "-o", tmp_path / "index")
    beton = Beton.open(tmp_path / "index" / "train.beton")
    assert beton.widths_N.tolist() == [32, 16]
    assert beton.heights_N.tolist() == [16, 16]
    assert beton.modes_N.tolist() == [1, 0]


@pytest.mark.parametrize("spelling", ["licence", "license"])
def test_both_spellings_record_the_licence(photos: Path, tmp_path: Path, prune, spelling: str) -> None:
    prune("index", photos, f"--{spelling}", "CC BY 4.0", "-o", tmp_path / "flag")
    assert Manifest.open(tmp_path / "flag").header.data.licence == "CC BY 4.0"
    (tmp_path / "prune.toml").write_text(f'[index]\n{spelling} = "MIT"\n')
    prune("index", photos, "-o", tmp_path / "key", cwd=tmp_path)
    assert Manifest.open(tmp_path / "key").header.data.licence == "MIT"
