"""Crops are drawn by the sizes of the images that were scored, whatever sizes those have that are shown."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from beton_support import jpeg_bytes, smooth
from PIL import Image

from manifests.betons.reader import Beton
from manifests.manifest import Manifest
from trainer.data.policies import TrainingViews
from trainer.data.task import open_task
from trainer.data.views import plan_views

Run = Callable[..., subprocess.CompletedProcess[str]]
SIZES = [(67, 43), (40, 40), (53, 81), (12, 90), (99, 31), (20, 17)]
SHRUNK = [(40, 26), (40, 40), (26, 40), (5, 40), (40, 13), (20, 17)]
"""By hand to a side of 40: 43 * 40 / 67 = 25.67, 53 * 40 / 81 = 26.17, 12 * 40 / 90 = 5.33, 31 * 40 / 99 = 12.53."""
SCORE = ("--teacher", "teachers:linear", "--image-size", 16, "--views", 4, "--augment", "resized_crop_flip")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for row, (width, height) in enumerate(SIZES):
        path = tmp_path / "photos" / ("cat" if row < 3 else "dog") / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(smooth(generator, width, height)))
    return tmp_path / "photos"


def sizes(beton: Beton) -> list[tuple[int, int]]:
    return list(zip(beton.widths_N.tolist(), beton.heights_N.tolist(), strict=True))


def drawn(beton: Beton) -> list[tuple[int, int]]:
    return [tuple(size) for size in beton.drawn_sizes(np.arange(beton.count)).tolist()]


def relative_boxes(folder: Path) -> np.ndarray:
    """(V, N, 4) of every stored view, as shares of the images' sides."""
    task = open_task(folder)
    beton, views = task.beton, TrainingViews.of(task, policy="replay")
    rows_n = np.arange(beton.count)
    side_n4 = np.stack([beton.widths_N, beton.heights_N] * 2, axis=1)
    ids = beton.columns["view_id"]
    sides = beton.widths_N, beton.heights_N, beton.drawn_sizes(rows_n)
    plans = [plan_views(views.recipe, task.preprocessing(16), ids, view, *sides) for view in range(4)]
    return np.stack([plan.box_n4 / side_n4 for plan in plans])


def test_images_that_were_shrunk_for_scoring_are_shown_whole_in_the_same_crops(
    photos: Path, tmp_path: Path, prune: Run
) -> None:
    """The first team scores a beton of shrunk images; the second has the images as they were."""
    prune("index", photos, "--beton", "--max-side", 40, "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *SCORE, "-o", tmp_path / "manifest")
    header = Manifest.open(tmp_path / "manifest").header
    assert header.views is not None
    assert (header.views.max_side, header.schema_version) == (40, "1.4")
    select = ("select", tmp_path / "manifest", "--keep", 1, "--labels", "raw")
    prune(*select, "-o", tmp_path / "ours")
    prune(*select, "--data", photos, "-o", tmp_path / "theirs")
    prune(*select, "--data", photos, "--max-side", 40, "-o", tmp_path / "alike")
    ours, theirs, alike = (Beton.open(tmp_path / name / "train.beton") for name in ("ours", "theirs", "alike"))
    assert sizes(ours) == drawn(ours) == sizes(alike) == drawn(alike) == SHRUNK
    assert ours.scored_size_N2 is alike.scored_size_N2 is None
    assert sizes(theirs) == SIZES
    assert drawn(theirs) == SHRUNK
    np.testing.assert_allclose(relative_boxes(tmp_path / "theirs"), relative_boxes(tmp_path / "ours"), atol=1e-6)
    for row in range(6):
        np.testing.assert_array_equal(ours.pixels(row), alike.pixels(row))


def test_what_is_labelled_anew_keeps_the_sizes_by_which_its_views_were_drawn(
    photos: Path, tmp_path: Path, prune: Run
) -> None:
    prune("score", photos, *SCORE, "--thumbnails", "-o", tmp_path / "manifest")
    for path in photos.rglob("*.jpg"):
        with Image.open(path) as image:
            image.resize((image.width * 2 + 1, image.height * 2), Image.Resampling.BICUBIC).save(path, quality=95)
    shutil.move(photos, tmp_path / "larger")
    (tmp_path / "manifest" / "local.json").unlink()
    data = ("--data", tmp_path / "larger", "--pixels")
    prune("select", tmp_path / "manifest", "--keep", 1, "--labels", "raw", *data, "-o", tmp_path / "selection")
    selection = Beton.open(tmp_path / "selection" / "train.beton")
    assert drawn(selection) == SIZES
    assert sizes(selection) == [(2 * width + 1, 2 * height) for width, height in SIZES]
    teacher = ("--teacher", "teachers:linear", "--image-size", 16)
    prune("label", tmp_path / "selection", *teacher, "--views", 4, "--labels", "raw", "-o", tmp_path / "labelled")
    labelled = Beton.open(tmp_path / "labelled" / "train.beton")
    assert (sizes(labelled), drawn(labelled)) == (sizes(selection), SIZES)
    header = Manifest.open(tmp_path / "labelled").header
    assert header.views is not None
    assert header.views.max_side is None
    np.testing.assert_array_equal(relative_boxes(tmp_path / "labelled"), relative_boxes(tmp_path / "selection"))


@pytest.fixture
def scored(photos: Path, tmp_path: Path, prune: Run) -> Path:
    """Scored on images that were shrunk to 40 px, beside the index."""
    prune("index", photos, "--beton", "--max-side", 40, "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *SCORE, "-o", tmp_path / "manifest")
    return tmp_path / "manifest"


SELECT = ("--keep", 1, "--labels", "raw")
LABEL = ("--teacher", "teachers:linear", "--image-size", 16, "--views", 4, "--labels", "raw")


def sent(folder: Path, prune: Run, *flags: object) -> Path:
    """As another team gets it: without its beton and its local.json."""
    remote = folder.with_name(f"{folder.name}-remote")
    prune("push", folder, remote, *flags)
    pulled = folder.with_name(f"{folder.name}-sent")
    prune("pull", f"file://{remote}", pulled)
    return pulled


def test_a_hidden_manifest_has_no_sizes_and_takes_no_others(
    scored: Path, photos: Path, tmp_path: Path, prune: Run
) -> None:
    (tmp_path / "secret.txt").write_text("0123456789abcdef")
    secret = ("--secret", tmp_path / "secret.txt")
    hidden = sent(scored, prune, *secret)
    base = ("select", hidden, *SELECT, "--data", photos, *secret)
    assert "use --max-side 40" in prune(*base, "-o", tmp_path / "none", code=2).stderr
    assert "use --max-side 40" in prune(*base, "--max-side", 20, "-o", tmp_path / "none", code=2).stderr
    assert "use --check hashes" in prune(*base, "--check", "names", "-o", tmp_path / "none", code=2).stderr
    prune(*base, "--max-side", 40, "-o", tmp_path / "theirs")
    prune("select", scored, *SELECT, "-o", tmp_path / "ours")
    assert sorted(sizes(Beton.open(tmp_path / "theirs" / "train.beton"))) == sorted(SHRUNK)
    ours, theirs = relative_boxes(tmp_path / "ours"), relative_boxes(tmp_path / "theirs")
    order = [np.argsort(open_task(tmp_path / name).beton.columns["view_id"]) for name in ("ours", "theirs")]
    np.testing.assert_array_equal(ours[:, order[0]], theirs[:, order[1]])


def test_images_that_were_labelled_whole_are_cut_whole(scored: Path, photos: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", scored, *SELECT, "--data", photos, "-o", tmp_path / "whole")
    prune("label", tmp_path / "whole", *LABEL, "-o", tmp_path / "labelled")
    header = Manifest.open(tmp_path / "labelled").header
    assert "max_side" not in header.config
    assert header.views is not None
    assert header.views.max_side == 40
    prune("cut", sent(tmp_path / "labelled", prune), "--data", photos, "-o", tmp_path / "cut")
    assert sizes(Beton.open(tmp_path / "cut" / "train.beton")) == SIZES
    np.testing.assert_array_equal(relative_boxes(tmp_path / "cut"), relative_boxes(tmp_path / "labelled"))


def test_labels_of_what_nobody_scored_say_how_their_images_were_shrunk(
    scored: Path, photos: Path, tmp_path: Path, prune: Run
) -> None:
    """The index was made of shrunk images, and its subset knows of no views."""
    (tmp_path / "rows.txt").write_text("".join(f"{row}\n" for row in range(6)))
    prune("import", tmp_path / "rows.txt", tmp_path / "index", "--indices", "-o", tmp_path / "subset")
    prune("label", tmp_path / "subset", *LABEL, "--other-teacher", *SCORE[6:], "-o", tmp_path / "labelled")
    views = Manifest.open(tmp_path / "labelled").header.views
    assert views is not None
    assert views.max_side == 40
    prune("cut", sent(tmp_path / "labelled", prune), "--data", photos, "-o", tmp_path / "cut")
    assert drawn(Beton.open(tmp_path / "cut" / "train.beton")) == SHRUNK
    np.testing.assert_allclose(relative_boxes(tmp_path / "cut"), relative_boxes(tmp_path / "labelled"), atol=1e-6)


@pytest.mark.parametrize("flags", [(), ("--no-beton",)])
def test_what_was_labelled_shrunk_is_cut_shrunk(
    photos: Path, tmp_path: Path, prune: Run, flags: tuple[str, ...]
) -> None:
    prune("score", photos, *SCORE[:4], "-o", tmp_path / "manifest")
    prune("select", tmp_path / "manifest", *SELECT, "--max-side", 40, "-o", tmp_path / "small")
    prune("label", tmp_path / "small", *LABEL, *SCORE[6:], *flags, "-o", tmp_path / "labelled")
    prune("cut", sent(tmp_path / "labelled", prune), "--data", photos, "-o", tmp_path / "cut")
    beton = Beton.open(tmp_path / "cut" / "train.beton")
    assert sizes(beton) == drawn(beton) == SHRUNK


def test_where_nothing_was_shrunk_nothing_is_said(photos: Path, tmp_path: Path, prune: Run) -> None:
    prune("index", photos, "--beton", "--max-side", 99, "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *SCORE, "-o", tmp_path / "manifest")
    header = Manifest.open(tmp_path / "manifest").header
    assert header.views is not None
    assert (header.views.max_side, header.schema_version) == (None, "1.4")
