"""A manifest that is pushed with a secret, and what another team does with it and its own copy of the images."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.betons.reader import Beton
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def story(prune: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, manifest/ scored from them, secret.txt, hidden/ as it was pushed and pulled, other.txt."""
    folder = tmp_path_factory.mktemp("story")
    generator = np.random.default_rng(0)
    for row in range(40):
        path = folder / "images" / "train" / ("cat" if row % 2 else "dog") / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9, 8, 3), np.uint8)).save(path)
    prune("score", folder / "images", "--teacher", "teachers:linear", "--image-size", "8", "-o", folder / "manifest")
    (folder / "secret.txt").write_text("correct horse battery staple\n")
    (folder / "other.txt").write_text("incorrect horse battery staple\n")
    prune("push", folder / "manifest", f"file://{folder}/remote", "--secret", folder / "secret.txt")
    prune("pull", f"file://{folder}/remote", folder / "hidden")
    return folder


def test_the_other_team_verifies_its_copy_with_the_secret(prune: Run, story: Path) -> None:
    told = prune("verify", story / "hidden", "--data", story / "images", "--secret", story / "secret.txt")
    assert "40 of 40 samples match" in told.stdout


def test_an_altered_image_is_found_through_the_secret(prune: Run, story: Path, tmp_path: Path) -> None:
    shutil.copytree(story / "images", tmp_path / "copy")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "copy/train/cat/01.png")
    told = prune("verify", story / "hidden", "--data", tmp_path / "copy", "--secret", story / "secret.txt", code=4)
    assert "39 of 40 samples match" in told.stdout


@pytest.mark.parametrize("command", [("verify",), ("select", "--keep", "0.5")])
def test_without_the_secret_or_with_another_one_nothing_is_compared(
    prune: Run, story: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    name, *flags = command
    words = [name, story / "hidden", *flags, "--data", story / "images"]
    if name == "select":
        words += ["-o", tmp_path / "chosen"]
    told = prune(*words, code=2)
    assert "--secret" in told.stderr
    told = prune(*words, "--secret", story / "other.txt", code=4)
    assert "not the secret of" in told.stderr
    assert "horse" not in told.stderr
    assert not (tmp_path / "chosen" / "manifest.json").exists()


def test_a_beton_cut_with_the_secret_shows_the_scored_crops(prune: Run, story: Path, tmp_path: Path) -> None:
    flags = ("--keep", "0.5", "--data", story / "images", "--secret", story / "secret.txt")
    prune("select", story / "hidden", *flags, "-o", tmp_path / "chosen")
    chosen = Manifest.open(tmp_path / "chosen")
    assert chosen.header.hidden == Manifest.open(story / "hidden").header.hidden
    pixels_of = {}
    for path in (story / "images").rglob("*.png"):
        view_id = int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "little")
        pixels_of[view_id] = np.array(Image.open(path))
    beton = Beton.open(tmp_path / "chosen" / "train.beton")
    assert beton.count == 20
    for row, view_id in enumerate(beton.columns["view_id"].view(np.uint64).tolist()):
        assert np.array_equal(beton.pixels(row), pixels_of[view_id])


def test_commands_that_need_the_images_own_keys_say_so(prune: Run, story: Path, tmp_path: Path) -> None:
    flags = ("--keep", "0.5", "--data", story / "images", "--secret", story / "secret.txt")
    prune("select", story / "hidden", *flags, "-o", tmp_path / "chosen")
    for words in (
        ("export", tmp_path / "chosen", "--filelist", "-"),
        ("label", tmp_path / "chosen", "--teacher", "teachers:linear", "-o", tmp_path / "x"),
        # Before the teacher is loaded, and whatever images are named: the beton here has the view_ids of the images.
        ("label", tmp_path / "chosen", "--teacher", "teachers:none", "--data", story / "images", "-o", tmp_path / "x"),
        ("label", tmp_path / "chosen", "--teacher", "teachers:none", "--dry-run", "-o", tmp_path / "x"),
        ("label", tmp_path / "chosen", "--teacher", "teachers:none", "--other-teacher", "-o", tmp_path / "x"),
        ("score", story / "hidden", "--teacher", "teachers:linear", "-o", tmp_path / "x"),
    ):
        assert "is hidden: its keys and view_ids are not those of the images" in prune(*words, code=2).stderr
    assert not (tmp_path / "x" / "manifest.json").exists()
