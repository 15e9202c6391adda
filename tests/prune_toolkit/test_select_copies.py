"""Selections and copies that were encoded again: told apart by their bytes, decoded, judged by their own sizes."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from copies_support import jpeg, photos, picture, write_tree
from tests_support import write_idx

from manifests.betons.reader import Beton
from manifests.hidden.hide import hide
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)
VIEWS = ("--views", 3, "--augment", "resized_crop_flip", "--seed", 1)
CLASSES = ("cat", "dog", "eel")
SECRET = b"0123456789abcdef"


def again(width: int, height: int) -> dict[str, bytes]:
    """The twelve photographs of 40x30 at another size."""
    seeds = {key: 100 * CLASSES.index(key[:3]) + int(key[4:6]) for key in photos()}
    return {key: jpeg(picture(seed, width, height), 85) for key, seed in seeds.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "photos", photos())


@pytest.fixture(scope="module")
def scored(data: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", data, *TEACHER, *VIEWS, "--thumbnails", "-o", out)
    return out


@pytest.fixture(scope="module")
def bare(data: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """Without thumbnails."""
    out = tmp_path_factory.mktemp("bare") / "manifest"
    prune("score", data, *TEACHER, "-o", out)
    return out


def reasons(folder: Path) -> dict[str, str]:
    manifest = Manifest.open(folder)
    columns = manifest.samples().column("key").to_pylist(), manifest.selection().column("reason").to_pylist()
    return dict(zip(*columns, strict=True))


def sha(files: Mapping[str, bytes], keys: list[str]) -> str:
    """sha256 over the content hashes of some files, 16 digits."""
    return hashlib.sha256(b"".join(hashlib.sha256(files[key]).digest()[:16] for key in keys)).hexdigest()[:16]


@pytest.mark.parametrize("level", ["names", "pixels"])
def test_another_copy_is_another_selection(scored: Path, tmp_path: Path, prune: Run, level: str) -> None:
    """Nothing but the bytes tells the two: all of them match."""
    half, third = again(20, 15), again(24, 18)
    base = ("select", scored, "--keep", "0.5", "--check", level, "-o", tmp_path / "s", "--data")
    prune(*base, write_tree(tmp_path / "half", half))
    kept = [key for key, reason in reasons(tmp_path / "s").items() if reason == "kept"]
    copy = Manifest.open(tmp_path / "s").header.config["copy"]
    assert (copy["check"], copy["left_out"], copy["content"]) == (level, {}, sha(half, kept))
    before = (tmp_path / "s" / "train.beton").read_bytes()
    refused = prune(*base, write_tree(tmp_path / "third", third), code=2).stderr
    assert "is a finished manifest made with other options (copy differ)" in refused
    assert (tmp_path / "s" / "train.beton").read_bytes() == before
    assert "is finished already" in prune(*base, tmp_path / "half").stderr
    # What is not cut is of no matter.
    other = next(key for key in half if key not in kept)
    assert "is finished already" in prune(*base, write_tree(tmp_path / "half", {other: third[other]})).stderr


def test_what_is_the_same_by_its_bytes_says_nothing_of_the_copy(scored: Path, tmp_path: Path, prune: Run) -> None:
    files = photos()
    del files["cat/00.jpg"]
    copy = write_tree(tmp_path / "copy", files)
    prune("select", scored, "--keep", "1", "--data", copy, "--check", "hashes", "-o", tmp_path / "s")
    assert set(Manifest.open(tmp_path / "s").header.config["copy"]) == {"check", "left_out", "kept"}


def test_a_broken_image_of_a_copy_is_left_out_by_names_too(scored: Path, tmp_path: Path, prune: Run) -> None:
    half = again(20, 15)
    broken = {"dog/01.jpg": b"no image", "eel/02.jpg": half["eel/02.jpg"][:-80]}
    copy = write_tree(tmp_path / "copy", half | broken)
    base = ("select", scored, "--keep", "1", "--data", copy, "--check", "names", "-o", tmp_path / "s")
    for flags in (("--dry-run",), ()):
        assert "2 of 12 chosen samples do not match copy and are left out: 2 unreadable" in prune(*base, *flags).stderr
    assert {key for key, reason in reasons(tmp_path / "s").items() if reason == "unreadable"} == set(broken)
    assert Beton.open(tmp_path / "s" / "train.beton").count == 10
    # verify reads no file to compare names.
    prune("verify", scored, "--data", copy, "--check", "names")


def test_images_of_a_hidden_manifest_are_left_out_by_their_hashes(scored: Path, tmp_path: Path, prune: Run) -> None:
    """It has no sizes, which are compared unless said otherwise."""
    (tmp_path / "secret").write_bytes(SECRET)
    hide(Manifest.open(scored), SECRET, tmp_path / "hidden")
    files = photos()
    copy = write_tree(tmp_path / "copy", files | {"dog/03.jpg": files["dog/03.jpg"][:-1] + b"\x00"})
    base = ("select", tmp_path / "hidden", "--keep", "1", "--data", copy, "--secret", tmp_path / "secret")
    assert "left out: 1 other content" in prune(*base, "-o", tmp_path / "s").stderr
    assert Manifest.open(tmp_path / "s").header.config["copy"]["check"] == "hashes"
    verified = prune("verify", *base[1:2], *base[4:], "--check", "sizes", "--json", code=4).stdout
    assert json.loads(verified)["differing"] == {"other content": 1}
    assert json.loads(verified)["check"] == "hashes"


def test_an_altered_image_is_named_as_the_copy_calls_it(scored: Path, tmp_path: Path, prune: Run) -> None:
    files = photos()
    files["dog/03.jpg"] = files["dog/03.jpg"][:-1] + b"\x00"
    copy = write_tree(tmp_path / "copy", {f"train/{key}": data for key, data in files.items()})
    refused = prune("select", scored, "--keep", "1", "--data", copy, "-o", tmp_path / "s", code=4).stderr
    assert "train/dog/03.jpg was altered since it was indexed" in refused


def test_equal_images_of_rows_are_found_in_their_own_places(tmp_path: Path, prune: Run) -> None:
    """Every image is there twice, and some pairs are torn by the hold-out."""
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8), 2, axis=0)
    write_idx(tmp_path / "rows", images, np.arange(40) // 2 % 3)
    prune("score", tmp_path / "rows", *TEACHER, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.5", "--no-beton", "-o", tmp_path / "held")
    keep_N = Manifest.open(tmp_path / "held").selection().column("keep").to_numpy(zero_copy_only=False)
    # The first of a pair is held out: contents would take its row for the second.
    assert (keep_N[::2] & ~keep_N[1::2]).any()
    base = ("select", tmp_path / "m", "--keep", "1", "--without", tmp_path / "held")
    prune(*base, "-o", tmp_path / "s")
    for level in ("sizes", "hashes", "names"):
        prune(*base, "--data", tmp_path / "rows", "--check", level, "-o", tmp_path / level)
        assert Manifest.open(tmp_path / level).id == Manifest.open(tmp_path / "s").id


@pytest.mark.parametrize("level", ["names", "pixels"])
def test_a_copy_is_shrunk_by_its_own_sizes(scored: Path, tmp_path: Path, prune: Run, level: str) -> None:
    """40x30 was scored: 20x15 is within 25, 80x60 is not within 50."""
    half, twice = write_tree(tmp_path / "half", again(20, 15)), write_tree(tmp_path / "twice", again(80, 60))
    base = ("select", scored, "--keep", "0.5", "--check", level, "--data")
    small = prune(*base, half, "--max-side", 25, "-o", tmp_path / "small")
    assert "shrinks" not in small.stderr
    assert Beton.open(tmp_path / "small" / "train.beton").widths_N.tolist() == [20] * 6
    for flags in (("--dry-run",), ()):
        refused = prune(*base, twice, "--max-side", 50, "-o", tmp_path / "large", *flags, code=2).stderr
        assert "--max-side 50 shrinks 6 images, so the 3 scored views would show other pixels" in refused
    single = prune(*base, twice, "--max-side", 50, "--policy", "single", "-o", tmp_path / "large").stderr
    assert "--max-side 50 shrinks 6 images; the teacher saw them at full size" in single
    assert Beton.open(tmp_path / "large" / "train.beton").widths_N.tolist() == [50] * 6


def test_images_that_were_scored_are_shrunk_by_the_sizes_that_were_scored(
    scored: Path, data: Path, tmp_path: Path, prune: Run
) -> None:
    for flags in ((), ("--data", data), ("--data", data, "--pixels")):
        base = ("select", scored, "--keep", "0.5", *flags, "--max-side", 25, "-o", tmp_path / "s")
        assert "--max-side 25 shrinks 6 images" in prune(*base, code=2).stderr


def test_without_thumbnails_no_pixels_are_offered(bare: Path, scored: Path, tmp_path: Path, prune: Run) -> None:
    sent = tmp_path / "sent"
    shutil.copytree(bare, sent, ignore=shutil.ignore_patterns("local.json"))
    half = write_tree(tmp_path / "half", again(20, 15))
    base = ("--keep", "0.5", "--data", half, "-o", tmp_path / "s")
    refused = prune("select", sent, *base, code=4).stderr
    assert "--check names" in refused
    assert "--check pixels" not in refused
    assert "--check pixels" in prune("select", scored, *base, code=4).stderr
    prune("select", sent, *base, "--check", "names")


@pytest.mark.parametrize("inside", ["", "new", "cat/new"])
def test_nothing_is_written_among_the_images(scored: Path, tmp_path: Path, prune: Run, inside: str) -> None:
    data = write_tree(tmp_path / "photos", photos())
    (tmp_path / "link").symlink_to(data)
    commands = (
        ("index", data),
        ("index", data, "--dry-run"),
        ("score", data, *TEACHER),
        ("select", scored, "--keep", "0.5", "--data", data),
        ("select", scored, "--keep", "0.5", "--data", data, "--no-beton"),
    )
    for command in commands:
        for folder in (data, tmp_path / "link"):
            refused = prune(*command, "-o", folder / inside, code=2).stderr
            assert f"is inside the images of {data}" in refused
    assert sorted(path.relative_to(data).as_posix() for path in data.rglob("*.jpg")) == sorted(photos())
    assert {path.suffix for path in data.rglob("*")} == {"", ".jpg"}
    # Beside them is fine; the folder above them holds other files.
    prune("index", data, "-o", tmp_path / "photos-index")
    assert "nothing is written through it" in prune("index", data, "-o", tmp_path, code=2).stderr
    (tmp_path / "link").unlink()
    assert "which is not of an unfinished manifest" in prune("index", data, "-o", tmp_path, code=2).stderr
    assert "is inside the images" in prune("select", scored, "--keep", "1", "-o", _scored_data(scored), code=2).stderr


def _scored_data(scored: Path) -> Path:
    return Path(json.loads((scored / "local.json").read_text())["data"]) / "selection"


def test_a_selection_is_compared_with_all_that_was_scored(tmp_path: Path, prune: Run) -> None:
    """Its own beton holds half of it."""
    data = write_tree(tmp_path / "photos", photos())
    half = write_tree(tmp_path / "half", again(20, 15))
    prune("score", data, *TEACHER, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "s")
    base = ("--data", half, "--pixels")
    assert "12 of 12 samples match" in prune("verify", tmp_path / "s", *base).stdout
    # A beton of all of them is known too, and needs no image.
    prune("index", data, "--beton", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, "-o", tmp_path / "m1")
    prune("select", tmp_path / "m1", "--keep", "0.5", "-o", tmp_path / "s1")
    (data / "cat" / "00.jpg").write_bytes(jpeg(picture(77)))
    assert "12 of 12 samples match" in prune("verify", tmp_path / "s1", *base).stdout
    assert "cat/00.jpg was altered since it was indexed" in prune("verify", tmp_path / "s", *base, code=3).stderr
    # Where only its own beton is here, that is not enough, and where it holds all, it is.
    prune("select", tmp_path / "m1", "--keep", "1", "-o", tmp_path / "whole")
    for folder in ("s1", "whole"):
        (tmp_path / folder / "local.json").unlink()
    assert "has no thumbnails" in prune("verify", tmp_path / "s1", *base, code=2).stderr
    assert "12 of 12 samples match" in prune("verify", tmp_path / "whole", *base).stdout


def test_a_copy_is_not_compared_with_itself(tmp_path: Path, prune: Run) -> None:
    """One picture under all names passes for all of them only where nothing but names was compared."""
    data = write_tree(tmp_path / "photos", photos())
    prune("score", data, *TEACHER, "-o", tmp_path / "m")
    wrong = write_tree(tmp_path / "wrong", dict.fromkeys(photos(), jpeg(picture(999))))
    prune("select", tmp_path / "m", "--keep", 1, "--check", "names", "--data", wrong, "-o", tmp_path / "s")
    prune("label", tmp_path / "s", *TEACHER, "-o", tmp_path / "labelled")
    for folder in ("s", "labelled"):
        assert "has no thumbnails" in prune("verify", tmp_path / folder, "--data", wrong, "--pixels", code=2).stderr
    (tmp_path / "s" / "train.beton").unlink()
    assert "has no thumbnails" in prune("verify", tmp_path / "s", "--data", wrong, "--pixels", code=2).stderr
    # A copy of the very bytes is as good as the images themselves.
    files = {f"train/{key}": content for key, content in photos().items()}
    prune("select", tmp_path / "m", "--keep", 1, "--data", write_tree(tmp_path / "same", files), "-o", tmp_path / "e")
    said = prune("verify", tmp_path / "e", "--data", wrong, "--pixels", "--json", code=4).stdout
    assert json.loads(said)["differing"] == {"other pixels": 12}
