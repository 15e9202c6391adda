"""`prune select --held-out`: a searched Beta draw and the quota by recall, their header, and what is refused."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from manifests.format.header_file import read_header
from manifests.manifest import Manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
NETWORK = """
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


class Network(torch.nn.Module):
    '''Random features of digits, and a linear layer that was fitted to a few of them.'''

    def __init__(self, num_classes):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.body, self.head = torch.nn.Linear(64, 24), torch.nn.Linear(24, num_classes)
        self.body.weight.data = torch.randn(24, 64, generator=generator) * 0.5
        self.body.bias.data.zero_()
        digits = load_digits()
        images = torch.tensor(digits.images[:150], dtype=torch.float32).flatten(1) / 16
        fitted = LogisticRegression(max_iter=300).fit(self.features(images).detach().numpy(), digits.target[:150])
        self.head.weight.data = torch.tensor(fitted.coef_, dtype=torch.float32)
        self.head.bias.data = torch.tensor(fitted.intercept_, dtype=torch.float32)

    def features(self, pixels):
        return torch.relu(self.body(pixels))

    def forward(self, images):
        return self.head(self.features(images.mean(1).flatten(1)))
"""
TEACHER = ("--teacher", "digit_nets:Network", "--image-size", 8, "--mean", 0, "--std", 1, "--threads", 1)
BETA = ("--selector", "beta", "--no-beton", "--keep", "0.2")


@pytest.fixture(scope="module", autouse=True)
def network(teachers: Path) -> None:
    (teachers / "digit_nets.py").write_text(NETWORK)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("scored") / "manifest"
    prune("score", "demo:digits", *TEACHER, "--features", "-o", out)
    return out


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, prune: Run) -> Path:
    out = tmp_path_factory.mktemp("held") / "manifest"
    prune("score", "demo:digits", "--split", "test", *TEACHER, "--features", "-o", out)
    return out


def test_a_searched_draw_is_told_drawn_and_verified(scored: Path, held: Path, tmp_path: Path, prune: Run) -> None:
    out = tmp_path / "half"
    dry = prune("select", scored, *BETA, "--held-out", held, "--dry-run", "-o", out)
    assert "mode" in dry.stdout
    assert not out.exists()
    run = prune("select", scored, *BETA, "--held-out", held, "-o", out)
    assert "searched: 20 pairs of mode and sharpness" in run.stdout
    header = read_header(out)
    assert header.schema_version == "1.5"
    assert header.selection is not None
    assert header.selection.held_out == Manifest.open(held).id == header.config["held_out"]
    assert header.selection.search is not None
    assert len(header.selection.search.tried) == 20
    assert set(header.selection.parameters) == {"mode", "sharpness"}
    assert header.config["parameters"] == {"mode": "auto", "sharpness": "auto"}
    assert not list(out.glob(".search*"))
    prune("verify", out)
    assert "card/search.curve.svg" in prune("card", out).stdout
    assert "is finished already" in prune("select", scored, *BETA, "--held-out", held, "-o", out).stderr
    fixed = [f"--{name}={value}" for name, value in header.selection.parameters.items()]
    prune("select", scored, *BETA, *fixed, "-o", tmp_path / "fixed")
    for folder in (out, tmp_path / "fixed"):
        assert Manifest.open(folder).selection(["keep"]).equals(Manifest.open(out).selection(["keep"]))


def test_a_quota_by_recall_keeps_more_of_what_the_teacher_does_not_know(
    scored: Path, held: Path, tmp_path: Path, prune: Run
) -> None:
    arguments = ("--quota", "recall", "--selector", "random", "--keep", "0.3", "--no-beton", "--per-class-min", 5)
    prune("select", scored, *arguments, "--held-out", held, "-o", tmp_path / "out")
    selection, images = Manifest.open(tmp_path / "out"), Manifest.open(held)
    kept_C = np.bincount(
        selection.samples(["label"])
        .column("label")
        .to_numpy()[selection.selection(["keep"]).column("keep").to_numpy(zero_copy_only=False)],
        minlength=10,
    )
    label_M = images.samples(["label"]).column("label").to_numpy()
    hit_M = np.concatenate([logits.argmax(axis=1) for _, logits in images.logits()]) == label_M
    recall_C = np.bincount(label_M[hit_M], minlength=10) / np.bincount(label_M, minlength=10)
    assert kept_C.sum() == round(0.3 * selection.header.data.count)
    assert kept_C.min() >= 5
    assert kept_C[recall_C.argmin()] > kept_C[recall_C.argmax()]


def test_what_cannot_be_judged_is_refused(scored: Path, held: Path, tmp_path: Path, prune: Run) -> None:
    def refused(*arguments: object, code: int = 2) -> str:
        run = prune("select", scored, "--no-beton", "--keep", "0.2", *arguments, "-o", tmp_path / "out", code=code)
        assert not (tmp_path / "out").exists()
        return run.stderr

    assert "judged on images that the teacher never saw, and none are given" in refused("--selector", "beta")
    assert "quota recall is judged on images" in refused("--quota", "recall")
    assert "--held-out has no effect with selector medium" in refused("--held-out", held)
    fixed = ("--selector", "beta", "--mode", "0.5", "--sharpness", "4")
    assert "--held-out has no effect with selector beta" in refused(*fixed, "--held-out", held)
    assert "are among those of" in refused("--selector", "beta", "--held-out", scored)
    prune("index", "demo:digits", "--split", "test", "-o", tmp_path / "index")
    assert "is of kind index, not scored images" in refused("--selector", "beta", "--held-out", tmp_path / "index")
    prune("score", "demo:digits", "--split", "test", *TEACHER, "-o", tmp_path / "plain")
    assert "has no features" in refused("--selector", "beta", "--held-out", tmp_path / "plain")
    other = ("--teacher", "resnet8", "--random-weights", "--image-size", 32, "--features")
    prune("score", "demo:digits", "--split", "test", *other, "-o", tmp_path / "other")
    assert "another teacher scored" in refused("--selector", "beta", "--held-out", tmp_path / "other", code=4)


def test_a_folder_of_the_users_is_refused_before_the_search(
    scored: Path, held: Path, tmp_path: Path, prune: Run
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    run = prune("select", scored, *BETA, "--held-out", held, "-o", tmp_path / "out", code=2)
    assert "notes.txt" in run.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
