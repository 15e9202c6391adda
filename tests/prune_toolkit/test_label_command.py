"""`prune label`: many views of the kept samples, against pixels drawn here and a teacher run here; kills and ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import tree_bytes

from manifests.betons.reader import Beton
from manifests.format.top_k import top_k
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.sources import open_source
from trainer.data.loaders import open_loader
from trainer.data.policies import TrainingViews
from trainer.data.resample import draw_view
from trainer.data.task import open_task
from trainer.data.views import ViewRecipe, plan_views

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)
AGAIN = TEACHER[:2]
"""A module of one's own must be named again: a header does not decide which code is run."""
VIEWS = 3
OTHERS = '''
import torch


class Other(torch.nn.Module):
    """Knows only how bright the image is."""

    def __init__(self, num_classes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, num_classes))

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * self.weight


def brightness(num_classes):
    return Other(num_classes)
'''


@pytest.fixture(scope="module")
def selection(many_digits: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """2,000 of 20,000 samples in three parts, with reshaped labels of view 0."""
    folder = tmp_path_factory.mktemp("selection")
    prune("score", many_digits, *TEACHER, "-o", folder / "manifest")
    prune("select", folder / "manifest", "--keep", "0.1", "-o", folder / "selection")
    return folder / "selection"


@pytest.fixture(scope="module")
def labelled(selection: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """The manifest of an undisturbed run."""
    out = tmp_path_factory.mktemp("labelled") / "labelled"
    result = prune("label", selection, *TEACHER, "--views", VIEWS, "--labels", "raw", "--seed", 5, "-o", out)
    assert "2,000 samples x 3 view(s) labelled by teachers:linear, right on " in result.stdout
    assert "% of their training views: raw, replay of 3 view(s)" in result.stdout
    assert f"next: train-student --manifest {out}" in result.stdout
    return out


def targets_of(path: Path, views: int) -> tuple[np.ndarray, np.ndarray]:
    """sample_id (n,) and targets (n, V, C) of a manifest."""
    parts = [list(Manifest.open(path).targets(view)) for view in range(views)]
    ids = np.concatenate([ids for ids, _ in parts[0]])
    return ids, np.stack([np.concatenate([block for _, block in view]) for view in parts], axis=1)


def test_every_view_has_the_label_of_its_own_pixels(
    labelled: Path, many_digits: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(teachers)
    from teachers import linear

    manifest = Manifest.open(labelled)
    ids, targets = targets_of(labelled, VIEWS)
    kept = manifest.selection().column("keep").to_numpy(zero_copy_only=False)
    assert np.array_equal(ids, np.flatnonzero(kept))
    shown = manifest.header.teacher.preprocessing
    view_id_n = manifest.samples().column("view_id").to_numpy()[ids]
    pixels = [np.repeat(image.array[:, :, None], 3, axis=2) for image in open_source(str(many_digits)).read(ids)]
    size_n = np.full(len(ids), 8, np.int32)
    recipe = ViewRecipe(name="pad_crop_flip", seed=5)
    network = linear(10).double()
    for view in range(VIEWS):
        plan = plan_views(recipe, shown, view_id_n, view, size_n, size_n)
        images = np.empty((len(ids), 8, 8, 3), np.uint8)
        for row, image in enumerate(pixels):
            draw_view(image, plan, row, shown.interpolation, images[row])
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
        inputs = (inputs - torch.tensor(shown.mean).view(3, 1, 1)) / torch.tensor(shown.std).view(3, 1, 1)
        # float32 arithmetic, then float16's 11 bits.
        np.testing.assert_allclose(targets[:, view], network(inputs).detach(), rtol=1e-3, atol=2e-3)
    assert not np.array_equal(targets[:, 1], targets[:, 2])


def test_all_but_labels_is_the_selections(selection: Path, labelled: Path) -> None:
    old, new = Manifest.open(selection), Manifest.open(labelled)
    assert new.header.parents == [old.id]
    for block in ("data", "selection", "teacher", "kind"):
        assert getattr(new.header, block) == getattr(old.header, block)
    for table in ("samples", "selection"):
        for entry in new.files(table):
            assert (labelled / entry.path).stat().st_ino == (selection / entry.path).stat().st_ino
    views, labels, run = new.header.views, new.header.labels, new.header.run
    assert (views.recipe, views.seed, views.count, views.image_px, views.pad_px) == ("pad_crop_flip", 5, VIEWS, 8, 1)
    assert (labels.transform, labels.policy, labels.views, labels.class_std) == ("raw", "replay", VIEWS, None)
    assert run["command"] == "label"
    assert run["images"] == 2000 * VIEWS
    assert run["parent_run"] == old.header.run
    assert verify(labelled).ok
    assert not (labelled / ".times").exists()


@pytest.mark.parametrize("view", range(VIEWS))
def test_the_beton_is_read_back_by_the_loaders_with_the_labels_of_each_view(
    selection: Path, labelled: Path, view: int
) -> None:
    _, targets = targets_of(labelled, VIEWS)
    manifest = Manifest.open(labelled)
    beton, old = Beton.open(manifest.beton_path), Beton.open(Manifest.open(selection).beton_path)
    rows = np.arange(beton.count)
    assert np.array_equal(beton.targets(rows).view(np.int16), targets.view(np.int16))
    assert all(np.array_equal(beton.columns[name], old.columns[name]) for name in old.columns)
    assert all(np.array_equal(beton.image_bytes(row), old.image_bytes(row)) for row in range(0, beton.count, 100))
    loader = open_loader(beton, kind="torch", preprocessing=manifest.header.teacher.preprocessing)
    found = [batch.target for batch in loader.batches(rows, target_view_n=view, batch_size=512)]
    loader.close()
    assert np.array_equal(torch.cat(found).numpy().view(np.int16), targets[:, view].view(np.int16))


def test_labels_are_those_that_scoring_as_many_views_gives(many_digits: Path, tmp_path: Path, prune: Run) -> None:
    views = ("--views", VIEWS, "--seed", 9, "--pad", 2, "--no-flip")
    prune("score", many_digits, *TEACHER, *views, "-o", tmp_path / "m")
    prune("select", tmp_path / "m", "--keep", "0.05", "--labels", "raw", "-o", tmp_path / "s")
    # Views are drawn as the selection's were, unless told otherwise.
    prune("label", tmp_path / "s", *AGAIN, "--views", VIEWS, "-o", tmp_path / "l")
    ids, expected = targets_of(tmp_path / "s", VIEWS)
    again, found = targets_of(tmp_path / "l", VIEWS)
    assert np.array_equal(again, ids)
    # Other batches: the last bit of float16 may differ.
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=2**-9, atol=1e-4)
    assert (found == expected).mean() > 0.95
    headers = [Manifest.open(tmp_path / name).header for name in "sl"]
    assert headers[0].views == headers[1].views
    assert headers[1].views.flip is False


@pytest.mark.slow
def test_a_run_killed_at_any_point_and_repeated_gives_the_same_bytes(
    selection: Path, labelled: Path, tmp_path: Path, prune: Run
) -> None:
    out = tmp_path / "labelled"
    arguments = ("label", selection, *TEACHER, "--views", VIEWS, "--labels", "raw", "--seed", 5, "-o", out)
    # A part is a time and 3 tables; after 3 parts train.beton, local.json, README.md and manifest.json.
    for renames in (3, 16):
        launcher = (sys.executable, str(KILL_AT), str(renames))
        prune(*arguments, code=-signal.SIGKILL, launcher=launcher)
        assert not (out / "manifest.json").exists()
    prune(*arguments)
    assert tree_bytes(out) == tree_bytes(labelled)
    assert Manifest.open(out).id == Manifest.open(labelled).id
    assert "is finished already" in prune(*arguments).stderr
    assert "differ" in prune(*arguments, "--no-flip", code=2).stderr


@pytest.mark.slow
def test_two_ranks_give_the_bytes_of_one(
    selection: Path, labelled: Path, tmp_path: Path, teachers: Path, prune: Run
) -> None:
    out = tmp_path / "labelled"
    arguments = ["label", selection, *TEACHER, "--views", VIEWS, "--labels", "raw", "--seed", 5, "-o", out]
    program = [sys.executable, "-m", "prune_toolkit", *map(str, arguments)]
    environment = {**os.environ, "WORLD_SIZE": "2", "PYTHONPATH": str(teachers)}
    ranks = [
        subprocess.Popen(
            program, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert tree_bytes(out) == tree_bytes(labelled)
    manifest = Manifest.open(out)
    assert manifest.id == Manifest.open(labelled).id
    run = manifest.header.run
    assert run["images_per_second"] > 0  # 0 where the times of the parts were lost
    assert run["seconds"] >= run["images"] / run["images_per_second"] * 0.99
    assert not (out / ".times").exists()


def test_finish_only_commits(selection: Path, labelled: Path, tmp_path: Path, prune: Run) -> None:
    out = tmp_path / "labelled"
    arguments = ("label", selection, *TEACHER, "--views", VIEWS, "--labels", "raw", "--seed", 5, "--finish", "-o", out)
    shutil.copytree(labelled, out)
    (out / "manifest.json").unlink()
    prune(*arguments)
    assert Manifest.open(out).id == Manifest.open(labelled).id
    (out / "manifest.json").unlink()
    (out / "targets" / "view-001" / "part-00002.parquet").unlink()
    result = prune(*arguments)
    assert "1 of 3 parts are not there yet" in result.stderr
    assert "nothing left for this process" in result.stderr
    assert not (out / "manifest.json").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """A folder with a small `manifest`, a `selection` of it, and another teacher in others.py."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "others.py").write_text(OTHERS)
    prune("score", "demo:digits", *TEACHER, "-o", folder / "manifest")
    prune("select", folder / "manifest", "--keep", "0.3", "--preset", "mdslr", "-o", folder / "selection")
    return folder


def test_reshape_is_the_default_where_the_selection_has_it_with_its_class_means(
    small: Path, tmp_path: Path, prune: Run
) -> None:
    base = ("label", small / "selection", *TEACHER, "--views", 2)
    prune(*base, "-o", tmp_path / "reshaped")
    prune(*base, "--labels", "raw", "-o", tmp_path / "raw")
    ids, raw = targets_of(tmp_path / "raw", 2)
    _, reshaped = targets_of(tmp_path / "reshaped", 2)
    header = Manifest.open(small / "selection").header
    label_n = Manifest.open(small / "selection").samples().column("label").to_numpy()[ids]
    scale = np.array(header.labels.class_std)[label_n][:, None, None]
    exact = raw.astype(np.float64) / raw.astype(np.float64).std(axis=2, ddof=1, keepdims=True) * scale
    np.testing.assert_allclose(reshaped.astype(np.float64), exact, rtol=2**-10, atol=2**-20)
    labels = Manifest.open(tmp_path / "reshaped").header.labels
    assert labels.class_std == header.labels.class_std
    assert labels.parameters["loss"] == {"kd_weight": 0.9, "temperature": 4.0}
    refused = prune("label", tmp_path / "raw", *TEACHER, "--labels", "reshape", "-o", tmp_path / "x", code=2)
    assert "select again with --labels reshape" in refused.stderr


@pytest.mark.parametrize("k", [None, 4])
def test_one_label_can_be_stored_for_all_views(small: Path, tmp_path: Path, prune: Run, k: int | None) -> None:
    base = ("label", small / "selection", *TEACHER, "--labels", "raw")
    prune(*base, "--views", 3, "-o", tmp_path / "replay")
    few = () if k is None else ("--top-k", k)
    prune(*base, "--views", 3, "--policy", "mean", *few, "-o", tmp_path / "mean")
    prune(*base, "--policy", "single", *few, "-o", tmp_path / "single")
    ids, replay = targets_of(tmp_path / "replay", 3)
    label_n = Manifest.open(small / "selection").samples().column("label").to_numpy()[ids]
    mean = replay.astype(np.float64).mean(axis=1).astype(np.float16)
    for name, dense, views in (("mean", mean, 3), ("single", replay[:, 0], 1)):
        manifest = Manifest.open(tmp_path / name)
        [(_, stored)] = manifest.soft_labels("targets")
        if k is None:
            # Without the other views the batches of `single` are others: the last bit may differ.
            np.testing.assert_allclose(stored.logits().astype(float), dense.astype(float), rtol=2**-9, atol=1e-4)
        else:
            same = (stored.words() == top_k(dense, label_n, k).words()).all(axis=1)
            assert same.all() if name == "mean" else same.mean() > 0.8
            assert Beton.open(manifest.beton_path).target_shape == (1, 2 * k + 13)
        labels = manifest.header.labels
        assert (labels.policy, labels.views, labels.top_k) == (name, 1, k)
        assert manifest.header.views.count == views
        assert manifest.header.views.recipe == ("eval" if name == "single" else "pad_crop_flip")
    assert "labels only view 0" in prune(*base, "--policy", "single", "--views", 2, "-o", tmp_path / "x", code=2).stderr
    assert "policy" in prune(*base, "--policy", "often", "-o", tmp_path / "x", code=2).stderr


def test_another_teacher_labels_only_when_that_is_meant(small: Path, tmp_path: Path, prune: Run) -> None:
    base = ("label", small / "selection", "--teacher", "others:brightness", "--image-size", 8, "--views", 2)
    refused = prune(*base, "-o", tmp_path / "l", cwd=small, code=4)
    assert "was scored by teachers:linear with weights" in refused.stderr
    assert "--other-teacher" in refused.stderr
    refused = prune(*base, "--other-teacher", "--labels", "reshape", "-o", tmp_path / "l", cwd=small, code=2)
    assert "use --labels raw" in refused.stderr
    licence = ("--teacher-licence", "MIT")
    assert "--other-teacher" in prune(*base, *licence, "-o", tmp_path / "l", cwd=small, code=2).stderr
    assert not (tmp_path / "l").exists()
    prune(*base, "--other-teacher", *licence, "-o", tmp_path / "l", cwd=small)
    manifest = Manifest.open(tmp_path / "l")
    ids, targets = targets_of(tmp_path / "l", 2)
    label_n = manifest.samples().column("label").to_numpy()[ids]
    card = manifest.header.teacher
    assert (card.spec, card.parameters, card.val_top1, card.licence) == ("others:brightness", 10, None, "MIT")
    assert (manifest.header.labels.transform, manifest.header.config["teacher_licence"]) == ("raw", "MIT")
    assert card.train_top1 == (targets[:, 0].argmax(axis=1) == label_n).mean()
    assert np.array_equal(manifest.scores().column("sample_id").to_numpy(), ids)
    assert verify(tmp_path / "l").ok
    # It is the teacher of that selection now.
    prune("label", tmp_path / "l", "--teacher", "others:brightness", "--views", 2, "-o", tmp_path / "m", cwd=small)
    again = Manifest.open(tmp_path / "m")
    assert again.header.teacher == card
    assert not again.has("scores/teacher")
    resized = prune("label", small / "selection", *AGAIN, "--image-size", 16, "-o", tmp_path / "x", code=4).stderr
    assert "with image_px 8; now it is 16" in resized


def test_what_is_no_selection_is_refused_with_what_to_do(small: Path, tmp_path: Path, prune: Run) -> None:
    refused = prune("label", small / "manifest", *TEACHER, "-o", tmp_path / "l", code=2)
    assert "prune select" in refused.stderr
    prune("index", "demo:digits", "-o", tmp_path / "index")
    assert "prune score" in prune("label", tmp_path / "index", *TEACHER, "-o", tmp_path / "l", code=2).stderr
    assert "no manifest at" in prune("label", tmp_path / "none", *TEACHER, code=3).stderr
    assert "--views 0" in prune("label", small / "selection", *TEACHER, "--views", 0, code=2).stderr


def test_a_dry_run_tells_bytes_and_hours_and_writes_nothing(small: Path, tmp_path: Path, prune: Run) -> None:
    base = ("label", small / "selection", *TEACHER, "--dry-run", "-o", tmp_path / "l")
    kept = Manifest.open(small / "selection").header.selection.count
    tried = json.loads(prune(*base, "--views", 4, "--top-k", 3, "--json").stdout)
    assert (tried["samples"], tried["views"], tried["targets"]) == (kept, 4, 4)
    targets_bytes = kept * 4 * (2 * 3 + 13) * 2
    # Once as tables, once in the beton, where 64 pixels and 120 bytes of a sample go with them.
    assert tried["bytes"] == 2 * targets_bytes + kept * (8 * 8 * 3 + 120)
    assert json.loads(prune(*base, "--views", 4, "--top-k", 3, "--no-beton", "--json").stdout)["bytes"] == targets_bytes
    assert tried["images_per_second"] > 0
    assert tried["seconds"] == pytest.approx(kept * 4 / tried["images_per_second"], rel=0.1, abs=0.01)
    assert tried["hours"] == pytest.approx(tried["seconds"] / 3600, abs=1e-4)
    result = prune(*base, "--policy", "mean")
    assert f"{kept} samples x 8 view(s), 1 target(s) each" in result.stdout
    assert "hours" in result.stdout
    assert not (tmp_path / "l").exists()


def fresh_views(selection: Path) -> ViewRecipe:
    """How `train-student` would draw the views that were not scored."""
    task = open_task(selection)
    return TrainingViews.of(task, policy="single").recipe


@pytest.mark.slow
def test_fresh_views_are_drawn_as_was_asked_for_in_scoring_though_one_view_is_left(tmp_path: Path, prune: Run) -> None:
    drawn = ("--no-flip", "--pad", 2)
    prune("score", "demo:digits", *TEACHER, "--views", 4, *drawn, "-o", tmp_path / "m")
    for name, flags in {"all": (), "one": ("--views", 1)}.items():
        prune("select", tmp_path / "m", "--keep", "0.2", *flags, "-o", tmp_path / name)
        prune(
            "label",
            tmp_path / name,
            "--teacher",
            "teachers:linear",
            "--threads",
            1,
            "--policy",
            "single",
            "-o",
            tmp_path / f"single-{name}",
        )
        prune(
            "label",
            tmp_path / name,
            "--teacher",
            "teachers:linear",
            "--threads",
            1,
            "--views",
            1,
            "--flip",
            "-o",
            tmp_path / f"flip-{name}",
        )
        stored = open_task(tmp_path / f"single-{name}").stored
        assert (stored.view_count, stored.scored_views, stored.policy) == (1, 1, "single")
        assert (stored.scored.name, stored.scored.flip, stored.scored.pad_px) == ("pad_crop_flip", False, 2)
        assert fresh_views(tmp_path / f"flip-{name}").flip
    for path in ("one", "single-all", "single-one"):
        assert not fresh_views(tmp_path / path).flip
    prune("score", "demo:digits", *TEACHER, *drawn, "-o", tmp_path / "m1")
    prune("select", tmp_path / "m1", "--keep", "0.2", "-o", tmp_path / "s1")
    prune("label", tmp_path / "s1", *AGAIN, "--views", 2, "-o", tmp_path / "l1")
    assert Manifest.open(tmp_path / "m1").header.config["views"]["flip"] is False
    for path in ("s1", "l1"):
        assert (fresh_views(tmp_path / path).flip, fresh_views(tmp_path / path).pad_px) == (False, 2)
    shown = prune("show", tmp_path / "s1").stdout
    assert "1, the evaluation view; others are drawn by pad_crop_flip (padded by 2 px, not mirrored)" in shown


@pytest.mark.parametrize(
    ("class_std", "told"),
    [
        ([1.0] * 9, "class_std has 9 numbers for 10 classes"),
        ([1.0] * 9 + [-1.0], "class_std holds a number below 0"),
        ([1.0] * 9 + [0.0], "class_std is 0 for '9', of which it keeps"),
    ],
)
def test_class_means_that_cannot_be_are_refused(
    small: Path, tmp_path: Path, prune: Run, class_std: list[float], told: str
) -> None:
    shutil.copytree(small / "selection", tmp_path / "s")
    header = json.loads((tmp_path / "s" / "manifest.json").read_bytes())
    header["labels"]["class_std"] = class_std
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(header))
    refused = prune("label", tmp_path / "s", *TEACHER, "-o", tmp_path / "l", code=3)
    assert told in refused.stderr


@pytest.fixture
def photos(tmp_path: Path, prune: Run) -> Path:
    """A folder of images, scored and selected without a beton: the images themselves are read."""
    generator = np.random.default_rng(0)
    for row in range(20):
        path = tmp_path / "photos" / "ab"[row % 2] / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 12, 3), np.uint8)).save(path)
    prune("score", tmp_path / "photos", *TEACHER, "-o", tmp_path / "manifest")
    prune("select", tmp_path / "manifest", "--keep", 1, "--no-beton", "-o", tmp_path / "selection")
    return tmp_path


def test_without_a_beton_the_images_are_read_where_they_were_scored_or_where_data_says(
    photos: Path, prune: Run
) -> None:
    base = ("label", photos / "selection", *TEACHER, "--views", 2)
    prune(*base, "-o", photos / "one")
    prune(*base, "--no-beton", "-o", photos / "bare")
    (photos / "photos").rename(photos / "moved")
    prune(*base, "--data", photos / "moved", "-o", photos / "two")
    assert Manifest.open(photos / "one").id == Manifest.open(photos / "two").id
    assert (photos / "one" / "train.beton").read_bytes() == (photos / "two" / "train.beton").read_bytes()
    assert not (photos / "bare" / "train.beton").exists()
    prune("label", photos / "two", *TEACHER, "--views", 2, "-o", photos / "three")
    first, third = targets_of(photos / "one", 2)[1], targets_of(photos / "three", 2)[1]
    np.testing.assert_allclose(first.astype(float), third.astype(float), rtol=2**-9, atol=1e-4)


def test_images_that_the_selection_shrank_are_shrunk_alike_when_read_again(photos: Path, prune: Run) -> None:
    prune("select", photos / "manifest", "--keep", 1, "--max-side", 9, "-o", photos / "shrunk")
    base = ("label", photos / "shrunk", *TEACHER, "--views", 3)
    prune(*base, "-o", photos / "of_beton")
    prune(*base, "--data", photos / "photos", "-o", photos / "of_source")
    beton, source = (Manifest.open(photos / name) for name in ("of_beton", "of_source"))
    assert beton.header.config["max_side"] == 9
    assert beton.id == source.id
    assert (photos / "of_beton" / "train.beton").read_bytes() == (photos / "of_source" / "train.beton").read_bytes()
    prune("label", photos / "selection", *TEACHER, "--views", 3, "-o", photos / "whole")
    whole, shrunk = (targets_of(photos / name, 3)[1] for name in ("whole", "of_source"))
    assert not np.allclose(whole.astype(float), shrunk.astype(float), rtol=1e-2)


def test_an_image_that_is_gone_or_altered_is_named(photos: Path, prune: Run) -> None:
    base = ("label", photos / "selection", *TEACHER, "--views", 2, "-o", photos / "labelled")
    broken = photos / "photos" / "b" / "07.png"
    data = broken.read_bytes()
    broken.write_bytes(data[:-40])
    assert "b/07.png" in prune(*base, code=4).stderr
    broken.unlink()
    assert "b/07.png" in prune(*base, code=4).stderr
    assert not (photos / "labelled" / "manifest.json").exists()
    broken.write_bytes(data)
    prune(*base)


def test_show_tells_what_the_labels_take(labelled: Path, prune: Run) -> None:
    shown = prune("show", labelled).stdout
    entries = [entry for entry in Manifest.open(labelled).header.files if entry.path.startswith("targets/")]
    size_bytes = sum(entry.bytes for entry in entries) / (2000 * VIEWS)
    assert f"raw, replay of 3 view(s), {size_bytes:.0f} B per sample and view" in shown
    assert "3: the evaluation view and pad_crop_flip (padded by 1 px), seed 5" in shown
    times = json.loads(prune("show", labelled, "--json").stdout)["times"]
    run = Manifest.open(labelled).header.run
    assert times["labelling_s"] == run["seconds"]
    assert times["selection_s"] == run["parent_run"]["seconds"]
    assert times["scoring_s"] == run["parent_run"]["parent_run"]["seconds"]
    assert "- targets: raw, replay of 3 view(s)" in (labelled / "README.md").read_text()
