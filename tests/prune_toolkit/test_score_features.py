"""`prune score --features`: features and their scores, against independent computations; resume, ranks, wrong input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import cosine_distances
from tests_support import tree_bytes, write_idx

from manifests.format.parts import config_digest, read_part, write_part
from manifests.integrity import verify
from manifests.manifest import Manifest
from prune_toolkit.scoring.feature_scores import held_out_split

KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
NETWORKS = """
import torch


class Network(torch.nn.Module):
    def __init__(self, num_classes, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.body = torch.nn.Linear(8 * 8 * 3, 12)
        self.head = torch.nn.Linear(12, num_classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        self.head.weight.data /= scale
        self.scale = scale

    def forward(self, images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 8)
        return self.head(torch.relu(self.body(pooled.flatten(1))) * self.scale)


def small(num_classes):
    return Network(num_classes)


def huge(num_classes):
    return Network(num_classes, scale=1e6)


def endless(num_classes):
    return Network(num_classes, scale=float("inf"))
"""
TEACHER = ("--teacher", "feature_nets:small", "--image-size", 8, "--threads", 1)


@pytest.fixture(scope="module", autouse=True)
def networks(teachers):
    """The networks above, importable in the commands."""
    (teachers / "feature_nets.py").write_text(NETWORKS)


@pytest.fixture(scope="module")
def scored(many_digits, tmp_path_factory, prune):
    """A manifest with features of 20,000 images: three parts."""
    out = tmp_path_factory.mktemp("features") / "manifest"
    result = prune("score", many_digits, *TEACHER, "--features", "-o", out)
    assert "features: 12 wide, the input of layer head; scores features/grand, features/moderate" in result.stdout
    return out


def whole(manifest):
    """Features (N, D) and logits (N, C) in float64, labels (N,)."""
    features = np.concatenate([values for _, values in manifest.features()]).astype(np.float64)
    logits = np.concatenate([values for _, values in manifest.logits()]).astype(np.float64)
    return features, logits, manifest.samples().column("label").to_numpy()


def influence_of(features, logits, labels, held, *, own):
    """Influence by its definition, pair by pair; `held` are rows, or features, logits and labels of others."""
    h = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    e = softmax(logits, axis=1) - np.eye(logits.shape[1])[labels]
    damped = [moment + 1e-3 * np.trace(moment) / len(moment) * np.eye(len(moment)) for moment in
              (h.T @ h / len(h), e.T @ e / len(e))]  # fmt: skip
    if own:
        h_v, e_v = h[held], e[held]
    else:
        h_v = np.concatenate([held[0], np.ones((len(held[0]), 1))], axis=1)
        e_v = softmax(held[1], axis=1) - np.eye(logits.shape[1])[held[2]]
    products = (h_v @ np.linalg.solve(damped[0], h.T)) * (e_v @ np.linalg.solve(damped[1], e.T))
    if own:
        products[np.arange(len(held)), held] = np.nan
    return -np.nanmean(products, axis=0)


def test_features_are_those_of_the_network_and_scores_those_of_the_formulas(scored, teachers, monkeypatch):
    monkeypatch.syspath_prepend(teachers)
    from feature_nets import small

    manifest = Manifest.open(scored)
    features, logits, labels = whole(manifest)
    assert (manifest.header.features.layer, manifest.header.features.width) == ("head", 12)
    assert manifest.header.schema_version == "1.4"
    assert [values.dtype for _, values in manifest.features()] == [np.float16] * 3
    ids = np.concatenate([ids for ids, _ in manifest.features()])
    assert ids.tolist() == list(range(20_000))

    head = small(10).head
    expected = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=5e-3)

    table = manifest.scores("features").to_pandas()
    e = softmax(logits, axis=1) - np.eye(10)[labels]
    grand = np.linalg.norm(e, axis=1) * np.sqrt((features**2).sum(axis=1) + 1)
    np.testing.assert_allclose(table["grand"], grand, rtol=1e-5)
    for label in range(10):
        of_class = features[labels == label]
        distance = np.linalg.norm(of_class - np.median(of_class, axis=0), axis=1)
        np.testing.assert_allclose(table["moderate"][labels == label], distance, rtol=1e-5)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[labels == label].mean(axis=0) for label in range(10)])
    centroids = KMeans(10, init=means, n_init=1, max_iter=25, tol=0).fit(unit).cluster_centers_
    expected = cosine_distances(features, centroids).min(axis=1)
    np.testing.assert_allclose(table["prototypes"], expected, rtol=1e-3, atol=1e-5)
    hashes = np.frombuffer(b"".join(manifest.samples().column("content_hash").to_pylist()), np.uint8).reshape(-1, 16)
    held = np.flatnonzero(held_out_split(labels, hashes, 10))
    assert len(held) == 2000
    some = np.r_[held[:50], np.arange(100)]
    influence = influence_of(features, logits, labels, held, own=True)
    np.testing.assert_allclose(table["influence"][some], influence[some], rtol=1e-4, atol=1e-7)


def test_all_else_is_what_it_is_without_features(scored, many_digits, tmp_path, prune):
    prune("score", many_digits, *TEACHER, "-o", tmp_path / "plain")
    plain, made = Manifest.open(tmp_path / "plain"), Manifest.open(scored)
    assert plain.header.schema_version == "1.4"
    assert plain.header.features is None
    assert not {"features", "held_out", "scores"} & plain.header.config.keys()
    assert plain.samples().equals(made.samples())
    assert plain.scores().equals(made.scores())
    new = {entry.path.rpartition("/")[0] for entry in made.header.files} - {
        entry.path.rpartition("/")[0] for entry in plain.header.files
    }
    assert new == {"features/view-000", "scores/features"}


@pytest.mark.slow
def test_a_run_killed_at_any_point_and_repeated_gives_the_same_bytes(scored, many_digits, tmp_path, prune):
    out = tmp_path / "manifest"
    arguments = ("score", many_digits, *TEACHER, "--features", "-o", out)
    # 3 parts x (4 tables and a time), then 3 parts of scores/features: in a part, and among the scores of features.
    for renames in (3, 17):
        prune(*arguments, code=-signal.SIGKILL, launcher=(sys.executable, str(KILL_AT), str(renames)))
        assert not (out / "manifest.json").exists()
    assert (out / "scores" / "features" / "part-00000.parquet").is_file()
    assert not (out / "scores" / "features" / "part-00002.parquet").is_file()
    prune(*arguments)
    assert tree_bytes(out) == tree_bytes(scored)
    assert Manifest.open(out).id == Manifest.open(scored).id


def test_a_run_that_a_version_with_fewer_scores_left_unfinished_is_finished_with_all(
    scored, many_digits, tmp_path, prune
):
    out = tmp_path / "manifest"
    shutil.copytree(scored, out)
    (out / "manifest.json").unlink()
    path = out / "scores" / "features" / "part-00000.parquet"
    older = read_part(path)
    write_part(path, older.drop_columns(["prototypes"]), config_digest(Manifest.open(scored).header.config))
    assert "prototypes" not in read_part(path).column_names
    prune("score", many_digits, *TEACHER, "--features", "-o", out)
    assert tree_bytes(out) == tree_bytes(scored)


@pytest.mark.slow
def test_two_ranks_give_the_bytes_of_one(scored, many_digits, tmp_path, teachers):
    out = tmp_path / "manifest"
    words = ["score", many_digits, *TEACHER, "--features", "-o", out]
    program = [sys.executable, "-m", "prune_toolkit", *map(str, words)]
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
    assert tree_bytes(out) == tree_bytes(scored)
    assert Manifest.open(out).id == Manifest.open(scored).id


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """120 images of three classes, a broken one among them, and 40 others."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("small")
    generator = np.random.default_rng(5)
    for split, count in (("train", 120), ("val", 40)):
        for row in range(count):
            path = folder / "images" / split / f"class{row % 3}" / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 120, (8, 8, 3)) + 50 * np.eye(3, dtype=int)[row % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    broken = folder / "images" / "train" / "class1" / "004.png"
    broken.write_bytes(broken.read_bytes()[:30])
    return folder


def test_what_has_features_is_verified_selected_labelled_and_exported(small_set, tmp_path, prune):
    scored = tmp_path / "manifest"
    prune("score", small_set / "images", "--split", "train", *TEACHER, "--features", "-o", scored)
    assert verify(scored).ok
    shown = prune("show", scored).stdout
    assert "12 wide, the input of layer head" in shown
    assert "features/influence" in shown
    arguments = ("--keep", 0.5, "--score", "features/influence", "--selector", "window", "--position", 0)
    prune("select", scored, *arguments, "-o", tmp_path / "selection")
    selection = Manifest.open(tmp_path / "selection")
    assert selection.header.selection.count == 60
    assert selection.header.features is None
    assert not any("features" in entry.path for entry in selection.header.files)
    assert verify(tmp_path / "selection").ok
    label = ("label", tmp_path / "selection", *TEACHER, "--views", 3, "--labels", "raw", "-o", tmp_path / "labelled")
    prune(*label)
    assert verify(tmp_path / "labelled").ok
    prune("export", tmp_path / "selection", "--indices", tmp_path / "rows.npy")
    assert len(np.load(tmp_path / "rows.npy")) == 60


def test_a_missing_table_of_features_is_found(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "manifest")
    header = json.loads((tmp_path / "manifest" / "manifest.json").read_text())
    header["files"] = [entry for entry in header["files"] if not entry["path"].startswith("features/")]
    (tmp_path / "manifest" / "manifest.json").write_text(json.dumps(header))
    assert [finding.path for finding in verify(tmp_path / "manifest").findings] == ["features"]
    with pytest.raises(Exception, match=r"holds no features/view-000") as caught:
        Manifest.open(tmp_path / "manifest").features()
    assert "prune score --features" in caught.value.hint


def test_held_out_images_replace_the_tenth(small_set, tmp_path, prune):
    arguments = ("score", small_set / "images", "--split", "train", *TEACHER, "--features")
    held = ("--held-out", small_set / "images", "--held-out-split", "val")
    prune(*arguments, "-o", tmp_path / "own")
    prune(*arguments, *held, "-o", tmp_path / "other")
    prune("score", small_set / "images", "--split", "val", *TEACHER, "--features", "-o", tmp_path / "val")
    own, other, val = (Manifest.open(tmp_path / name) for name in ("own", "other", "val"))
    assert own.header.config["held_out"] is None
    assert other.header.config["held_out"]
    assert own.id != other.id
    found = other.scores("features").to_pandas()
    features, logits, labels = whole(other)
    readable = other.samples().column("problem").is_null().to_numpy(zero_copy_only=False)
    assert readable.sum() == 119
    expected = influence_of(features, logits, labels[readable], whole(val), own=False)
    np.testing.assert_allclose(found["influence"], expected, rtol=1e-4, atol=1e-6)
    assert found["sample_id"].tolist() == np.flatnonzero(readable).tolist()
    assert found["grand"].equals(own.scores("features").to_pandas()["grand"])
    assert not np.allclose(found["influence"], own.scores("features").to_pandas()["influence"])


@pytest.mark.parametrize("of_index", [False, True])
def test_a_held_out_image_that_is_scored_too_does_not_count_for_itself(small_set, tmp_path, prune, of_index):
    images, held = small_set / "images", small_set / "images"
    if of_index:
        held = tmp_path / "index"
        prune("index", images, "--split", "train", "-o", held)
    split = () if of_index else ("--held-out-split", "train")
    arguments = ("--split", "train", *TEACHER, "--features", "--held-out", held, *split)
    prune("score", images, *arguments, "-o", tmp_path / "m")
    features, logits, labels = whole(manifest := Manifest.open(tmp_path / "m"))
    readable = manifest.samples().column("problem").is_null().to_numpy(zero_copy_only=False)
    expected = influence_of(features, logits, labels[readable], np.arange(119), own=True)
    found = manifest.scores("features").column("influence").to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_copy_counts_under_the_same_label_alone(small_set, tmp_path, prune):
    """Two copies of each of 30 images: one labelled alike, one otherwise."""
    source = sorted((small_set / "images" / "val").rglob("*.png"))[:30]
    for path in source:
        for name, label in (("a", path.parent.name), ("b", path.parent.name), ("c", "class0")):
            target = tmp_path / "copies" / label / f"{name}-{path.parent.name}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    prune("score", tmp_path / "copies", *TEACHER, "--features", "--held-out", tmp_path / "copies", "-o", tmp_path / "m")
    features, logits, labels = whole(manifest := Manifest.open(tmp_path / "m"))
    hashes = manifest.samples().column("content_hash").to_pylist()
    h, e = np.c_[features, np.ones(len(features))], softmax(logits, axis=1) - np.eye(3)[labels]
    damped = [m + 1e-3 * np.trace(m) / len(m) * np.eye(len(m)) for m in (h.T @ h / len(h), e.T @ e / len(e))]
    products = (h @ np.linalg.solve(damped[0], h.T)) * (e @ np.linalg.solve(damped[1], e.T))
    same = np.array([[a == b and c == d for b, d in zip(hashes, labels, strict=True)]
                     for a, c in zip(hashes, labels, strict=True)])  # fmt: skip
    assert set(same.sum(axis=0)) == {1, 2, 3}
    expected = -np.nanmean(np.where(same, np.nan, products), axis=0)
    found = manifest.scores("features").column("influence").to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_logits_are_read_by_the_scores_that_need_them_alone(scored, monkeypatch):
    from prune_toolkit.scoring import feature_pass
    from prune_toolkit.scoring.feature_scores import FeatureTable
    from prune_toolkit.scoring.score import SCORES

    manifest, read = Manifest.open(scored), []
    read_part = feature_pass.read_part
    monkeypatch.setattr(feature_pass, "read_part", lambda path: read.append(path.parts[-3]) or read_part(path))
    label_N = manifest.samples().column("label").to_numpy()
    table = FeatureTable(
        label_N=label_N.astype(np.int64),
        class_count=10,
        width=12,
        blocks=lambda: feature_pass._stored(scored, label_N, 10),
        held_out=lambda: iter(()),
        copies=lambda: np.zeros(len(label_N), np.int64),
    )
    SCORES["moderate"](table)
    assert set(read) == {"features"}
    read.clear()
    SCORES["grand"](table)
    assert sorted(read) == ["features"] * 3 + ["logits"] * 3


def test_progress_moves_within_a_score(scored, capsys):
    from manifests.base.progress import Progress
    from prune_toolkit.scoring.feature_pass import _stored, _told

    label_N = Manifest.open(scored).samples().column("label").to_numpy()
    with Progress(2 * 20_000, "scores") as progress:
        for number, _ in enumerate(_told(_stored(scored, label_N, 10), progress)):
            assert progress.done == min(2048 * 4 * (number // 4) + 2048 * (number % 4), 20_000)
        # What is left is as much as before: nobody knows how often a score goes through them.
        assert (progress.done, progress.total) == (20_000, 60_000)


def test_features_are_of_view_0_whatever_views_there_are(small_set, tmp_path, prune):
    arguments = ("score", small_set / "images", "--split", "train", *TEACHER, "--features")
    prune(*arguments, "-o", tmp_path / "one")
    prune(*arguments, "--views", 3, "-o", tmp_path / "three")
    one, three = Manifest.open(tmp_path / "one"), Manifest.open(tmp_path / "three")
    [(_, features)], [(_, again)] = one.features(), three.features()
    # Other batches, so the last bits may differ.
    np.testing.assert_allclose(features, again, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(
        one.scores("features").to_pandas(), three.scores("features").to_pandas(), rtol=2e-2, atol=2e-2
    )
    specs = {spec.name: spec.views for spec in three.header.scores}
    assert (specs["loss"], specs["grand"]) == ("1-2", None)


def test_with_the_largest_logits_alone_features_still_give_scores(small_set, tmp_path, prune):
    arguments = ("score", small_set / "images", "--split", "train", *TEACHER, "--features")
    prune(*arguments, "-o", tmp_path / "all")
    prune(*arguments, "--top-k", 2, "-o", tmp_path / "two")
    # Of three classes two largest logits and the tail are everything.
    np.testing.assert_allclose(
        Manifest.open(tmp_path / "two").scores("features").to_pandas(),
        Manifest.open(tmp_path / "all").scores("features").to_pandas(),
        rtol=2e-3, atol=2e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "code", "says"),
    [
        ("teachers:linear", 2, "has no linear layer that computes its 3 outputs"),
        ("feature_nets:huge", 3, "does not fit float16"),
        ("feature_nets:endless", 3, "a feature of inf does not fit float16"),
    ],
)
def test_a_teacher_without_usable_features_is_named(small_set, tmp_path, prune, teacher, code, says):
    out = tmp_path / "m"
    arguments = ("--split", "train", "--teacher", teacher, "--image-size", 8, "--features", "-o", out)
    result = prune("score", small_set / "images", *arguments, code=code)
    assert says in result.stderr
    assert not (out / "manifest.json").exists()


def test_flags_of_features_alone_are_refused_without_them(small_set, prune):
    images = small_set / "images"
    assert "--held-out needs --features" in prune("score", images, "--held-out", "x", *TEACHER, code=2).stderr
    lonely = ("--features", "--held-out-split", "val")
    assert "needs --held-out" in prune("score", images, *lonely, *TEACHER, code=2).stderr


def test_held_out_images_of_other_classes_are_refused(small_set, tmp_path, prune):
    generator = np.random.default_rng(0)
    write_idx(tmp_path / "other", generator.integers(0, 256, (20, 8, 8), np.uint8), np.arange(20) % 2)
    arguments = ("--features", "--held-out", tmp_path / "other", "-o", tmp_path / "m")
    result = prune("score", small_set / "images", "--split", "train", *TEACHER, *arguments, code=4)
    assert "has other classes" in result.stderr


def test_a_dry_run_counts_the_bytes_of_features(small_set, tmp_path, prune):
    arguments = ("score", small_set / "images", "--split", "train", *TEACHER, "--dry-run", "--json")
    plain = json.loads(prune(*arguments, "-o", tmp_path / "m").stdout)
    more = json.loads(prune(*arguments, "--features", "-o", tmp_path / "m").stdout)
    assert more["features"] == {"layer": "head", "width": 12}
    assert more["bytes"] - plain["bytes"] == 120 * (2 * 12 + 5 * 4)


def test_torch_computes_the_gradient_norm_that_is_stored(small_set, tmp_path, teachers, monkeypatch, prune):
    prune("score", small_set / "images", "--split", "val", *TEACHER, "--features", "-o", tmp_path / "m")
    monkeypatch.syspath_prepend(teachers)
    from feature_nets import small

    features, _, labels = whole(Manifest.open(tmp_path / "m"))
    head = small(3).head.double()
    norms = []
    for h, label in zip(torch.from_numpy(features), torch.from_numpy(labels.astype(np.int64)), strict=True):
        loss = torch.nn.functional.cross_entropy(head(h)[None], label[None])
        norms.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(head.parameters()))]).norm())
    found = Manifest.open(tmp_path / "m").scores("features").to_pandas()["grand"]
    # Stored logits are float16.
    np.testing.assert_allclose(found, torch.stack(norms).numpy(), rtol=5e-3)
