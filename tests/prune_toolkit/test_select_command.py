"""`prune select`: what is written agrees with the manifest, the images and independent arithmetic."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import tree_bytes

from manifests.betons.reader import Beton
from manifests.format.top_k import top_k
from manifests.integrity import verify
from manifests.manifest import Manifest
from manifests.sources import open_source

Run = Callable[..., subprocess.CompletedProcess[str]]
TEACHER = ("--teacher", "teachers:linear", "--image-size", 8)


@pytest.fixture(scope="module")
def scored(many_digits: Path, tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", many_digits, *TEACHER, "-o", out)
    return out


def published_medium(loss_N: np.ndarray, label_N: np.ndarray, keep: Fraction) -> set[int]:
    """The paper's loop, literally (METHODS: m - b .. m + a of each class, an equal absolute quota)."""
    kept: set[int] = set()
    classes = int(label_N.max()) + 1
    for c in range(classes):
        members = np.flatnonzero(label_N == c)
        ranked = members[np.argsort(loss_N[members], kind="stable")]
        k = int(len(loss_N) * keep / classes)
        a = k // 2
        m = len(members) // 2
        kept |= set(ranked.tolist()) if k >= len(members) else set(ranked[m - (k - a) : m + a].tolist())
    return kept


def test_the_published_preset_keeps_the_papers_samples_with_its_labels(
    scored: Path, tmp_path: Path, prune: Run
) -> None:
    prune("select", scored, "--keep", "0.29", "--preset", "mdslr", "-o", tmp_path / "s")
    manifest, selection = Manifest.open(scored), Manifest.open(tmp_path / "s")
    label_N = manifest.samples().column("label").to_numpy()
    loss_N = manifest.scores().column("loss").to_numpy()
    assert len(np.unique(loss_N)) > 19_000
    table = selection.selection()
    kept = np.flatnonzero(table.column("keep").to_numpy(zero_copy_only=False))
    # Duplicated images have equal losses and are ordered by content hash there, by row here.
    assert len(set(kept.tolist()) ^ published_medium(loss_N, label_N, Fraction("0.29"))) <= 4
    logits = np.concatenate([block for _, block in manifest.logits()]).astype(np.float64)
    std_N = logits.std(axis=1, ddof=1)
    class_std = np.array([std_N[label_N == c].mean() for c in range(10)])
    ids = np.concatenate([ids for ids, _ in selection.targets()])
    targets = np.concatenate([block for _, block in selection.targets()])
    assert np.array_equal(ids, kept)
    expected = logits[kept] / std_N[kept, None] * class_std[label_N[kept], None]
    np.testing.assert_allclose(targets, expected.astype(np.float16), rtol=1e-3)
    np.testing.assert_allclose(selection.header.labels.class_std, class_std, rtol=1e-12)
    assert selection.header.labels.parameters["loss"] == {"kd_weight": 0.9, "temperature": 4.0}


def test_the_beton_holds_the_kept_images_and_their_targets(
    scored: Path, many_digits: Path, tmp_path: Path, prune: Run
) -> None:
    prune("select", scored, "--keep", "1/3", "--selector", "random", "--labels", "raw", "-o", tmp_path / "s")
    selection = Manifest.open(tmp_path / "s")
    beton = Beton.open(selection.beton_path)
    source = open_source(str(many_digits))
    ids = beton.columns["sample_id"]
    assert beton.count == 6667
    for row in range(0, beton.count, 500):
        image = source.read([int(ids[row])])[0].array
        assert np.array_equal(beton.pixels(row), np.repeat(image[:, :, None], 3, axis=2))
    assert np.array_equal(beton.columns["label"], source.labels_N[ids])
    logits = np.concatenate([block for _, block in Manifest.open(scored).logits()])
    assert np.array_equal(beton.targets(np.arange(beton.count))[:, 0].view(np.int16), logits[ids].view(np.int16))
    samples = selection.samples()
    assert np.array_equal(beton.columns["view_id"], samples.column("view_id").to_numpy()[ids])
    assert verify(tmp_path / "s").ok


def test_the_same_selection_twice_is_the_same_file(scored: Path, tmp_path: Path, prune: Run) -> None:
    digests = set()
    for name in ("one", "two"):
        prune("select", scored, "--keep", "0.5", "-o", tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name / "train.beton").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    assert Manifest.open(tmp_path / "one").id == Manifest.open(tmp_path / "two").id


def test_a_selection_from_an_index_beton_equals_one_from_the_images(
    scored: Path, many_digits: Path, tmp_path: Path, prune: Run
) -> None:
    prune("index", many_digits, "--beton", "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, "-o", tmp_path / "manifest")
    prune("select", tmp_path / "manifest", "--keep", "0.1", "-o", tmp_path / "by-beton")
    prune("select", scored, "--keep", "0.1", "-o", tmp_path / "by-source")
    assert (tmp_path / "by-beton" / "train.beton").read_bytes() == (tmp_path / "by-source" / "train.beton").read_bytes()


def test_every_quota_and_window_end_can_be_asked_for(scored: Path, tmp_path: Path, prune: Run) -> None:
    loss_N = Manifest.open(scored).scores().column("loss").to_numpy()
    for quota in ("proportional", "equal", "published", "none"):
        result = prune(
            "select", scored, "--keep", "0.25", "--selector", "window", "--position", "1",
            "--quota", quota, "--no-beton", "--json", "-o", tmp_path / quota,
        )  # fmt: skip
        assert json.loads(result.stdout)["selection"]["quota"] == quota
        keep = Manifest.open(tmp_path / quota).selection().column("keep").to_numpy(zero_copy_only=False)
        assert loss_N[keep].mean() > np.quantile(loss_N, 0.75)
    keep = Manifest.open(tmp_path / "none").selection().column("keep").to_numpy(zero_copy_only=False)
    assert loss_N[keep].min() >= loss_N[~keep].max()


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """A small manifest of three scored views."""
    out = tmp_path_factory.mktemp("viewed") / "manifest"
    prune("score", "demo:digits", *TEACHER, "--views", 3, "--seed", 7, "-o", out)
    return out


def all_views(manifest: Manifest, kind: str, views: int) -> np.ndarray:
    """(n, V, C) of all samples that have them."""
    stream = manifest.logits if kind == "logits" else manifest.targets
    return np.stack([np.concatenate([block for _, block in stream(view)]) for view in range(views)], axis=1)


def class_std_of_training_views(manifest: Manifest, views: int) -> np.ndarray:
    label_N = manifest.samples().column("label").to_numpy()
    std_NV = all_views(manifest, "logits", views).astype(np.float64).std(axis=2, ddof=1)[:, 1:]
    return np.array([std_NV[label_N == c].mean() for c in range(10)])


def test_all_scored_views_are_carried_each_reshaped_to_the_training_views(
    viewed: Path, tmp_path: Path, prune: Run
) -> None:
    result = prune("select", viewed, "--keep", "0.25", "-o", tmp_path / "s")
    assert "reshape, replay of 3 view(s)" in result.stdout
    manifest, selection = Manifest.open(viewed), Manifest.open(tmp_path / "s")
    label_N = manifest.samples().column("label").to_numpy()
    class_std = class_std_of_training_views(manifest, 3)
    np.testing.assert_allclose(selection.header.labels.class_std, class_std, rtol=1e-12)
    kept = np.flatnonzero(selection.selection().column("keep").to_numpy(zero_copy_only=False))
    logits = all_views(manifest, "logits", 3)[kept].astype(np.float64)
    expected = logits / logits.std(axis=2, ddof=1, keepdims=True) * class_std[label_N[kept]][:, None, None]
    targets = all_views(selection, "targets", 3)
    np.testing.assert_allclose(targets, expected, rtol=2**-10, atol=2**-20)
    beton = Beton.open(selection.beton_path)
    assert np.array_equal(beton.targets(np.arange(beton.count)).view(np.int16), targets.view(np.int16))
    header = selection.header
    assert (header.labels.views, header.labels.policy, header.labels.top_k) == (3, "replay", None)
    assert header.views == manifest.header.views
    assert header.run["command"] == "select"
    assert header.run["parent_run"]["command"] == "score"
    assert verify(tmp_path / "s").ok


def test_the_first_views_can_be_carried_alone(viewed: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", viewed, "--keep", "0.25", "--labels", "raw")
    prune(*base, "-o", tmp_path / "all")
    prune(*base, "--views", 2, "-o", tmp_path / "two")
    prune(*base, "--views", 1, "-o", tmp_path / "one")
    targets = all_views(Manifest.open(tmp_path / "all"), "targets", 3)
    two, one = Manifest.open(tmp_path / "two"), Manifest.open(tmp_path / "one")
    assert np.array_equal(all_views(two, "targets", 2), targets[:, :2])
    assert np.array_equal(all_views(one, "targets", 1), targets[:, :1])
    assert (two.header.views.count, two.header.views.recipe, two.header.views.seed) == (2, "pad_crop_flip", 7)
    assert (one.header.views.count, one.header.views.recipe) == (1, "pad_crop_flip")
    assert one.header.labels.policy == "single"


@pytest.mark.parametrize("policy", ["mean", "single"])
def test_one_label_can_be_stored_for_all_views(viewed: Path, tmp_path: Path, prune: Run, policy: str) -> None:
    prune("select", viewed, "--keep", "0.25", "--labels", "raw", "--policy", policy, "-o", tmp_path / "s")
    manifest, selection = Manifest.open(viewed), Manifest.open(tmp_path / "s")
    kept = np.flatnonzero(selection.selection().column("keep").to_numpy(zero_copy_only=False))
    logits = all_views(manifest, "logits", 3)[kept].astype(np.float64)
    expected = logits.mean(axis=1) if policy == "mean" else logits[:, 0]
    assert np.array_equal(all_views(selection, "targets", 1)[:, 0], expected.astype(np.float16))
    header = selection.header
    assert (header.labels.policy, header.labels.views, header.views.count) == (policy, 1, 3)
    assert not selection.has("targets/view-001")


def test_the_largest_logits_alone_can_be_stored(viewed: Path, tmp_path: Path, prune: Run) -> None:
    prune("select", viewed, "--keep", "0.25", "--labels", "raw", "-o", tmp_path / "full")
    result = prune("select", viewed, "--keep", "0.25", "--labels", "raw", "--top-k", 4, "-o", tmp_path / "k")
    assert "replay of 3 view(s), top-4 of 10 logits" in result.stdout
    full, selection = Manifest.open(tmp_path / "full"), Manifest.open(tmp_path / "k")
    label_n = Beton.open(full.beton_path).columns["label"]
    words = []
    for view in range(3):
        [(_, dense)], [(_, stored)] = full.soft_labels("targets", view), selection.soft_labels("targets", view)
        assert np.array_equal(stored.words(), top_k(dense.logits(), label_n, 4).words())
        words.append(stored.words())
    beton = Beton.open(selection.beton_path)
    assert beton.target_shape == (3, 21)
    assert np.array_equal(beton.targets(np.arange(beton.count)).view(np.int16), np.stack(words, axis=1))
    assert selection.header.labels.top_k == 4
    assert verify(tmp_path / "k").ok
    shown = json.loads(prune("show", tmp_path / "k", "--json").stdout)
    entries = [entry for entry in selection.header.files if entry.path.startswith("targets/")]
    assert shown["bytes_per_sample_and_view"]["targets"] == round(sum(e.bytes for e in entries) / (3 * beton.count), 2)
    assert shown["times"]["scoring_s"] > 0
    assert shown["times"]["labelling_s"] == 0


def test_views_scored_as_their_largest_logits_are_carried_as_such(tmp_path: Path, prune: Run) -> None:
    prune("score", "demo:digits", *TEACHER, "--views", 2, "--top-k", 4, "-o", tmp_path / "m")
    base = ("select", tmp_path / "m", "--keep", "0.25", "-o", tmp_path / "s")
    assert "cannot be averaged" in prune(*base, "--policy", "mean", code=2).stderr
    assert "the 4 largest" in prune(*base, "--top-k", 5, code=2).stderr
    assert not (tmp_path / "s").exists()
    prune(*base)
    scored, selection = Manifest.open(tmp_path / "m"), Manifest.open(tmp_path / "s")
    label_N = scored.samples().column("label").to_numpy()
    [(ids, seen)] = scored.soft_labels("logits", 1)
    assert np.array_equal(ids, np.arange(len(label_N)))
    class_std = [seen.std_n[label_N == c].astype(np.float64).mean() for c in range(10)]
    np.testing.assert_allclose(selection.header.labels.class_std, class_std, rtol=1e-12)
    [(kept, targets)] = selection.soft_labels("targets", 1)
    # All targets of a class have its std.
    np.testing.assert_allclose(targets.std_n, np.array(class_std)[label_N[kept]], rtol=1e-6)
    assert np.array_equal(targets.class_nK, seen.class_nK[kept])
    assert "top-4 logits of each" in prune("show", tmp_path / "m").stdout


def test_more_views_than_were_scored_are_refused_with_the_way_to_have_them(
    viewed: Path, tmp_path: Path, prune: Run
) -> None:
    result = prune("select", viewed, "--keep", "0.25", "--views", 4, "-o", tmp_path / "s", code=2)
    assert "holds logits of 3 view(s)" in result.stderr
    assert "prune label --views 4" in result.stderr
    assert "--views 0" in prune("select", viewed, "--keep", "0.25", "--views", 0, "-o", tmp_path / "s", code=2).stderr


def test_a_dry_run_counts_and_writes_nothing(scored: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("select", scored, "--keep", "0.5", "--dry-run", "-o", tmp_path / "s")
    assert "10,000 samples (50.00 %)" in result.stdout
    assert "156 steps per epoch at batch size 64" in result.stdout
    assert not (tmp_path / "s").exists()


def test_selecting_imports_neither_torch_nor_ffcv(scored: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from prune_toolkit.main import cli\n"
        f"scored, out = {str(scored)!r}, {str(tmp_path / 's')!r}\n"
        "for line in (['select', scored, '--keep', '0.5', '-o', out], ['show', out], ['verify', out], ['list']):\n"
        "    cli.main(line, standalone_mode=False)\n"
        "assert not {'torch', 'ffcv', 'torchvision'} & set(sys.modules), 'torch or ffcv was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    modules = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "prune_toolkit", "--help"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stderr  # fmt: skip
    for heavy in ("numpy", "pyarrow", "pydantic", "torch", "rich", "pandas"):
        assert f"| {heavy}\n" not in modules


@pytest.mark.parametrize("keep", ["0", "1.5", "-0.5", "half", "nan"])
def test_a_keep_out_of_range_is_a_usage_error(scored: Path, tmp_path: Path, prune: Run, keep: str) -> None:
    result = prune("select", scored, f"--keep={keep}", "-o", tmp_path / "s", code=2)
    assert "above 0 and at most 1" in result.stderr


def test_wrong_names_are_answered_with_the_known_ones(scored: Path, tmp_path: Path, prune: Run) -> None:
    base = ("select", scored, "--keep", "0.5", "-o", tmp_path / "s")
    assert "medium" in prune(*base, "--selector", "best", code=2).stderr
    assert "teacher/loss" in prune(*base, "--score", "beauty", code=2).stderr
    assert "published" in prune(*base, "--quota", "fair", code=2).stderr
    assert "between 0 and 1" in prune(*base, "--selector", "window", "--position", "2", code=2).stderr
    assert "reshape" in prune(*base, "--labels", "soft", code=2).stderr
    assert "leave out one" in prune(*base, "--preset", "mdslr", "--quota", "equal", code=2).stderr
    assert "does not rank by a score" in prune(*base, "--selector", "random", "--score", "loss", code=2).stderr
    assert "no manifest at" in prune("select", tmp_path / "none", "--keep", "0.5", code=3).stderr


def test_a_part_that_was_altered_is_never_used(scored: Path, tmp_path: Path, prune: Run) -> None:
    import shutil

    shutil.copytree(scored, tmp_path / "m")
    part = tmp_path / "m" / "scores" / "teacher" / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    result = prune("select", tmp_path / "m", "--keep", "0.5", "-o", tmp_path / "s", code=3)
    assert "part-00001.parquet was altered" in result.stderr
    assert "altered" in prune("verify", tmp_path / "m", code=3).stdout


def test_images_that_changed_since_scoring_are_a_mismatch(scored: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("select", scored, "--keep", "0.5", "--data", "demo:digits", "-o", tmp_path / "s", code=4)
    assert "are not in" in result.stderr or "was altered" in result.stderr


def test_shrinking_after_scoring_is_refused_where_labels_are_of_the_very_pixels(tmp_path: Path, prune: Run) -> None:
    generator = np.random.default_rng(0)
    for row in range(12):
        path = tmp_path / "photos" / "ab"[row % 2] / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    prune("score", tmp_path / "photos", *TEACHER, "--views", 2, "-o", tmp_path / "m")
    base = ("select", tmp_path / "m", "--keep", 1)
    for mode in ((), ("--dry-run",)):
        refused = prune(*base, "--max-side", 9, *mode, "-o", tmp_path / "s", code=2).stderr
        assert "--max-side 9 shrinks 12 images" in refused
        assert "prune index --beton --max-side" in refused
    assert not (tmp_path / "s").exists()
    assert "shrinks" not in prune(*base, "--max-side", 12, "-o", tmp_path / "fits").stderr
    single = prune(*base, "--max-side", 9, "--policy", "single", "-o", tmp_path / "single")
    assert "the teacher saw them at full size" in single.stderr
    assert set(Beton.open(tmp_path / "single" / "train.beton").widths_N) == {9}
    # What was shrunk before scoring is copied as it is.
    prune("index", tmp_path / "photos", "--beton", "--max-side", 9, "-o", tmp_path / "index")
    prune("score", tmp_path / "index", *TEACHER, "--views", 2, "-o", tmp_path / "m9")
    copied = prune("select", tmp_path / "m9", "--keep", 1, "--max-side", 8, "-o", tmp_path / "copied")
    assert "copied as they are" in copied.stderr
    assert set(Beton.open(tmp_path / "copied" / "train.beton").widths_N) == {9}
    assert Manifest.open(tmp_path / "copied").header.config["max_side"] is None
