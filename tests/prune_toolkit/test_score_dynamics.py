"""`prune score --dynamics`: a new manifest with one more set; runs that do not go with it are refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests_support import tree_bytes, write_idx

from manifests.format.dynamics import DynamicsInfo, write_epoch
from manifests.integrity import verify
from manifests.manifest import Manifest
from trainer.loop.label_times import label_times

SAMPLES, BROKEN, EPOCHS = 60, 7, 12


@pytest.fixture(scope="module")
def scored(tmp_path_factory, prune):
    """A folder with a scored manifest of 60 images of which one cannot be read."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("dynamics")
    generator = np.random.default_rng(0)
    for row in range(SAMPLES):
        path = folder / "images" / f"class{row % 3}" / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    broken = sorted((folder / "images").rglob("*.png"))[BROKEN]
    broken.write_bytes(broken.read_bytes()[:40])
    prune("score", "images", "--teacher", "teachers:linear", "--image-size", 8, cwd=folder)
    return folder


def record(path, manifest, *, seed=3, draw=0, ids=None, epochs=EPOCHS, grand_epochs=2, **changes):
    """What a run would have recorded, drawn at random; returns its columns (E, N)."""
    readable = np.setdiff1d(np.arange(SAMPLES), [BROKEN])
    ids, rng = readable if ids is None else ids, np.random.default_rng((seed, draw))
    info = {
        "fingerprint": manifest.header.data.fingerprint,
        "manifest": manifest.id,
        "count": SAMPLES,
        "rows": len(ids),
        "student": "resnet8",
        "seed": seed,
        "run": f"{seed:064d}",
        "grand_epochs": grand_epochs,
    } | changes
    recorded = {name: [] for name in ("p_y", "margin", "correct", "el2n", "grand", "abs_kl")}
    for epoch in range(epochs):
        columns = {name: rng.normal(size=len(ids)).astype(np.float32) for name in ("margin", "el2n")}
        columns["p_y"] = rng.random(len(ids)).astype(np.float32)
        columns["correct"] = rng.random(len(ids)) < 0.5
        if epoch < grand_epochs:
            columns["grand"] = rng.random(len(ids)).astype(np.float32)
        if epoch and info.get("format") == 2:
            columns["abs_kl"] = rng.random(len(ids)).astype(np.float32)
        for name, values in columns.items():
            recorded[name].append(values)
        write_epoch(path, DynamicsInfo(**info, epochs_recorded=epoch + 1), epoch, ids, columns)
    return {name: np.array(values) for name, values in recorded.items()}


def test_scores_of_a_run_are_added_to_all_that_was_there(scored, tmp_path, prune):
    parent = Manifest.open(scored / "manifest")
    recorded = record(tmp_path / "run", parent)
    result = prune("score", scored / "manifest", "--dynamics", tmp_path / "run", "-o", tmp_path / "out")
    assert "12 epochs of resnet8 (seed 3); early scores at epoch 1" in result.stdout
    made = Manifest.open(tmp_path / "out")
    table = made.scores("dynamics").to_pandas()
    assert table["sample_id"].tolist() == [row for row in range(SAMPLES) if row != BROKEN]
    np.testing.assert_allclose(table["aum"], recorded["margin"].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(table["el2n_early"], recorded["el2n"][0])
    np.testing.assert_allclose(table["grand_full"], recorded["grand"].mean(axis=0), rtol=1e-6)
    went_wrong = (recorded["correct"][:-1] & ~recorded["correct"][1:]).sum(axis=0)
    assert np.array_equal(table["forgetting"], np.where(recorded["correct"].any(axis=0), went_wrong, EPOCHS))

    losses = -np.log(recorded["p_y"].astype(float))
    windows = [recorded["p_y"][k : k + 10].astype(float) for k in range(3)]
    dual = np.mean([part.std(axis=0, ddof=1) * (1 - part.mean(axis=0)) for part in windows], axis=0)
    np.testing.assert_allclose(table["dual"], dual, rtol=1e-5)
    changes = [np.abs(np.diff(losses[k : k + 10], axis=0)) for k in range(3)]
    norms = [np.linalg.norm(part - part.mean(axis=0), axis=0) for part in changes]
    np.testing.assert_allclose(table["tdds_loss"], 0.9 * (0.01 * norms[0] + 0.1 * norms[1] + norms[2]), rtol=1e-5)

    assert made.header.parents == [parent.id]
    assert verify(tmp_path / "out").ok
    old = tree_bytes(scored / "manifest")
    new = tree_bytes(tmp_path / "out")
    assert new.keys() - old.keys() == {"scores/dynamics/part-00000.parquet"}
    assert all(new[path] == content for path, content in old.items() if path != "README.md")
    linked = "logits/view-000/part-00000.parquet"
    assert (scored / "manifest" / linked).samefile(tmp_path / "out" / linked)
    assert made.scores().equals(parent.scores())
    assert {spec.set for spec in made.header.scores} == {"teacher", "dynamics"}
    # Time is that of scoring and this; what training took is told apart.
    assert label_times(made.header)["scoring_s"] >= label_times(parent.header)["scoring_s"]


def test_a_part_that_was_pushed_without_logits_stays_one(scored, tmp_path, prune):
    prune("push", scored / "manifest", tmp_path / "part", "--only", "scores")
    record(tmp_path / "run", Manifest.open(tmp_path / "part"))
    prune("score", tmp_path / "part", "--dynamics", tmp_path / "run", "-o", tmp_path / "out")
    assert verify(tmp_path / "out").findings == []
    assert Manifest.open(tmp_path / "out").header.left_out == ["logits"]


def test_of_several_runs_the_score_is_the_mean(scored, tmp_path, prune):
    parent = Manifest.open(scored / "manifest")
    recorded = [record(tmp_path / name, parent, seed=seed) for seed, name in enumerate("ab")]
    arguments = ("--dynamics", tmp_path / "a", "--dynamics", tmp_path / "b", "--early-epoch", 3)
    prune("score", scored / "manifest", *arguments, "-o", tmp_path / "out")
    table = Manifest.open(tmp_path / "out").scores("dynamics").to_pandas()
    expected = np.mean([run["el2n"][2] for run in recorded], axis=0)
    np.testing.assert_allclose(table["el2n_early"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        table["aum"], np.mean([run["margin"] for run in recorded], axis=(0, 1)), rtol=1e-5, atol=1e-6
    )
    config = Manifest.open(tmp_path / "out").header.config
    assert [run["seed"] for run in config["dynamics"]] == [0, 1]
    assert str(tmp_path) not in json.dumps(config)


def finished(path, *, seed=3, epochs=EPOCHS, **changes):
    """The run.json of a run that `record` recorded."""
    content = {
        "digest": f"{seed:064d}", "recorded": {"epochs": epochs, "grand_epochs": 2}, "world_size": 2,
        "time": {"training_s": 10.0, "recording_s": 2.5},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(content | changes))


def test_tdds_is_of_the_changes_where_every_run_recorded_them(scored, tmp_path, prune):
    manifest = Manifest.open(scored / "manifest")
    changes = record(tmp_path / "a", manifest, format=2)["abs_kl"].astype(float)
    record(tmp_path / "b", manifest, seed=4)
    prune("score", manifest.path, "--dynamics", tmp_path / "a", "-o", tmp_path / "out")
    found = Manifest.open(tmp_path / "out").scores("dynamics").column("tdds").to_numpy()
    # Of twelve epochs, three windows of ten: of nine changes each.
    parts = [changes[k : k + 9] - changes[k : k + 9].mean(axis=0) for k in range(3)]
    norms = [np.sqrt((part**2).sum(axis=0)) for part in parts]
    np.testing.assert_allclose(found, 0.9 * norms[2] + 0.09 * norms[1] + 0.009 * norms[0], rtol=1e-5)
    both = prune("score", manifest.path, "--dynamics", tmp_path / "a", "--dynamics", tmp_path / "b", "--dry-run")
    assert "no tdds: every run must record dynamics: abs_kl (train-student --record-kl)" in both.stderr


def test_the_window_is_part_of_what_a_manifest_is_made_with(scored, tmp_path, prune):
    manifest, run = Manifest.open(scored / "manifest"), tmp_path / "run"
    record(run, manifest)
    arguments = ("score", manifest.path, "--dynamics", run)
    prune(*arguments, "-o", tmp_path / "ten")
    prune(*arguments, "--window", 4, "-o", tmp_path / "four")
    ten, four = Manifest.open(tmp_path / "ten"), Manifest.open(tmp_path / "four")
    assert ("window" in ten.header.config, four.header.config["window"]) == (False, 4)
    for name, is_same in (("aum", True), ("dual", False), ("tdds_loss", False)):
        assert ten.scores("dynamics").column(name).equals(four.scores("dynamics").column(name)) is is_same
    assert "made with other options (window differ" in prune(*arguments, "-o", tmp_path / "four", code=2).stderr


def test_a_run_that_was_recorded_again_is_another_one(scored, tmp_path, prune):
    manifest, run = Manifest.open(scored / "manifest"), tmp_path / "run"
    arguments = ("score", manifest.path, "--dynamics", run, "-o", tmp_path / "out")
    record(run, manifest)
    prune(*arguments)
    # The same configuration, on another machine: the digest of the run stays.
    record(run, manifest, draw=1)
    assert "made with other options (dynamics differ)" in prune(*arguments, code=2).stderr
    record(run, manifest)
    assert "finished already" in prune(*arguments).stderr


def test_a_run_counts_once(scored, tmp_path, prune):
    manifest = Manifest.open(scored / "manifest")
    for name, changes in (("run", {}), ("copy", {"run": "f" * 64}), ("again", {"draw": 1})):
        record(tmp_path / name, manifest, **changes)
    for name in ("run", "copy", "again"):
        arguments = ("--dynamics", tmp_path / "run", "--dynamics", tmp_path / name, "-o", tmp_path / "out")
        result = prune("score", manifest.path, *arguments, code=2)
        assert "are the same run" in result.stderr
        assert not (tmp_path / "out").exists()


def test_what_makes_a_record_say_less_is_told(scored, tmp_path, prune):
    manifest, rows = Manifest.open(scored / "manifest"), SAMPLES - 1
    record(tmp_path / "open", manifest, epochs=5)
    record(tmp_path / "short", manifest, seed=4, epochs=1)
    finished(tmp_path / "short", seed=4)
    record(tmp_path / "rs2", manifest, seed=5, epochs=1, stepped=(int(0.3 * rows),))
    finished(tmp_path / "rs2", seed=5, epochs=1)
    record(tmp_path / "whole", manifest, seed=6, format=2)
    finished(tmp_path / "whole", seed=6)

    def said(name):
        return prune("score", manifest.path, "--dynamics", tmp_path / name, "--dry-run", "-o", tmp_path / "out").stderr

    assert "open is not finished: its scores are of the first 5 epochs" in said("open")
    assert "short is not finished: its scores are of the first epoch" in said("short")
    assert "short recorded one epoch: forgetting" in said("short")
    assert "open recorded 5 epochs: for dual and tdds these are one window, in place of 10" in said("open")
    assert "no dual: every run must record dynamics: 2 epochs (train longer)" in said("short")
    assert "rs2: its steps showed 29 % of the samples" in said("rs2")
    assert "not finished" not in said("rs2")
    assert not said("whole")


def test_what_the_runs_cost_is_of_all_their_processes(scored, tmp_path, prune):
    manifest = Manifest.open(scored / "manifest")
    for seed, name in enumerate("ab"):
        record(tmp_path / name, manifest, seed=seed)
        finished(tmp_path / name, seed=seed, world_size=seed + 1)
    arguments = ("--dynamics", tmp_path / "a", "--dynamics", tmp_path / "b")
    prune("score", manifest.path, *arguments, "-o", tmp_path / "out")
    assert Manifest.open(tmp_path / "out").header.run["training_seconds"] == 12.5 + 2 * 12.5
    finished(tmp_path / "b", seed=1, digest="of another run")
    prune("score", manifest.path, *arguments, "-o", tmp_path / "unknown")
    assert Manifest.open(tmp_path / "unknown").header.run["training_seconds"] is None


def test_without_full_gradients_in_every_run_their_score_is_left_out(scored, tmp_path, prune):
    parent = Manifest.open(scored / "manifest")
    record(tmp_path / "a", parent)
    record(tmp_path / "b", parent, seed=4, grand_epochs=0)
    arguments = ("--dynamics", tmp_path / "a", "--dynamics", tmp_path / "b")
    result = prune("score", scored / "manifest", *arguments, "-o", tmp_path / "out")
    assert "no grand_full: every run must record dynamics: grand" in result.stderr
    assert Manifest.open(tmp_path / "out").scores("dynamics").column_names == [
        "sample_id", "forgetting", "aum", "el2n_early", "dual", "tdds_loss",
    ]  # fmt: skip


def test_bare_names_and_a_second_time(scored, tmp_path, prune):
    import shutil

    shutil.copytree(scored / "manifest", tmp_path / "manifest")
    record(tmp_path / "run", Manifest.open(tmp_path / "manifest"))
    plan = prune("score", "--dynamics", "run", "--dry-run", cwd=tmp_path)
    assert "would write manifest-dynamics/ with dynamics/forgetting" in plan.stdout
    assert not (tmp_path / "manifest-dynamics").exists()
    first = json.loads(prune("score", "--dynamics", "run", "--json", cwd=tmp_path).stdout)
    again = prune("score", "--dynamics", "run", "--json", cwd=tmp_path)
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["id"] == first["id"] == Manifest.open(tmp_path / "manifest-dynamics").id
    other = prune("score", "--dynamics", "run", "--early-epoch", 2, cwd=tmp_path, code=2)
    assert "made with other options (dynamics differ)" in other.stderr
    shown = prune("show", "manifest-dynamics", cwd=tmp_path).stdout
    assert "12 epochs of resnet8, seed 3, early scores at epoch 1" in shown
    assert "dynamics/aum" in shown


def test_what_was_added_can_be_selected_by(scored, tmp_path, prune):
    record(tmp_path / "run", Manifest.open(scored / "manifest"))
    prune("score", scored / "manifest", "--dynamics", tmp_path / "run", "-o", tmp_path / "out")
    for score, name in (("dynamics/aum", "by-set"), ("forgetting", "bare")):
        arguments = ("--keep", 0.5, "--selector", "window", "--position", 1, "--score", score, "-o", tmp_path / name)
        prune("select", tmp_path / "out", *arguments)
        assert Manifest.open(tmp_path / name).header.selection.count == 30
    scores = Manifest.open(tmp_path / "out").scores("dynamics").to_pandas().set_index("sample_id")
    kept = Manifest.open(tmp_path / "by-set").selection().to_pandas()
    label = Manifest.open(tmp_path / "out").samples().to_pandas()["label"]
    for number in range(3):
        of_class = scores[label[scores.index] == number]["aum"]
        kept_ids = kept[kept["keep"] & (label == number)]["sample_id"]
        # aum is harder when low: the hard end has the lowest ones.
        assert of_class[kept_ids].max() < of_class.drop(kept_ids).min()


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"fingerprint": "e" * 64}, 4, "was trained on other data"),
        ({"ids": np.arange(0, SAMPLES, 2)}, 3, "recorded 30 of 59 readable samples; the first missing: class0/03.png"),
        ({"ids": np.arange(SAMPLES)}, 3, "recorded 1 samples that are not readable in"),
    ],
)
def test_a_run_that_does_not_go_with_the_manifest_is_refused(scored, tmp_path, prune, changes, code, says):
    record(tmp_path / "run", Manifest.open(scored / "manifest"), epochs=1, **changes)
    result = prune("score", scored / "manifest", "--dynamics", tmp_path / "run", "-o", tmp_path / "out", code=code)
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverged_is_refused(scored, tmp_path, prune):
    manifest = Manifest.open(scored / "manifest")
    ids = np.setdiff1d(np.arange(SAMPLES), [BROKEN])
    values = np.zeros(len(ids), np.float32)
    margin = values.copy()
    margin[4] = np.nan
    info = DynamicsInfo(
        fingerprint=manifest.header.data.fingerprint, manifest=manifest.id, count=SAMPLES, rows=len(ids),
        student="resnet8", seed=0, run="a", epochs_recorded=1,
    )  # fmt: skip
    columns = {"p_y": values, "margin": margin, "correct": values > 0, "el2n": values}
    write_epoch(tmp_path / "run", info, 0, ids, columns)
    result = prune("score", manifest.path, "--dynamics", tmp_path / "run", "-o", tmp_path / "out", code=3)
    assert "aum of sample 4 is nan" in result.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_flags_that_make_no_sense_together_are_named(scored, tmp_path, prune):
    manifest = Manifest.open(scored / "manifest")
    record(tmp_path / "run", manifest)
    out = ("-o", tmp_path / "out")
    run = ("--dynamics", tmp_path / "run")
    assert "no dynamics/dynamics.json" in prune("score", manifest.path, "--dynamics", scored, *out, code=3).stderr
    assert "--teacher, --features cannot be used with --dynamics" in (
        prune("score", manifest.path, *run, "--teacher", "resnet8", "--features", *out, code=2).stderr
    )
    assert "recorded epochs 1 to 12" in prune("score", manifest.path, *run, "--early-epoch", 13, *out, code=2).stderr
    assert "--window 2: at least 3 epochs" in prune("score", manifest.path, *run, "--window", 2, *out, code=2).stderr
    assert "--window needs --dynamics" in prune("score", "x", "--window", 5, code=2).stderr
    assert "--early-epoch needs --dynamics" in prune("score", "x", "--early-epoch", 1, code=2).stderr
    prune("score", manifest.path, *run, *out)
    second = prune("score", tmp_path / "out", *run, "-o", tmp_path / "twice", code=2)
    assert "already has scores of dynamics" in second.stderr
    prune("index", scored / "images", "-o", tmp_path / "index")
    assert "is of kind index" in prune("score", tmp_path / "index", *run, "-o", tmp_path / "no", code=2).stderr


def test_a_teacher_in_prune_toml_is_no_contradiction(scored, tmp_path, prune):
    record(tmp_path / "run", Manifest.open(scored / "manifest"))
    (tmp_path / "prune.toml").write_text('data = "photos"\nteacher = "resnet8"\n')
    prune("score", scored / "manifest", "--dynamics", "run", cwd=tmp_path)
    assert (tmp_path / "manifest-dynamics" / "manifest.json").is_file()


def test_no_torch_is_loaded(scored, tmp_path):
    record(tmp_path / "run", Manifest.open(scored / "manifest"))
    code = (
        "import sys; from trainer.cli.console import run_cli; from prune_toolkit.main import cli\n"
        "try:\n    run_cli(cli, sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    words = ["score", str(scored / "manifest"), "--dynamics", str(tmp_path / "run"), "-o", str(tmp_path / "out")]
    child = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "False"


def test_more_than_a_part_of_samples(tmp_path, prune):
    count = 8192 + 50
    generator = np.random.default_rng(1)
    write_idx(tmp_path / "data", generator.integers(0, 256, (count, 4, 4), np.uint8), np.arange(count) % 2)
    prune("score", tmp_path / "data", "--teacher", "teachers:linear", "--image-size", 4, "-o", tmp_path / "manifest")
    manifest = Manifest.open(tmp_path / "manifest")
    info = DynamicsInfo(
        fingerprint=manifest.header.data.fingerprint, manifest=manifest.id, count=count, rows=count,
        student="resnet8", seed=0, run="a", epochs_recorded=1,
    )  # fmt: skip
    margin = generator.normal(size=count).astype(np.float32)
    columns = {"p_y": margin, "margin": margin, "correct": margin > 0, "el2n": margin}
    write_epoch(tmp_path / "run", info, 0, np.arange(count), columns)
    prune("score", manifest.path, "--dynamics", tmp_path / "run", "-o", tmp_path / "out")
    made = Manifest.open(tmp_path / "out")
    assert [entry.rows for entry in made.files("scores/dynamics")] == [8192, 50]
    assert np.array_equal(made.scores("dynamics").column("aum").to_numpy(), margin)
    assert Path(tmp_path / "out" / "local.json").is_file()
