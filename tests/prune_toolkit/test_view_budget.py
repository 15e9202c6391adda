"""`prune label --view-budget`: exactly that many labels, each of the pixels a student sees; ranks, kills, forgeries."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import tree_bytes, write_idx

import prune_toolkit as pt
from manifests.base.files import sha256_file
from manifests.betons.labelled_views import labels_each
from manifests.betons.reader import Beton
from manifests.format.codes import encode
from manifests.integrity import labelled_views, verify
from manifests.manifest import Manifest
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.policies import TrainingViews
from trainer.data.task import open_task
from trainer.teachers.teacher import load_teacher
from trainer.teachers.teacher_spec import TeacherSpec

TEACHER = ("--teacher", "teachers:linear")
WORDS = ("label", "selection", *TEACHER, "--labels", "raw", "--views", 12, "--view-budget", "4.5", "--seed", 3)
NARROW = """
import torch


def net(num_classes):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Linear(8, num_classes))
"""
RULES = {"covariance": (), "sure": ("--view-rule", "sure", "--view-budget", 4)}


@pytest.fixture(scope="module")
def scored(tmp_path_factory, prune) -> Path:
    """A folder with `selection`: 40 of 80 noisy images, and `labelled`, `sure`."""
    folder = tmp_path_factory.mktemp("budget")
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8) // np.arange(1, 81)[:, None, None] ** 2
    write_idx(folder / "images", images.astype(np.uint8), np.arange(80) % 10)
    prune("index", "images", "--beton", "-o", "index", cwd=folder)
    prune("score", "index", *TEACHER, "--image-size", 8, "-o", "scores", cwd=folder)
    prune("select", "scores", "--keep", 0.5, "--selector", "random", cwd=folder)
    for rule, flags in RULES.items():
        prune(*WORDS, *flags, "-o", rule, cwd=folder)
    return folder


def targets(manifest: Manifest) -> dict[tuple[int, int], np.ndarray]:
    """The target of each labelled sample and view."""
    found = {}
    for view in range(manifest.header.labels.views):
        for ids, values in manifest.targets(view):
            found |= {(int(sample), view): value for sample, value in zip(ids, values, strict=True)}
    return found


def test_as_many_labels_as_asked_and_more_where_views_differ(scored: Path, prune) -> None:
    manifest = Manifest.open(scored / "covariance")
    labels, each = manifest.header.labels, labels_each(labelled_views(manifest))
    assert (each.sum(), labels.budget.labels) == (180, 180)
    assert (each[each > 0].min(), each.max()) == (labels.budget.least, labels.budget.most)
    assert 2 <= labels.budget.least < 5 < labels.budget.most <= 12, "some have fewer labels than first views"
    assert (labels.views, manifest.header.views.count, labels.budget.first_views) == (12, 12, 5)
    assert manifest.header.schema_version == "1.5"
    assert manifest.header.run["images"] == np.maximum(each[each > 0], 5).sum() > 200
    assert sum(entry.rows for entry in manifest.header.files if entry.kind == "targets") == 180
    beton = Beton.open(manifest.beton_path)
    assert beton.label_count_N.sum() == 180
    assert verify(manifest.path).ok
    told = f"replay of {each[each > 0].min()} to {each.max()} of 12 view(s), 4.5 on average by covariance"
    assert told in prune("show", scored / "covariance").stdout
    assert told in (scored / "covariance" / "README.md").read_text()


def test_labels_are_those_of_all_views_without_a_budget(scored: Path, prune, tmp_path) -> None:
    prune(
        "label",
        "selection",
        *TEACHER,
        "--labels",
        "raw",
        "--views",
        12,
        "--seed",
        3,
        "-o",
        tmp_path / "all",
        cwd=scored,
    )
    full = targets(Manifest.open(tmp_path / "all"))
    for rule in RULES:
        some = targets(Manifest.open(scored / rule))
        assert len(some) < len(full) / 2
        for place, target in some.items():
            np.testing.assert_allclose(target, full[place], rtol=1e-3, atol=2e-3)


def test_the_surest_views_are_kept(scored: Path, prune, tmp_path) -> None:
    prune(
        "label",
        "selection",
        *TEACHER,
        "--labels",
        "raw",
        "--views",
        12,
        "--seed",
        3,
        "-o",
        tmp_path / "all",
        cwd=scored,
    )
    manifest = Manifest.open(scored / "sure")
    assert manifest.header.run["images"] == 40 * 12, "all of them are seen"
    full, some = targets(Manifest.open(tmp_path / "all")), targets(manifest)
    label_N = manifest.samples().column("label").to_numpy()
    for sample in {sample for sample, _ in full}:
        z_VC = np.stack([full[sample, view] for view in range(12)]).astype(np.float64)
        p_V = np.exp(z_VC - z_VC.max(1, keepdims=True)) / np.exp(z_VC - z_VC.max(1, keepdims=True)).sum(
            1, keepdims=True
        )
        surest = 1 + np.argsort(-p_V[1:, label_N[sample]], kind="stable")[:3]
        assert {view for other, view in some if other == sample} == {0, *surest.tolist()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["torch", "ffcv"])
def test_students_see_the_views_that_were_labelled(scored, teachers, monkeypatch, rule, kind) -> None:
    """Every batch of every epoch, for one rank and two: its targets are what the teacher says of its pixels."""
    if kind == "ffcv" and not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    monkeypatch.syspath_prepend(teachers)
    task = open_task(scored / rule)
    teacher = load_teacher(TeacherSpec(network="teachers:linear", image_px=8), list(task.class_names))
    views = TrainingViews.of(task, policy="replay")
    loader = open_loader(task.beton, kind=kind, recipe=views.recipe, preprocessing=task.preprocessing(8), workers=2)
    shown = np.zeros((40, 12), int)
    for epoch in range(22):
        rows = np.arange(40)
        view_n, target_view_n = views.of_epoch(epoch, rows)
        for share in (slice(0, 20), slice(20, 40)):
            asked = {"view_n": view_n[share], "target_view_n": target_view_n[share], "batch_size": 7}
            for batch in loader.batches(rows[share], **asked):
                torch.testing.assert_close(batch.target.float(), teacher(batch.images), rtol=2e-3, atol=2e-2)
        shown[rows, view_n] += 1
    loader.close()
    for row, each in enumerate(task.beton.label_count_N.tolist()):
        times = shown[row][shown[row] > 0]
        assert len(times) == each - 1, "all of its augmented views, and no others"
        assert times.max() - times.min() <= 1, "each comes back after the others"
    assert not shown[:, 0].any()


def test_images_read_from_their_source_give_the_same_labels(scored: Path, prune, tmp_path) -> None:
    prune("select", "scores", "--keep", 0.5, "--selector", "random", "--no-beton", "-o", tmp_path / "bare", cwd=scored)
    words = ("label", tmp_path / "bare", *WORDS[2:], "--data", scored / "images", "--batch-size", 7)
    prune(*words, "-o", tmp_path / "source", cwd=scored)
    assert not (tmp_path / "bare" / "train.beton").exists()
    first, second = (Manifest.open(path) for path in (scored / "covariance", tmp_path / "source"))
    assert np.array_equal(labelled_views(first), labelled_views(second))
    want, found = targets(first), targets(second)
    for place, target in want.items():
        np.testing.assert_allclose(found[place], target, rtol=1e-3, atol=2e-3)


def test_codecs_top_k_and_means_under_a_budget(scored: Path, prune, tmp_path) -> None:
    plain = targets(Manifest.open(scored / "covariance"))
    prune(*WORDS, "--codec", "int8", "-o", tmp_path / "int8", cwd=scored)
    prune(*WORDS, "--top-k", 3, "-o", tmp_path / "top", cwd=scored)
    prune(*WORDS, *RULES["sure"], "--policy", "mean", "-o", tmp_path / "sure", cwd=scored)
    prune(*WORDS, "--view-budget", 7, "--policy", "mean", "-o", tmp_path / "mean", cwd=scored)
    assert all(verify(tmp_path / name).ok for name in ("int8", "top", "sure", "mean"))
    for place, target in targets(Manifest.open(tmp_path / "int8")).items():
        assert np.array_equal(target, encode(plain[place][None], "int8").logits()[0])
    assert targets(Manifest.open(tmp_path / "top")).keys() == plain.keys()
    surest = targets(Manifest.open(scored / "sure"))
    for (sample, _), target in targets(Manifest.open(tmp_path / "sure")).items():
        own = [logits.astype(np.float64) for (other, _), logits in surest.items() if other == sample]
        assert np.array_equal(target, np.mean(own, axis=0).astype(np.float16))
    header = Manifest.open(tmp_path / "mean").header
    labels = header.labels
    assert (labels.views, labels.budget.labels, labels.budget.least, labels.is_ragged) == (1, 280, None, False)
    assert header.run["images"] == 280
    assert "mean over up to 12 view(s), 7 on average by covariance" in prune("show", tmp_path / "mean").stdout


def test_parts_do_not_depend_on_ranks_or_on_a_kill(prune, tmp_path) -> None:
    """Two parts, which keep about 164 and 16 samples."""
    images = np.random.default_rng(5).integers(0, 256, (9000, 8, 8), np.uint8)
    write_idx(tmp_path / "images", images, np.arange(9000) % 10)
    prune("score", tmp_path / "images", *TEACHER, "--image-size", 8, "--threads", 1, "-o", tmp_path / "scores")
    prune("select", tmp_path / "scores", "--keep", "0.02", "-o", tmp_path / "selection", cwd=tmp_path)
    words = ("label", tmp_path / "selection", *TEACHER, "--threads", 1, "--views", 9, "--view-budget", "10/3")
    prune(*words, "-o", tmp_path / "whole")
    prune(*words, "--rank", 1, "--world-size", 2, "-o", tmp_path / "ranks")
    prune(*words, "--rank", 0, "--world-size", 2, "-o", tmp_path / "ranks")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("manifest.json", "README.md", "train.beton", "targets/view-004/part-00001.parquet"):
        (tmp_path / "killed" / name).unlink()
    prune(*words, "-o", tmp_path / "killed")
    whole = Manifest.open(tmp_path / "whole")
    assert len(whole.files("targets/view-000")) == 2
    assert whole.header.labels.budget.labels == 600, "180 times 10/3"
    for name in ("ranks", "killed"):
        assert Manifest.open(tmp_path / name).id == whole.id
    changing = {"manifest.json", "README.md"}
    first, second = (tree_bytes(tmp_path / name) for name in ("whole", "ranks"))
    assert {name: data for name, data in first.items() if name not in changing} == {
        name: data for name, data in second.items() if name not in changing
    }


def test_a_dry_run_says_what_it_costs(scored: Path, prune) -> None:
    tried = json.loads(prune(*WORDS, "--no-beton", "--dry-run", "--json", cwd=scored).stdout)
    assert (tried["labels"], tried["images"], tried["bytes"]) == (180, 300, 180 * 20)
    tried = json.loads(prune(*WORDS, *RULES["sure"], "--no-beton", "--dry-run", "--json", cwd=scored).stdout)
    assert (tried["labels"], tried["images"], tried["bytes"]) == (160, 480, 160 * 20)
    told = prune(*WORDS, "--dry-run", cwd=scored).stdout
    assert "40 samples x 4.5 of 12 view(s) on average, 180 labels for which the teacher sees at most 300 images" in told


def test_the_other_commands_take_it(scored: Path, prune, tmp_path) -> None:
    folder = scored / "covariance"
    found = json.loads(prune("diff", folder, scored / "sure", "--json").stdout)
    assert found["labels"]["views"][0] | {"kl_a_b": 0.0, "kl_b_a": 0.0} == {
        "table": "targets/view-000", "samples": 40, "kl_a_b": 0.0, "kl_b_a": 0.0
    }  # fmt: skip
    assert all(view["kl_a_b"] is None or view["kl_a_b"] < 1e-4 for view in found["labels"]["views"])
    prune("push", folder, tmp_path / "pushed")
    prune("pull", tmp_path / "pushed", tmp_path / "pulled")
    prune("cut", tmp_path / "pulled", "--data", scored / "images", "-o", tmp_path / "cut")
    assert (tmp_path / "cut" / "train.beton").read_bytes() == (folder / "train.beton").read_bytes()
    (tmp_path / "secret").write_text("long enough to be a secret")
    prune("push", folder, tmp_path / "hidden", "--secret", tmp_path / "secret")
    assert verify(tmp_path / "hidden").ok
    assert len(targets(Manifest.open(tmp_path / "hidden"))) == 180


def test_selections_are_still_not_merged(scored: Path, prune) -> None:
    told = prune("merge", scored / "covariance", scored / "sure", "-o", scored / "merged", code=2, cwd=scored).stderr
    assert "Traceback" not in told
    assert not (scored / "merged").exists()


def test_features_under_a_budget_give_the_logits(scored: Path, prune, tmp_path, monkeypatch) -> None:
    """A teacher of 40 classes that looks at 8 features: both tables are those of the same views."""
    (tmp_path / "slender.py").write_text(NARROW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_idx(tmp_path / "images", np.random.default_rng(2).integers(0, 256, (80, 8, 8), np.uint8), np.arange(80) % 40)
    prune("score", "images", "--teacher", "slender:net", "--image-size", 8, "-o", "scores", cwd=tmp_path)
    prune("select", "scores", "--keep", 0.5, "--selector", "random", cwd=tmp_path)
    words = ("label", "selection", "--teacher", "slender:net", "--labels", "raw", "--views", 9, "--view-budget", 4)
    prune(*words, "-o", "plain", cwd=tmp_path)
    prune(*words, "--codec", "features", "-o", "features", cwd=tmp_path)
    plain, features = (Manifest.open(tmp_path / name) for name in ("plain", "features"))
    assert verify(features.path).ok
    assert np.array_equal(labelled_views(plain), labelled_views(features))
    found = targets(features)
    for place, target in targets(plain).items():
        np.testing.assert_allclose(found[place], target, rtol=1e-3, atol=1e-2)
    task = open_task(features.path)
    words_nSW = task.beton.targets(np.arange(40))
    for row, bits in enumerate(task.beton.labelled_views_N.tolist()):
        views = [view for view in range(9) if bits >> view & 1]
        sample = int(task.beton.columns["sample_id"][row])
        decoded = task.form.decode(words_nSW[row, : len(views)])
        np.testing.assert_allclose(decoded, [found[sample, view] for view in views], rtol=1e-4, atol=1e-5)


def test_a_cut_that_drops_samples_counts_the_labels_of_the_others(scored: Path, prune, tmp_path) -> None:
    prune(*WORDS, "--no-beton", "-o", tmp_path / "bare", cwd=scored)
    bare = Manifest.open(tmp_path / "bare")
    gone = int(np.argmax(labels_each(labelled_views(bare))))
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8) // np.arange(1, 81)[:, None, None] ** 2
    images[gone] += 1
    write_idx(tmp_path / "others", images.astype(np.uint8), np.arange(80) % 10)
    prune("cut", tmp_path / "bare", "--data", tmp_path / "others", "--check", "hashes", "-o", tmp_path / "cut")
    cut = Manifest.open(tmp_path / "cut")
    each = labels_each(labelled_views(cut))
    assert cut.header.labels.budget.labels == each.sum() == 180 - labels_each(labelled_views(bare))[gone]
    assert cut.header.labels.budget.most == each.max()
    assert each[gone] == 0
    assert verify(cut.path).ok


def forged(scored: Path, tmp_path: Path, **budget: object) -> Path:
    """A copy of the manifest whose header says something else of its budget."""
    shutil.copytree(scored / "covariance", tmp_path / "forged")
    header = json.loads((tmp_path / "forged" / "manifest.json").read_bytes())
    header["labels"]["budget"] |= budget
    (tmp_path / "forged" / "manifest.json").write_text(json.dumps(header))
    return tmp_path / "forged"


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"labels": 181}, "labels.budget.labels is 181, and the targets have 180 rows"),
        ({"most": 13}, "labels.budget.most is 13 of 12 views"),
        ({"most": 65}, "labels.budget.most is 65, not from 1 to 64"),
        ({"least": 13}, "samples have 13 to 12 labels"),
        ({"least": None}, "samples have None to 12 labels"),
        ({"labels": -1}, "labels.budget.labels is -1"),
        ({"first_views": 0}, "labels.budget.first_views is 0"),
        ({"temperature": -1.0}, "labels.budget.temperature is -1.0"),
    ],
)
def test_a_header_that_says_otherwise_is_refused(scored, prune, tmp_path, budget, told) -> None:
    assert told in prune("verify", forged(scored, tmp_path, **budget), code=3).stderr


def test_a_beton_of_other_views_than_the_tables_is_found(scored: Path, prune, tmp_path) -> None:
    """Two samples with as many labels of different views, swapped: nothing else would notice."""
    shutil.copytree(scored / "sure", tmp_path / "forged")
    path = tmp_path / "forged" / "train.beton"
    beton, data = Beton.open(path), bytearray(path.read_bytes())
    first = int(beton.labelled_views_N[0])
    other = next(int(bits) for bits in beton.labelled_views_N if int(bits) != first)
    at = data.index(first.to_bytes(8, "little"))
    data[at : at + 8] = other.to_bytes(8, "little")
    path.write_bytes(data)
    header = json.loads((tmp_path / "forged" / "manifest.json").read_bytes())
    [entry] = [entry for entry in header["files"] if entry["path"] == "train.beton"]
    entry["sha256"] = sha256_file(path)
    (tmp_path / "forged" / "manifest.json").write_text(json.dumps(header))
    [finding] = verify(tmp_path / "forged").findings
    assert finding.problem == "has targets of other views than the tables of targets"


def test_the_id_of_a_labelling_without_a_budget_stays(scored: Path, prune, tmp_path) -> None:
    prune("label", "selection", *TEACHER, "--views", 3, "-o", tmp_path / "plain", cwd=scored)
    header = Manifest.open(tmp_path / "plain").header
    assert "view_budget" not in header.config
    assert header.labels.budget is None
    assert header.schema_version == "1.4", "of what is said about the data"


def test_from_python(scored: Path, teachers, monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(teachers)
    monkeypatch.chdir(scored)
    made = pt.label(
        "selection", teacher="teachers:linear", labels="raw", views=12, view_budget=4.5, seed=3, out=tmp_path / "x"
    )
    assert np.array_equal(labelled_views(made), labelled_views(Manifest.open(scored / "covariance")))
