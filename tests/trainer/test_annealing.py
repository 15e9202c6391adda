"""Temperature and KD weight that change over a run: by hand, against numpy, resumed and refused."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from trainer_support import stopped_at, trained, watched

from manifests.errors import UsageError
from manifests.format.top_k import TEMPERATURES, top_k
from trainer.cli.train_student import annealed_number
from trainer.data.order import epoch_order
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.loop.epoch_config import epoch_config
from trainer.loop.recipes import resolve
from trainer.loop.run_report import interpolated
from trainer.losses.annealing import Ramp
from trainer.losses.settings import described
from trainer.models.build import build_model

COUNT, BATCH = 48, 16

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=COUNT, views=1, weighted=True)


def configured(**flags):
    return resolve(flags, recipe="cifar", stored=StoredLabels(count=COUNT, view_count=1, image_px=8))


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def values(text, epochs=5):
    ramp = Ramp.parse(text, "--temperature")
    return [ramp.at(epoch, epochs) for epoch in range(epochs)]


def test_the_first_epoch_has_one_value_and_the_last_the_other():
    assert values("4:1") == [4, 3.25, 2.5, 1.75, 1]
    half = 1.5 * 0.5**0.5
    assert values("4:1:cosine") == pytest.approx([4, 2.5 + half, 2.5, 2.5 - half, 1])
    assert values("4:1:step") == [4, 4, 1, 1, 1]
    assert values(".5:.9", epochs=4) == pytest.approx([0.5, 0.5 + 0.4 / 3, 0.5 + 0.8 / 3, 0.9])
    assert values("4:1", epochs=1) == [4]
    assert Ramp.parse("4:1", "--temperature").at(30, 5) == 1


def test_an_epoch_is_trained_with_the_values_it_has():
    config = configured(epochs=5, temperature="4:1", kd_weight="0.9:0.5:step")
    assert (config.temperature, config.kd_weight) == (4, 0.9)
    third = epoch_config(config, 2)
    assert (third.temperature, third.kd_weight, third.annealed) == (2.5, 0.5, None)
    constant = configured(epochs=5)
    assert epoch_config(constant, 2) is constant


def test_a_ramp_without_a_slope_is_the_constant(selection, tmp_path):
    assert configured(epochs=5, temperature="4:4", kd_weight="0.5") == configured(epochs=5, kd_weight=0.5)
    assert "annealed" not in trained(selection, tmp_path, epochs=1)["config"]


def test_the_loss_of_every_epoch_is_that_of_its_temperature_and_weight(selection, tmp_path):
    flags = {"epochs": 3, "augment": "none", "temperature": "4:1", "kd_weight": "0.2:0.8"}
    report = trained(selection, tmp_path, lr=1e-12, weight_decay=0.0, **flags)
    task = open_task(selection.path)
    model, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    facts, columns, rows = task.preprocessing(8), task.beton.columns, np.arange(COUNT)
    pixels = np.stack([task.beton.pixels(row) for row in rows]).astype(np.float64) / 255
    inputs = ((pixels - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        z = model.double()(torch.from_numpy(inputs)).numpy()
    target, ce = task.beton.targets(rows)[:, 0].astype(np.float64), -log_softmax(z, 1)[rows, columns["label"]]
    history = rows_of(tmp_path)
    for row, t, alpha in zip(history, (4, 2.5, 1), (0.2, 0.5, 0.8), strict=True):
        kl = rel_entr(softmax(target / t, axis=1), softmax(z / t, axis=1)).sum(1)
        a = alpha * columns["kd_weight"]
        assert (row["temperature"], row["kd_weight"]) == (t, pytest.approx(alpha))
        want = (columns["weight"] * ((1 - a) * ce + a * t**2 * kl)).mean()
        assert row["train_loss"] == pytest.approx(want, rel=1e-5)
    assert report["config"]["annealed"] == {
        "temperature": {"to": 1, "shape": "linear"},
        "kd_weight": {"to": 0.8, "shape": "linear"},
    }
    assert (report["config"]["temperature"], report["config"]["kd_weight"]) == (4, 0.2)


def test_labels_are_revised_and_completed_at_the_temperature_of_the_epoch(make_manifest, tmp_path, monkeypatch):
    logits_NC = np.random.default_rng(5).normal(0, 3, (COUNT, 5)).astype(np.float16)
    manifest = make_manifest(
        count=COUNT, views=1, targets_NVC=logits_NC[:, None], top_k=2, class_names=["blue", "green", "red", "x", "y"]
    )
    label_N = open_task(manifest.path).beton.columns["label"]
    labels = top_k(logits_NC, label_N, 2)
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "raw", epochs=3, augment="none", temperature="4:1")
        trained(manifest, tmp_path / "revised", epochs=3, augment="none", temperature="4:1", revise_eta=0.8)
    for step, seen in enumerate(watch.steps):
        epoch, t = divmod(step % 9, 3)[0], (4, 2.5, 1)[step % 9 // 3]
        rows = epoch_order(0, epoch, COUNT)[step % 3 * BATCH : (step % 3 + 1) * BATCH]
        assert seen.temperature == t
        got = softmax(seen.target / t, axis=1)
        if step < 9:
            np.testing.assert_allclose(got, softmax(labels[rows].logits(t) / t, axis=1), atol=1e-6)
        else:
            assert (got.argmax(axis=1) == label_N[rows]).all()
            # The bound of a revised label: where the true class led, eta of the teacher's answer is left.
            led = labels.class_nK[rows, 0] == label_N[rows]
            p = softmax(labels[rows].logits(t) / t, axis=1)[led]
            own = (np.arange(led.sum()), label_N[rows][led])
            np.testing.assert_allclose(got[led][own], 0.8 * p[own] + 0.2, atol=1e-5)


def test_a_stopped_run_goes_on_to_equal_weights(selection, tmp_path, monkeypatch):
    flags = {"epochs": 4, "lr": 0.05, "temperature": "6:1:cosine", "kd_weight": "0.9:0.1"}
    whole = trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 8):
        trained(selection, tmp_path / "stopped", **flags)
    assert trained(selection, tmp_path / "stopped", **flags)["last"] == whole["last"]
    files = [(tmp_path / run / "student.safetensors").read_bytes() for run in ("whole", "stopped")]
    assert files[0] == files[1]
    with pytest.raises(UsageError, match=r"another configuration.*annealed"):
        trained(selection, tmp_path / "whole", **flags | {"temperature": "6:1"})


def test_a_run_says_what_it_anneals(selection, tmp_path, capsys):
    assert described(configured(epochs=9, temperature="4:1:cosine")) == "kd (kd 0.9, T 4:1:cosine)"
    assert described(configured(epochs=9, kd_weight="0.9:0.5")) == "kd (kd 0.9:0.5, T 4)"
    trained(selection, tmp_path, epochs=2, temperature="4:1")
    err = capsys.readouterr().err
    assert "  T 4  " in err
    assert "  T 1  " in err


def test_labels_of_the_k_largest_say_when_their_rest_is_interpolated():
    told = "labels of the 5 largest logits: their rest is stored for T 0.5, 1, 2, 4 and interpolated between these"
    for t in TEMPERATURES:
        assert interpolated(configured(temperature=t), 5) is None
    assert interpolated(configured(temperature=2.7), 5) == told
    assert interpolated(configured(temperature="4:1", epochs=9), 5) == told
    assert interpolated(configured(temperature=2.7), None) is None
    assert interpolated(configured(temperature=2.7, loss="ce"), 5) is None
    assert interpolated(configured(temperature=2.7, teacher="resnet8"), 5) is None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"temperature": "4:"}, r"--temperature '4:' is not FROM:TO"),
        ({"temperature": "4:1:cosine:2"}, r"is not FROM:TO or FROM:TO:SHAPE"),
        ({"temperature": "4:inf"}, r"is not FROM:TO"),
        ({"temperature": "hot"}, r"--temperature 'hot' is not a number, nor FROM:TO"),
        ({"temperature": "4:1:sine"}, r"--temperature 4:1:sine: 'sine' is not a known shape"),
        ({"temperature": "4:0"}, r"--temperature must be above 0, not 0"),
        ({"temperature": "-4:1"}, r"--temperature must be above 0, not -4"),
        ({"kd_weight": ".9:1.5"}, r"--kd-weight must be in \[0, 1\], not 1.5"),
        ({"kd_weight": ".9:.5", "loss": "ce"}, r"--kd-weight 0.9:0.5 and --loss ce contradict"),
        ({"temperature": "4:1", "epochs": 1}, r"--temperature 4:1 needs at least 2 epochs"),
    ],
)
def test_values_that_cannot_be_annealed_are_refused(flags, told):
    with pytest.raises(UsageError, match=told):
        configured(**flags)


def test_the_command_takes_numbers_and_texts_of_both():
    assert [annealed_number(value) for value in ("4", 4, " 4:1 ")] == [4.0, 4.0, "4:1"]
    assert asdict(configured(epochs=9, temperature="4:1"))["annealed"] == {"temperature": {"to": 1, "shape": "linear"}}
