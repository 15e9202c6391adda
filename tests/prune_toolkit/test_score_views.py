"""`prune score --views`: every view against the teacher run by hand on pixels drawn from the definition."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
import torch
from beton_support import smooth
from PIL import Image
from sklearn.datasets import load_digits
from tests_support import tree_bytes, write_idx

from manifests.betons.reader import Beton
from manifests.errors import MismatchError
from manifests.format.header import Preprocessing, Views
from manifests.format.top_k import TopK, top_k, words_count
from manifests.manifest import Manifest
from manifests.sources import open_source
from prune_toolkit.images.readers import ImagesAtHand
from prune_toolkit.images.sample_images import beton_rows
from prune_toolkit.scoring.score_pass import views_text_of
from prune_toolkit.scoring.view_flags import ViewFlags, recipe_or_none, scoring_recipe, views_block
from trainer.data.resample import draw_view
from trainer.data.stored import scored_recipe
from trainer.data.views import ViewRecipe, plan_views

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)
COUNT = 8192 + 60
PREPROCESSING = Preprocessing(image_px=8, resize_px=9, mean=[0.5] * 3, std=[0.5] * 3)
LOADERS = ["torch", pytest.param("ffcv", marks=pytest.mark.skipif(find_spec("ffcv") is None, reason="no ffcv"))]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy digits, 8x8: two parts of a manifest."""
    found, generator = load_digits(), np.random.default_rng(1)
    row = generator.integers(0, len(found.target), COUNT)
    images = np.clip(found.images[row] * 15 + generator.integers(0, 16, (COUNT, 8, 8)), 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("views") / "digits"
    write_idx(folder, images, found.target[row])
    return folder


@pytest.fixture(scope="module")
def scored(digits: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Manifest:
    """Three views, all logits."""
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", digits, *TEACHER, "--views", 3, "--pad", 2, "--seed", 5, "-o", out)
    return Manifest.open(out)


@pytest.fixture(scope="module")
def kept(digits: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Manifest:
    """Three views, the four largest logits."""
    out = tmp_path_factory.mktemp("kept") / "manifest"
    prune("score", digits, *TEACHER, "--views", 3, "--pad", 2, "--seed", 5, "--top-k", 4, "-o", out)
    return Manifest.open(out)


def logits(manifest: Manifest, view: int) -> np.ndarray:
    return np.concatenate([values for _, values in manifest.logits(view)])


def scores_by_hand(logits_nC: np.ndarray, label_n: np.ndarray) -> dict[str, np.ndarray]:
    """Loss, confidence and correctness, by SciPy."""
    log_p = scipy.special.log_softmax(logits_nC.astype(np.float64), axis=1)
    rows = np.arange(len(label_n))
    return {"loss": -log_p[rows, label_n], "confidence": np.exp(log_p.max(1)), "correct": log_p.argmax(1) == label_n}


@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_logits_of_a_view_are_those_of_the_pixels_that_training_will_show(
    scored: Manifest, digits: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch, view: int
) -> None:
    monkeypatch.syspath_prepend(teachers)
    from teachers import linear

    shown = scored.header.teacher.preprocessing
    recipe = ViewRecipe(name="pad_crop_flip", seed=5, pad_px=2)
    view_ids = scored.samples(["view_id"]).column("view_id").to_numpy()
    sides = np.full(COUNT, 8, np.int32)
    plan = plan_views(recipe, shown, view_ids, view, sides, sides)
    assert plan.shift_n2.any() == plan.flip_n.any() == (view > 0)
    pixels = np.empty((COUNT, 8, 8, 3), np.uint8)
    for row, image in enumerate(open_source(str(digits)).read(range(COUNT))):
        draw_view(np.repeat(image.array.reshape(8, 8, 1), 3, axis=2), plan, row, shown.interpolation, pixels[row])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    images = (images - torch.tensor(shown.mean).view(3, 1, 1)) / torch.tensor(shown.std).view(3, 1, 1)
    expected = linear(10).double()(images).detach().numpy()
    # float32 arithmetic, then float16's 11 bits.
    np.testing.assert_allclose(logits(scored, view), expected, rtol=1e-3, atol=2e-3)


def test_scores_are_the_mean_over_the_training_views_and_the_card_is_of_view_0(scored: Manifest) -> None:
    label = scored.samples(["label"]).column("label").to_numpy()
    views = [scores_by_hand(logits(scored, view), label) for view in range(3)]
    table = scored.scores().to_pandas()
    for name in ("loss", "confidence", "correct"):
        np.testing.assert_allclose(table[name], (views[1][name] * 1.0 + views[2][name]) / 2, rtol=1e-5, atol=1e-9)
    assert set(table["correct"]) == {0.0, 0.5, 1.0}
    assert scored.header.teacher.train_top1 == pytest.approx(views[0]["correct"].mean())
    assert views[0]["correct"].mean() != pytest.approx(views[1]["correct"].mean())


@pytest.mark.parametrize(("which", "names", "averaged"), [("0", "0", [0]), ("all", "0-2", [0, 1, 2])])
def test_which_views_are_averaged_can_be_chosen(
    scored: Manifest, digits: Path, tmp_path: Path, prune: Run, which: str, names: str, averaged: list[int]
) -> None:
    flags = ("--views", 3, "--pad", 2, "--seed", 5, "--score-views", which)
    prune("score", digits, *TEACHER, *flags, "-o", tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    label = scored.samples(["label"]).column("label").to_numpy()
    losses = [scores_by_hand(logits(scored, view), label)["loss"] for view in averaged]
    np.testing.assert_allclose(manifest.scores().to_pandas()["loss"], np.mean(losses, 0), rtol=1e-5, atol=1e-9)
    assert {score.views for score in manifest.header.scores} == {names}
    assert manifest.header.config["score_views"] == names
    assert manifest.header.teacher == scored.header.teacher


def test_the_header_tells_recipe_views_and_times(scored: Manifest) -> None:
    header = scored.header
    assert header.schema_version == "1.4"
    assert header.views.model_dump(exclude_none=True) == {
        "recipe": "pad_crop_flip",
        "version": 1,
        "seed": 5,
        "count": 3,
        "image_px": 8,
        "pad_px": 2,
        "flip": True,
    }
    assert {score.views for score in header.scores} == {"1-2"}
    assert header.config["views"]["count"] == 3
    assert header.run["command"] == "score"
    assert header.run["images"] == 3 * COUNT
    assert 0 < header.run["seconds"] <= header.run["wall"]
    assert header.run["images_per_second"] == pytest.approx(3 * COUNT / header.run["seconds"], rel=0.01)
    assert [path.name for path in scored.path.iterdir() if path.name.startswith(".")] == []


def test_one_view_with_all_logits_is_configured_as_ever(digits: Path, tmp_path: Path, prune: Run) -> None:
    prune("score", digits, *TEACHER, "--seed", 5, "-o", tmp_path / "m")
    header = Manifest.open(tmp_path / "m").header
    assert not {"views", "score_views", "top_k"} & header.config.keys()
    assert header.views == Views(recipe="eval", version=1, seed=0, count=1, image_px=8)
    assert {score.views for score in header.scores} == {None}


def test_top_k_keeps_the_largest_of_every_view_and_scores_all_of_them(scored: Manifest, kept: Manifest) -> None:
    label = scored.samples(["label"]).column("label").to_numpy()
    for view in range(3):
        for (ids, stored), (_, dense) in zip(kept.soft_labels("logits", view), scored.logits(view), strict=True):
            assert isinstance(stored, TopK)
            assert stored.words().tolist() == top_k(dense, label[ids], 4).words().tolist()
    assert kept.scores().equals(scored.scores())
    assert kept.header.teacher.train_top1 == scored.header.teacher.train_top1
    assert kept.header.teacher.train_ece == pytest.approx(scored.header.teacher.train_ece, abs=1e-6)
    assert kept.header.views.top_k == kept.header.config["views"]["top_k"] == 4


@pytest.mark.slow
def test_a_run_killed_within_the_views_of_a_part_and_repeated_gives_the_same_bytes(
    kept: Manifest, digits: Path, tmp_path: Path, prune: Run
) -> None:
    out = tmp_path / "manifest"
    arguments = ("score", digits, *TEACHER, "--views", 3, "--pad", 2, "--seed", 5, "--top-k", 4, "-o", out)
    # A part is samples, 3 views, a time and scores; the kill comes before the second part's last view.
    prune(*arguments, code=-signal.SIGKILL, launcher=(sys.executable, str(KILL_AT), "10"))
    assert len(list(out.rglob("*.parquet"))) == 5 + 3
    assert not (out / "manifest.json").exists()
    first = (out / "logits" / "view-001" / "part-00000.parquet").stat().st_mtime_ns
    prune(*arguments)
    assert (out / "logits" / "view-001" / "part-00000.parquet").stat().st_mtime_ns == first
    assert tree_bytes(out) == tree_bytes(kept.path)
    assert Manifest.open(out).id == kept.id


def test_two_ranks_give_the_bytes_of_one_and_their_times_add_up(
    kept: Manifest, digits: Path, tmp_path: Path, prune: Run
) -> None:
    out = tmp_path / "manifest"
    arguments = ("score", digits, *TEACHER, "--views", 3, "--pad", 2, "--seed", 5, "--top-k", 4, "-o", out)
    prune(*arguments, "--rank", 1, "--world-size", 2)
    assert [path.name for path in (out / ".times").iterdir()] == ["part-00001.json"]
    (out / ".times" / "part-00001.json").write_text('{"seconds": 1000.0}')
    prune(*arguments, "--rank", 0, "--world-size", 2)
    assert tree_bytes(out) == tree_bytes(kept.path)
    manifest = Manifest.open(out)
    assert manifest.id == kept.id
    assert manifest.header.run["seconds"] > 1000 > manifest.header.run["wall"]


@pytest.mark.parametrize("loader", LOADERS)
def test_an_index_with_a_beton_gives_the_same_logits(
    scored: Manifest, digits: Path, tmp_path: Path, prune: Run, loader: str
) -> None:
    flags = ("--views", 3, "--pad", 2, "--seed", 5, "--loader", loader)
    prune("index", digits, "--beton", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, *flags, "-o", tmp_path / "m")
    for view in range(3):
        assert np.array_equal(logits(Manifest.open(tmp_path / "m"), view), logits(scored, view))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and a PNG of many sizes in two classes, and one that is broken."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for row in range(30):
        path = folder / "train" / "ab"[row % 2] / f"{row:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(generator, 40 + row, 70 - row)).save(path, quality=90)
    Image.fromarray(smooth(generator, 33, 44)).save(folder / "train" / "a" / "x.png")
    (folder / "train" / "b" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


@pytest.mark.parametrize("loader", LOADERS)
def test_resized_crops_are_the_same_from_files_an_index_and_a_beton(
    photos: Path, tmp_path: Path, prune: Run, loader: str
) -> None:
    flags = ("--views", 4, "--augment", "resized_crop_flip", "--scale-min", 0.3, "--batch-size", 9)
    prune("score", photos, *TEACHER, *flags, "-o", tmp_path / "files")
    alone = Manifest.open(tmp_path / "files")
    assert (alone.header.views.recipe, alone.header.data.readable) == ("resized_crop_flip", 31)
    assert not np.array_equal(logits(alone, 1), logits(alone, 2))
    prune("index", photos, "-o", tmp_path / "index")
    prune("index", photos, "--beton", "-o", tmp_path / "beton")
    prune("score", tmp_path / "index", *TEACHER, *flags, "-o", tmp_path / "of_index")
    prune("score", tmp_path / "beton", *TEACHER, *flags, "--loader", loader, "-o", tmp_path / "of_beton")
    for other in ("of_index", "of_beton"):
        for view in range(4):
            assert np.array_equal(logits(Manifest.open(tmp_path / other), view), logits(alone, view)), (other, view)


def test_views_come_from_the_view_ids_the_index_wrote_down(photos: Path, tmp_path: Path, prune: Run) -> None:
    """An image stored anew, with another content hash, is cropped as the one that was indexed."""
    prune("index", photos, "-o", tmp_path / "index")
    part = tmp_path / "index" / "samples" / "part-00000.parquet"
    table = pq.read_table(part)
    position = table.column_names.index("view_id")
    index = Manifest.open(tmp_path / "index")
    images = ImagesAtHand.of_index(index)
    other_ids = pa.array(np.arange(len(table), dtype=np.uint64) + np.uint64(77))
    images.__dict__["samples"] = table.set_column(position, table.schema.field("view_id"), other_ids)
    recipe = ViewRecipe(name="resized_crop_flip", seed=1)
    options = {"device": torch.device("cpu"), "workers": 2, "loader": "auto", "recipe": recipe, "view_count": 3}
    ids = images.readable(np.arange(images.count))
    ((found, drawn),) = images.open(PREPROCESSING, **options).batches(ids, 1000)
    assert found.tolist() == ids.tolist()
    for sample_id in (0, 7):
        pixels = np.asarray(Image.open(photos / images.samples.column("key")[sample_id].as_py()).convert("RGB"))
        sides = [np.full(3, side, np.int32) for side in (pixels.shape[1], pixels.shape[0])]
        plan = plan_views(recipe, PREPROCESSING, np.full(3, sample_id + 77, np.uint64), np.arange(3), *sides)
        wanted = np.empty((8, 8, 3), np.uint8)
        for view in range(3):
            draw_view(pixels, plan, view, "bilinear", wanted)
            at = int(np.searchsorted(ids, sample_id)) * 3 + view
            np.testing.assert_array_equal(drawn[at].permute(1, 2, 0), wanted)


@pytest.mark.parametrize("beton", [False, True])
@pytest.mark.parametrize(("batch_size", "samples"), [(9, 3), (11, 3), (3, 1), (2, 1)])
def test_a_batch_holds_all_views_of_as_many_samples_as_fit(
    photos: Path, tmp_path: Path, prune: Run, beton: bool, batch_size: int, samples: int
) -> None:
    prune("index", photos, *(["--beton"] if beton else []), "-o", tmp_path / "index")
    images = ImagesAtHand.of_index(Manifest.open(tmp_path / "index"))
    recipe = ViewRecipe(name="resized_crop_flip", seed=1)
    options = {"device": torch.device("cpu"), "workers": 2, "loader": "auto", "recipe": recipe, "view_count": 3}
    reader = images.open(PREPROCESSING, **options)
    batches = list(reader.batches(images.readable(np.arange(images.count)), batch_size))
    assert np.concatenate([ids for ids, _ in batches]).tolist() == images.readable(np.arange(images.count)).tolist()
    assert [len(ids) for ids, _ in batches[:-1]] == [samples] * (len(batches) - 1)
    assert [len(drawn) for _, drawn in batches] == [3 * len(ids) for ids, _ in batches]
    ((_, whole),) = reader.batches(images.readable(np.arange(images.count)), 1000)
    assert torch.equal(torch.cat([drawn for _, drawn in batches]), whole)
    reader.close()


def test_a_dry_run_tells_bytes_speed_and_hours_and_writes_nothing(digits: Path, tmp_path: Path, prune: Run) -> None:
    arguments = ("score", digits, *TEACHER, "--views", 4, "--dry-run", "-o", tmp_path / "m")
    plan = json.loads(prune(*arguments, "--json").stdout)
    rest = COUNT * (120 + 4 * 7)  # a row of samples, and seven scores
    assert plan["bytes"] == COUNT * 4 * 10 * 2 + rest
    assert (plan["parts"], plan["views"]["count"], plan["views"]["pad_px"]) == (2, 4, 1)
    assert plan["images_per_second"] > 0
    assert plan["seconds"] == pytest.approx(COUNT * 4 / plan["images_per_second"], rel=0.1, abs=0.01)
    assert plan["hours"] == pytest.approx(plan["seconds"] / 3600, abs=1e-4)
    plan = json.loads(prune(*arguments, "--top-k", 3, "--json").stdout)
    assert plan["bytes"] == COUNT * 4 * words_count(3) * 2 + rest
    told = prune(*arguments, "--top-k", 3).stdout
    assert "views: 4 of each sample, pad_crop_flip from 1 on, seed 0" in told
    assert "of the 3 largest logits and scores" in told
    assert "hours) for all" in told
    assert not (tmp_path / "m").exists()


def test_a_preview_counts_all_views(digits: Path, tmp_path: Path, prune: Run) -> None:
    arguments = ("score", digits, *TEACHER, "--limit", 100, "--json", "-o", tmp_path / "m")
    one, four = (json.loads(prune(*arguments, "--views", views).stdout) for views in (1, 4))
    assert four["samples"] == 100
    assert four["top1"] == one["top1"]
    assert four["bytes_for_all"] - one["bytes_for_all"] == COUNT * 3 * 10 * 2
    assert four["seconds_for_all"] == pytest.approx(COUNT * 4 / four["images_per_second"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--views", 0), "--views 0: expected 1 to"),
        (("--views", 1001), "--views 1001: expected 1 to 1,000"),
        (("--top-k", 0), "--top-k 0: of 10 classes, 1 to 9"),
        (("--top-k", 10), "--top-k 10: of 10 classes, 1 to 9"),
        (("--views", 2, "--pad", -1), "0 px or more, not -1"),
        (("--views", 2, "--scale-min", 0), "crop areas must lie in"),
        (("--augment", "mixup"), "mixup"),
        (("--score-views", "train"), "needs training views"),
        (("--score-views", "2"), "'2'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path: Path, prune: Run, flags: tuple[object, ...], says: str) -> None:
    for mode in ((), ("--dry-run",), ("--limit", 10)):
        result = prune("score", "demo:digits", *TEACHER, *flags, *mode, "-o", tmp_path / "m", code=2)
        assert says in result.stderr
    assert not (tmp_path / "m").exists()


def test_flags_become_a_recipe_and_a_recipe_a_header() -> None:
    asked = ViewFlags(scale_min=0.2, flip=False, seed=7)
    small, large = scoring_recipe(asked, 64), scoring_recipe(asked, 65)
    assert (small.name, small.pad_px, small.seed, small.flip) == ("pad_crop_flip", 8, 7, False)
    assert (large.name, large.pad_px, large.scale_min) == ("resized_crop_flip", None, 0.2)
    block = views_block(large, 5, 224, 10)
    assert (block.count, block.top_k, block.scale_min, block.flip) == (5, 10, 0.2, False)
    assert "pad_px" not in block.model_dump()
    assert views_block(ViewRecipe(), 1, 224, None) == Views(recipe="eval", version=1, seed=0, count=1, image_px=224)


@pytest.mark.parametrize(("name", "idle"), [("pad_crop_flip", "scale_min"), ("resized_crop_flip", "pad")])
def test_flags_that_a_recipe_does_not_look_at_change_no_id(name: str, idle: str) -> None:
    asked = ViewFlags(augment=name, pad=3, scale_min=0.2, seed=7)
    other = replace(asked, **{idle: {"scale_min": 0.5, "pad": 1}[idle]})
    block = views_block(scoring_recipe(asked, 32), 4, 32, None)
    assert views_block(scoring_recipe(other, 32), 4, 32, None) == block
    assert {"scale_min": "scale_min", "pad": "pad_px"}[idle] not in block.model_dump()
    assert scored_recipe(block).name == name


def test_asking_for_a_recipe_records_it_with_one_view_too() -> None:
    asked = ViewFlags(flip=False, seed=7)
    assert recipe_or_none(asked, 32, typed=["seed", "top_k"]) == ViewRecipe()
    recipe = recipe_or_none(asked, 32, typed=["flip"])
    block = views_block(recipe, 1, 32, None)
    assert (block.recipe, block.count, block.pad_px, block.flip, block.seed) == ("pad_crop_flip", 1, 4, False, 7)
    assert scored_recipe(block) == recipe


def test_a_beton_of_other_images_is_refused_before_the_teacher_runs(photos: Path, tmp_path: Path, prune: Run) -> None:
    prune("index", photos, "--beton", "-o", tmp_path / "index")
    beton, samples = Beton.open(tmp_path / "index" / "train.beton"), tmp_path / "index" / "samples"
    table = pq.read_table(samples / "part-00000.parquet")
    assert np.array_equal(beton_rows(beton, table.filter(table["problem"].is_null())), np.arange(31))
    other_ids = pa.array(table["view_id"].to_numpy() + np.uint64(1))
    images = ImagesAtHand.of_index(Manifest.open(tmp_path / "index"))
    images.__dict__["samples"] = table.set_column(5, "view_id", other_ids)
    reader = images.open(PREPROCESSING, device=torch.device("cpu"), workers=1, loader="torch")
    with pytest.raises(MismatchError, match="is another image in"):
        next(reader.batches(images.readable(np.arange(images.count)), 8))
    reader.close()


def test_where_the_beton_is_gone_the_images_are_read_as_it_held_them(photos: Path, tmp_path: Path, prune: Run) -> None:
    flags = ("--views", 3, "--augment", "resized_crop_flip")
    prune("index", photos, "--beton", "--max-side", 48, "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, *flags, "-o", tmp_path / "m")
    (tmp_path / "index" / "train.beton").unlink()
    prune("score", tmp_path / "index", *TEACHER, *flags, "-o", tmp_path / "again")
    prune("score", photos, *TEACHER, *flags, "--index", tmp_path / "none", "-o", tmp_path / "whole")
    first, again, whole = (Manifest.open(tmp_path / name) for name in ("m", "again", "whole"))
    for view in range(3):
        assert np.array_equal(logits(first, view), logits(again, view))
        assert not np.array_equal(logits(first, view), logits(whole, view))


def test_the_recipe_of_a_header_is_the_one_that_was_scored(scored: Manifest) -> None:
    assert scored_recipe(scored.header.views) == ViewRecipe(name="pad_crop_flip", seed=5, pad_px=2)


def test_the_teachers_top1_on_the_training_views_is_told(scored: Manifest, kept: Manifest, prune: Run) -> None:
    label_N = scored.samples().column("label").to_numpy()
    hits = [logits(scored, view).argmax(axis=1) == label_N for view in (1, 2)]
    for manifest in (scored, kept):
        assert manifest.header.run["views_top1"] == pytest.approx(np.mean(hits), abs=1e-6)


@pytest.mark.parametrize(("views_top1", "warned"), [(0.45, True), (0.55, False)])
def test_a_teacher_that_does_not_know_the_augmentation_is_warned_about(
    capsys: pytest.CaptureFixture[str], views_top1: float, warned: bool
) -> None:
    assert views_text_of({}, 0.57) == ""
    assert f"{100 * views_top1:.2f} %" in views_text_of({"views_top1": views_top1}, 0.57)
    assert ("hardly trained with this augmentation" in capsys.readouterr().err) == warned
