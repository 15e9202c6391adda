"""`prune merge --average` of real teachers: merged, selected and taught."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from tests_support import tree_bytes

from manifests.integrity import verify
from manifests.manifest import Manifest
from prune_toolkit.scoring.logit_scores import LogitScore
from trainer.loop.label_times import label_times

Run = Callable[..., subprocess.CompletedProcess[str]]
KILL_AT = Path(__file__).parents[1] / "support" / "kill_at.py"
TEACHERS = """
import torch


class Linear(torch.nn.Module):
    def __init__(self, num_classes, seed, scale):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(8 * 8 * 3, num_classes, generator=generator) * scale)

    def forward(self, images):
        return images.flatten(1) @ self.weight


def small(num_classes):
    return Linear(num_classes, seed=1, scale=0.3)


def large(num_classes):
    return Linear(num_classes, seed=2, scale=0.5)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    """A folder with an index of the digits and its beton, scored by two teachers in two views each."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "merge_teachers.py").write_text(TEACHERS)
    prune("index", "demo:digits", "--beton", cwd=folder)
    for name in ("small", "large"):
        flags = ("--views", 2, "--no-flip", "--image-size", 8, "--threads", 1, "--loader", "torch")
        prune("score", "index", "--teacher", f"merge_teachers:{name}", *flags, "-o", name, cwd=folder)
    return folder


def logits_of(path: Path, view: int = 0) -> np.ndarray:
    """(n, C) float64."""
    return np.concatenate([logits for _, logits in Manifest.open(path).logits(view)]).astype(np.float64)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_ensemble_of_two_teachers_against_numpy(digits: Path, tmp_path: Path, prune: Run, kind: str) -> None:
    out = tmp_path / "merged"
    result = prune("merge", "small", "large", "--average", kind, "-o", out, cwd=digits)
    assert verify(out).ok
    merged, parents = Manifest.open(out), [Manifest.open(digits / name) for name in ("large", "small")]
    label_n = merged.samples().column("label").to_numpy()
    for view in range(2):
        members = np.stack([logits_of(digits / name, view) for name in ("small", "large")])
        mean = members.mean(0) if kind == "logits" else np.log(softmax(members, axis=2).mean(0))
        # float16 has 11 bits.
        np.testing.assert_allclose(logits_of(out, view), mean, rtol=1e-3, atol=1e-6)

    views = [logits_of(out, view) for view in range(2)]
    scores = merged.scores().to_pandas()
    loss = -log_softmax(views[1], axis=1)[np.arange(len(label_n)), label_n]
    np.testing.assert_allclose(scores["loss"], loss, rtol=1e-5, atol=1e-7)
    assert np.array_equal(scores["correct"], views[1].argmax(1) == label_n)

    header, card = merged.header, merged.header.teacher
    assert card is not None
    assert card.spec == f"average of {kind}: merge_teachers:large + merge_teachers:small"
    assert card.parameters == 2 * 8 * 8 * 3 * 10
    assert card.train_top1 == (views[0].argmax(1) == label_n).mean()
    confidence = softmax(views[0], axis=1).max(1)
    bins = np.ceil(confidence * 15)
    gaps = [abs((views[0].argmax(1) == label_n)[bins == b].sum() - confidence[bins == b].sum()) for b in range(1, 16)]
    assert card.train_ece == pytest.approx(sum(gaps) / len(label_n), abs=1e-6)
    assert f"top-1 {100 * card.train_top1:.2f} %" in result.stdout
    assert header.run["views_top1"] == pytest.approx((views[1].argmax(1) == label_n).mean(), abs=1e-6)
    assert header.parents == [parent.id for parent in parents]
    assert header.data == parents[0].header.data
    assert (header.views, header.compute) == (parents[0].header.views, parents[0].header.compute)
    assert [spec.name for spec in header.scores] == [entry.name for entry in LogitScore.registered()]
    assert {spec.views for spec in header.scores} == {"1"}
    spent = header.run["seconds"] + sum(parent.header.run["seconds"] for parent in parents)
    assert label_times(header)["scoring_s"] == pytest.approx(spent)


@pytest.mark.slow
def test_a_student_learns_from_a_selection_of_a_merged_manifest(digits: Path, tmp_path: Path, prune: Run) -> None:
    prune("merge", "large", "small", "--average", "probabilities", "-o", tmp_path / "merged", cwd=digits)
    prune("select", "merged", "--keep", "0.5", "--labels", "raw", cwd=tmp_path)
    selection = Manifest.open(tmp_path / "selection")
    targets = np.concatenate([targets for _, targets in selection.targets(1)])
    kept_n = selection.selection().column("keep").to_numpy()
    assert np.array_equal(targets, logits_of(tmp_path / "merged", 1)[kept_n])
    flags = ["--student", "resnet8", "--epochs", "1", "--device", "cpu", "--loader", "torch", "--workers", "1"]
    program = [sys.executable, "-m", "trainer", "--manifest", "selection", *flags, "--json"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == 649
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_the_order_of_the_manifests_plays_no_part(digits: Path, tmp_path: Path, prune: Run) -> None:
    for out, names in (("one", ("small", "large")), ("two", ("large", "small"))):
        prune("merge", *names, "--average", "logits", "-o", tmp_path / out, cwd=digits)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    assert Manifest.open(tmp_path / "one").id == Manifest.open(tmp_path / "two").id
    assert "finished already" in prune("merge", "large", "small", "--average", "logits", "-o", tmp_path / "one",
                                       cwd=digits).stderr  # fmt: skip
    other = prune("merge", "large", "small", "--average", "probabilities", "-o", tmp_path / "one", cwd=digits, code=2)
    assert "average differ" in other.stderr


def test_scores_can_be_of_other_views(digits: Path, tmp_path: Path, prune: Run) -> None:
    merged = {}
    for which in ("0", "train", "all"):
        flags = ("--average", "logits", "--score-views", which, "-o", tmp_path / which)
        prune("merge", "large", "small", *flags, cwd=digits)
        manifest = Manifest.open(tmp_path / which)
        merged[which] = manifest.scores().column("loss").to_numpy().astype(np.float64)
        assert {spec.views for spec in manifest.header.scores} == {{"0": "0", "train": "1", "all": "0-1"}[which]}
    np.testing.assert_allclose(merged["all"], (merged["0"] + merged["train"]) / 2, rtol=1e-6)
    assert not np.allclose(merged["0"], merged["train"])


def test_dry_run_and_json_tell_what_is_averaged(digits: Path, tmp_path: Path, prune: Run) -> None:
    flags = ("merge", "large", "small", "--average", "logits", "-o", tmp_path / "m")
    text = prune(*flags, "--dry-run", cwd=digits).stdout
    assert "logits of 2 teachers (merge_teachers:large, merge_teachers:small), 1,298 samples x 2 view(s)" in text
    plan = json.loads(prune(*flags, "--dry-run", "--json", cwd=digits).stdout)
    assert plan["bytes"] == 1298 * (2 * 2 * 10 + 4 * len(LogitScore.registered()))
    assert not (tmp_path / "m").exists()
    result = json.loads(prune(*flags, "--json", cwd=digits).stdout)
    assert result["id"] == Manifest.open(tmp_path / "m").id
    assert [member["spec"] for member in result["members"]] == ["merge_teachers:large", "merge_teachers:small"]


def test_merging_loads_no_torch(digits: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from trainer.cli.console import run_cli
from prune_toolkit.main import cli
try:
    run_cli(cli, ["merge", "large", "small", "--average", "logits", "-o", {str(tmp_path / "m")!r}])
except SystemExit as left:
    sys.exit(left.code or 7 * bool({{"torch", "ffcv"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=digits, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_ensemble_is_a_teacher_of_an_ensemble(digits: Path, tmp_path: Path, prune: Run) -> None:
    prune("merge", "large", "small", "--average", "logits", "-o", tmp_path / "two", cwd=digits)
    result = prune("merge", "large", tmp_path / "two", "--average", "probabilities", "-o", tmp_path / "m", cwd=digits)
    assert "counts" not in result.stderr
    merged = Manifest.open(tmp_path / "m")
    inner = "(average of logits: merge_teachers:large + merge_teachers:small)"
    assert merged.header.teacher.spec == f"average of probabilities: {inner} + merge_teachers:large"
    runs = [Manifest.open(path).header.run["seconds"] for path in (tmp_path / "two", digits / "small")]
    large = Manifest.open(digits / "large").header.run["seconds"]
    assert label_times(merged.header)["scoring_s"] == pytest.approx(
        merged.header.run["seconds"] + sum(runs) + 2 * large
    )


def test_a_teacher_named_twice_counts_twice_and_is_noted(digits: Path, tmp_path: Path, prune: Run) -> None:
    result = prune("merge", "large", "small", "large", "--average", "logits", "-o", tmp_path / "m", cwd=digits)
    assert "merge_teachers:large is given 2 times with the same weights: it counts 2 times" in result.stderr
    mean = (2 * logits_of(digits / "large") + logits_of(digits / "small")) / 3
    np.testing.assert_allclose(logits_of(tmp_path / "m"), mean, rtol=1e-3, atol=1e-6)
    # It was scored once.
    spent = [Manifest.open(path).header.run["seconds"] for path in (digits / "large", digits / "small", tmp_path / "m")]
    assert label_times(Manifest.open(tmp_path / "m").header)["scoring_s"] == pytest.approx(sum(spent))
