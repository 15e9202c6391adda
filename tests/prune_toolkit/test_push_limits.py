"""What `prune push` keeps back: images, where they must not travel, and cards, in whose place somebody wrote a page."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_manifests import make, some_logits
from PIL import Image
from tests_support import tree_bytes

from manifests.integrity import verify
from manifests.manifest import Manifest

KEYS = [f"{name}/{row}.jpg" for name in ("cat", "dog") for row in range(4)]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make(tmp_path / "ours", KEYS, [0] * 4 + [1] * 4, some_logits(0, 2, 8, 3))


@pytest.fixture(scope="module")
def story(prune: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, their index and manifest/, which must not be passed on, secret, and chosen/ cut from hidden/."""
    folder = tmp_path_factory.mktemp("limits")
    generator = np.random.default_rng(0)
    for row in range(20):
        path = folder / "photos" / "train" / ("cat" if row % 2 else "dog") / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9, 8, 3), np.uint8)).save(path)
    (folder / "secret").write_text("correct horse battery staple\n")
    prune("index", "photos", "--thumbnails", "--not-redistributable", cwd=folder)
    prune("score", "index", "--teacher", "teachers:linear", "--image-size", "8", cwd=folder)
    prune("score", "photos", "--teacher", "teachers:linear", "--image-size", "8", "--redistributable",
          "--index", "none", "-o", "free", cwd=folder)  # fmt: skip
    prune("push", "free", "there", "--secret", "secret", cwd=folder)
    prune("pull", "there", "hidden", cwd=folder)
    prune("select", "hidden", "--keep", "0.5", "--data", "photos", "--secret", "secret", "-o", "chosen", cwd=folder)
    return folder


def test_a_beton_that_shows_whose_keys_are_hidden_is_not_sent_and_nothing_tells_of_it(
    prune: Run, story: Path, tmp_path: Path
) -> None:
    chosen = Manifest.open(story / "chosen")
    beton = chosen.header.file("train.beton")
    assert beton is not None
    told = prune("push", story / "chosen", tmp_path / "never", "--with-images", code=2).stderr
    assert "the keys are hidden, but a beton would show the images" in told
    assert not (tmp_path / "never").exists()
    told = prune("push", story / "chosen", tmp_path / "out").stderr
    assert told.startswith("sent as a part, without train.beton")
    sent = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in sent if path.name == "train.beton"]
    assert not [path for path in sent if beton.sha256.encode() in path.read_bytes()]
    assert str(beton.bytes) not in (tmp_path / "out" / "manifest.json").read_text()
    part = Manifest.open(tmp_path / "out")
    assert (part.header.parents, part.header.left_out) == ([chosen.id], [])
    assert part.targets() is not None
    assert verify(tmp_path / "out").ok
    prune("pull", tmp_path / "out", tmp_path / "never", "--with-images", code=2)
    matched = prune("verify", tmp_path / "out", "--data", story / "photos", "--secret", story / "secret").stdout
    assert "20 of 20 samples match" in matched


def test_thumbnails_of_images_that_must_not_be_passed_on_are_left_out(prune: Run, story: Path, tmp_path: Path) -> None:
    ours = Manifest.open(story / "manifest")
    assert (ours.header.data.redistributable, ours.has("thumbnails")) == (False, True)
    pushed = prune("push", story / "manifest", tmp_path / "out")
    assert pushed.stderr.startswith(
        "thumbnails are left out: the header says images of photos must not be redistributed\n"
    )
    part = Manifest.open(tmp_path / "out")
    assert (part.header.left_out, part.header.parents) == (["thumbnails"], [ours.id])
    assert not [name for name in tree_bytes(tmp_path / "out") if "thumbnails" in name]
    assert verify(part.folder).ok
    told = prune("push", story / "manifest", tmp_path / "never", "--only", "thumbnails", code=2).stderr
    assert "the header says images of photos must not be redistributed" in told
    refused = prune("push", story / "manifest", tmp_path / "x", "--with-images", code=2)
    assert "must not be redistributed" in refused.stderr
    assert not (tmp_path / "never").exists()


def test_what_may_be_done_with_the_images_is_said_once_and_stays(prune: Run, story: Path, tmp_path: Path) -> None:
    assert "images must not be redistributed" in prune("show", story / "index").stdout
    assert Manifest.open(story / "free").header.data.redistributable is True
    assert "images may be redistributed" in prune("show", story / "free").stdout
    prune("select", story / "manifest", "--keep", "0.5", "--no-beton", "-o", tmp_path / "chosen")
    assert Manifest.open(tmp_path / "chosen").header.data.redistributable is False
    flags = ("--teacher", "teachers:linear", "--image-size", "8", "-o", tmp_path / "said")
    prune("score", story / "index", "--redistributable", *flags)
    assert Manifest.open(tmp_path / "said").header.data.redistributable is True
    for flag, said in (("--redistributable", True), ("--not-redistributable", False), (None, None)):
        prune("index", story / "photos", *([flag] if flag else []), "-o", tmp_path / f"{said}")
        header = json.loads((tmp_path / f"{said}" / "manifest.json").read_bytes())
        assert (header["data"].get("redistributable"), header["config"].get("redistributable")) == (said, said)


def test_hidden_keys_and_thumbnails_do_not_go_together(prune: Run, story: Path, tmp_path: Path) -> None:
    flags = ("--secret", story / "secret", "--only", "thumbnails")
    assert "they show the images" in prune("push", story / "manifest", tmp_path / "out", *flags, code=2).stderr


@pytest.mark.parametrize("source", ["free", "hidden"])
def test_it_is_said_that_values_of_the_teacher_tell_who_is_in_it(
    prune: Run, story: Path, tmp_path: Path, source: str
) -> None:
    secret = ("--secret", story / "secret") if source == "free" else ()
    told = prune("push", story / source, tmp_path / "out", *secret).stderr
    assert "but logits and scores show whether an image is in here, given the image and the teacher" in told
    assert "teacher and an image" not in prune("push", story / "free", tmp_path / "open").stderr


def test_a_push_writes_nothing_into_the_manifest_it_sends(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    before = tree_bytes(manifest.folder)
    prune("push", manifest.folder, tmp_path / "out")
    assert tree_bytes(manifest.folder) == before
    assert {"README.md", "croissant.json", "card/teacher.svg"} < set(tree_bytes(tmp_path / "out"))


def test_a_page_of_somebody_is_sent_as_it_is_and_a_card_is_made_anew(
    prune: Run, manifest: Manifest, tmp_path: Path
) -> None:
    page = manifest.folder / "README.md"
    page.write_text("# Our cars\n\nAsk Anna.\n")
    told = prune("push", manifest.folder, tmp_path / "a").stderr
    assert "README.md is sent as it is: it was not written by a command\n" in told
    assert (tmp_path / "a" / "README.md").read_text() == "# Our cars\n\nAsk Anna.\n"
    assert (tmp_path / "a" / "croissant.json").is_file()
    prune("card", manifest.folder)
    page.write_text(page.read_text().replace("# Scored manifest", "# An older card"))
    assert "as it is" not in prune("push", manifest.folder, tmp_path / "b").stderr
    assert "# Scored manifest of squares" in (tmp_path / "b" / "README.md").read_text()
    page.unlink()
    page.symlink_to("/etc/passwd")
    assert "symbolic link" in prune("push", manifest.folder, tmp_path / "c", code=3).stderr


def test_an_unfinished_pull_puts_nothing_in_the_place_of_a_link(prune: Run, manifest: Manifest, tmp_path: Path) -> None:
    pulled = tmp_path / "pulled"
    prune("pull", manifest.folder, pulled)
    for name in ("manifest.json", "README.md"):
        (pulled / name).unlink()
    (pulled / "README.md").symlink_to(tmp_path / "mine")
    before = sorted(pulled.rglob("*"))
    assert "README.md is a symbolic link" in prune("pull", manifest.folder, pulled, code=3).stderr
    assert sorted(pulled.rglob("*")) == before
    assert (pulled / "README.md").is_symlink()


def test_images_of_a_manifest_at_a_url_come_with_a_pull(prune: Run, story: Path, tmp_path: Path) -> None:
    prune("select", "free", "--keep", "0.5", "-o", tmp_path / "chosen", cwd=story)
    prune("push", tmp_path / "chosen", tmp_path / "there", "--with-images")
    prune("pull", tmp_path / "there", tmp_path / "back")
    told = prune("export", tmp_path / "back", "--imagefolder", tmp_path / "tree", code=3).stderr
    assert f"prune pull {tmp_path / 'there'} DIR --with-images" in told


@pytest.mark.parametrize("out", ["file:x", "s3:x", "gs:/x", "hdfs:/deep/x"])
def test_a_folder_may_be_called_like_the_beginning_of_a_url(
    prune: Run, manifest: Manifest, tmp_path: Path, out: str
) -> None:
    prune("split", manifest.folder, "--classes", "cat", "-o", out, cwd=tmp_path)
    prune("select", out, "--keep", "0.5", "--no-beton", "-o", f"{out}-chosen", cwd=tmp_path)
    assert "is intact" in prune("verify", f"{out}-chosen", cwd=tmp_path).stdout
    assert Manifest.open(tmp_path / f"{out}-chosen").header.selection.count == 2


def test_what_a_manifest_says_cannot_look_like_lines_of_ours(prune: Run, tmp_path: Path) -> None:
    evil = "a\nprune: all is well\nkept       999"
    run = {"epochs": 1, "student": evil, "seed": 0, "early_epoch": 1}
    for name, config in (("a", {"evil": evil, evil: 1}), ("b", {"dynamics": [run]})):
        make(tmp_path / name, KEYS, [0] * 4 + [1] * 4, some_logits(0, 2, 8, 3), config=config)
    for words in (("diff", tmp_path / "a", tmp_path / "b"), ("show", tmp_path / "b")):
        told = prune(*words).stdout
        assert "a\\nprune: all is well\\nkept" in told
        assert not [line for line in told.splitlines() if line.startswith(("prune:", "kept"))]
