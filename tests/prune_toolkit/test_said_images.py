"""What is said of a teacher's images, from scoring to labels and students: told once, and kept by the manifest."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests_support import write_idx
from torch import nn

import prune_toolkit as pt
from manifests.errors import UsageError
from manifests.manifest import Manifest
from trainer.data.task import open_task

TEACHER = ("--teacher", "teachers:linear", "--image-size", 8, "--threads", 1)
SAID = ("--mean", "0.5", "--std", "1/2", "--resize-size", 9, "--interpolation", "bicubic")
SHOWN = {"image_px": 8, "resize_px": 9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


class Grey(nn.Module):
    """Ten logits of one channel, flattened."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 2, 1), nn.Linear(2 * 64, 10)

    def forward(self, images):
        return self.head(self.conv(images).flatten(1))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "digits"
    few = load_digits()
    write_idx(folder, (few.images[:120] * 15).astype(np.uint8), few.target[:120])
    return folder


@pytest.fixture(scope="module")
def selection(digits, prune, tmp_path_factory) -> Path:
    """Half of what a teacher scored that was said to want other images than by default."""
    folder = tmp_path_factory.mktemp("said")
    prune("score", digits, *TEACHER, *SAID, "-o", folder / "manifest")
    prune("select", folder / "manifest", "--keep", "0.5", "-o", folder / "selection")
    return folder / "selection"


def preprocessing_of(folder):
    return Manifest.open(folder).header.teacher.preprocessing.model_dump()


def test_a_selection_is_labelled_as_it_was_scored_without_the_flags(selection, prune, tmp_path):
    told = prune("label", selection, *TEACHER[:2], "--views", 2, "--threads", 1, "-o", tmp_path / "labelled").stderr
    assert preprocessing_of(selection) == preprocessing_of(tmp_path / "labelled") == SHOWN
    assert "it is assumed" not in told
    prune("label", selection, *TEACHER, *SAID, "--views", 2, "-o", tmp_path / "again")
    assert Manifest.open(tmp_path / "again").id == Manifest.open(tmp_path / "labelled").id


def test_other_images_than_those_scored_are_refused_or_another_teacher(selection, prune, tmp_path):
    refused = prune(
        "label", selection, *TEACHER[:2], "--mean", 0.4, "--threads", 1, "-o", tmp_path / "no", code=4
    ).stderr
    assert "was scored with mean [0.5, 0.5, 0.5]; now it is [0.4, 0.4, 0.4]" in refused
    assert "no flags of its images" in refused
    told = prune("label", selection, *TEACHER, "--other-teacher", "--views", 1, "-o", tmp_path / "other").stderr
    assert "it is assumed" in told
    assert preprocessing_of(tmp_path / "other")["mean"] != [0.5] * 3


def test_an_assumption_is_told_once_and_flags_come_from_prune_toml_too(digits, prune, tmp_path):
    told = prune("score", digits, *TEACHER, "--limit", 20).stderr
    assert told.count("does not say how it expects its images") == 1
    (tmp_path / "prune.toml").write_text("[score]\nmean = [0.5, 0.5, 0.5]\nstd = '1/2'\n")
    shown = json.loads(prune("score", digits, *TEACHER, "--limit", 20, "--json", cwd=tmp_path).stdout)["preprocessing"]
    assert (shown["mean"], shown["std"]) == ([0.5] * 3, [0.5] * 3)
    assert "not a list of numbers" in prune("score", digits, *TEACHER, "--mean", "x", code=2).stderr


def test_the_functions_take_what_the_commands_take(digits, selection, tmp_path):
    said = {"mean": "0.5", "std": ["1/2"], "resize_size": 9, "interpolation": "bicubic"}
    teacher = Grey()
    manifest = pt.score(digits, teacher=teacher, image_size=8, out=tmp_path / "m", **said)
    assert manifest.header.teacher.preprocessing.model_dump() == SHOWN | {"mean": [0.5], "std": [0.5]}
    chosen = pt.select(manifest, keep=0.5, out=tmp_path / "s")
    labelled = pt.label(chosen, teacher=teacher, views=2, out=tmp_path / "l")
    assert labelled.header.teacher.preprocessing == manifest.header.teacher.preprocessing
    whole = pt.Preprocessing(image_px=8, resize_px=8, mean=[0.5], std=[0.5])
    with pytest.raises(UsageError, match=r"preprocessing says all .*, and resize_size, image_size a part of it"):
        pt.score(digits, teacher=teacher, preprocessing=whole, resize_size=9, image_size=8, out=tmp_path / "n")
    with pytest.raises(UsageError, match="--mean: this describes the images of a live teacher"):
        pt.train_student(chosen, mean=0.5)


def test_a_student_of_a_grey_teacher_is_shown_colours(digits, tmp_path):
    manifest = pt.score(digits, teacher=Grey(), image_size=8, mean=0.25, std=0.5, out=tmp_path / "m")
    chosen = pt.select(manifest, keep=1.0, labels="raw", out=tmp_path / "s")
    shown = open_task(chosen).preprocessing(8)
    assert (shown.mean, shown.std) == ([0.25] * 3, [0.5] * 3)
    run = pt.train_student(chosen, student="resnet8", recipe="demo", epochs=1, device="cpu", out=tmp_path / "r")
    assert run.report["student"]["preprocessing"]["mean"] == [0.25] * 3


def test_what_is_said_of_a_live_teacher_is_part_of_the_run(digits, selection, tmp_path, monkeypatch, teachers):
    monkeypatch.syspath_prepend(teachers)
    options = {"student": "resnet8", "recipe": "demo", "epochs": 1, "device": "cpu", "out": tmp_path / "r"}
    live = {"teacher": "teachers:linear", "mean": 0.5, "std": 0.25}
    run = pt.train_student(selection, **options, **live)
    assert run.report["config"]["teacher_images"] == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert run.report["teacher"]["preprocessing"]["std"] == [0.25] * 3
    pt.train_student(selection, **options, **live | {"mean": "0.5,0.5,1/2"})
    with pytest.raises(UsageError, match="another configuration"):
        pt.train_student(selection, **options, **live | {"mean": 0.4})
    resized = pt.train_student(selection, **options, **live, fresh=True, interpolation="bilinear", resize_size=8)
    # The teacher sees the pixels that the student sees.
    assert resized.report["student"]["preprocessing"]["resize_px"] == 8
    plain = pt.train_student(selection, **options, fresh=True)
    assert "teacher_images" not in plain.report["config"]


def test_a_wrong_normalisation_is_warned_of_once(digits, tmp_path, capsys):
    class Normed(nn.Sequential):
        """Its batch normalisation has seen the digits in [0, 1]."""

        def __init__(self):
            super().__init__(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 10))
            pixels = torch.from_numpy((load_digits().images * 15 / 255).astype(np.float32))
            self[0].running_mean[:], self[0].running_var[:] = pixels.mean(), pixels.var()

    for mean, count in ((0.5, 1), (0, 0)):
        pt.score(digits, teacher=Normed(), image_size=8, mean=mean, std=mean or 1, out=tmp_path / str(count))
        assert capsys.readouterr().err.count("remembers images in [0, 1]") == count
