"""Softened hard labels where the teacher is unsure: by hand, stored whole or top-k, live, resumed and refused."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from trainer_support import drawn, linear_logits, stopped_at, trained, watched

from manifests.errors import UsageError
from manifests.format.top_k import top_k
from trainer.data.order import epoch_order
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.data.views import ViewRecipe
from trainer.loop.mixing import draw_mix
from trainer.loop.recipes import resolve
from trainer.losses.settings import under_flags, without_labels
from trainer.losses.unsure import is_unsure, softened
from trainer.models.build import build_model

COUNT, BATCH, BELOW, S, T = 48, 16, 0.6, 0.3, 3.0
UNSURE = {"unsure_below": BELOW, "unsure_smoothing": S, "temperature": T, "epochs": 1, "augment": "none"}

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def logits_NC():
    return np.random.default_rng(4).normal(0, 1, (COUNT, 3)).astype(np.float16)


@pytest.fixture(scope="module")
def selection(make_manifest, logits_NC):
    return make_manifest(count=COUNT, views=1, targets_NVC=logits_NC[:, None])


def configured(**flags):
    return resolve(flags, recipe="cifar", stored=StoredLabels(count=COUNT, view_count=1, image_px=8))


def rule(logits_NC, label_N, at_T_NC=None):
    """What the loss should see at T, in numpy, and where the teacher was unsure."""
    logits_NC = logits_NC.astype(np.float64)
    unsure_N = softmax(logits_NC, axis=1).max(axis=1) < BELOW
    hard_NC = (1 - S) * np.eye(logits_NC.shape[1])[label_N] + S / logits_NC.shape[1]
    soft_NC = softmax(logits_NC / T, axis=1) if at_T_NC is None else at_T_NC
    return np.where(unsure_N[:, None], hard_NC, soft_NC), unsure_N


def probabilities(watch):
    return np.concatenate([softmax(step.target / T, axis=1) for step in watch.steps])


def test_a_label_below_the_threshold_becomes_the_softened_true_class():
    p = np.array([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    logits = torch.tensor(np.log(p))
    unsure = is_unsure(logits, 0.6)
    assert unsure.tolist() == [True, False]
    got = softened(logits, torch.tensor([2, 2]), unsure, smoothing=0.3, temperature=2.0).numpy()
    # .3 spread over three classes, whatever the temperature; the sure label stays, wrong or not.
    np.testing.assert_allclose(softmax(got[0] / 2), [0.1, 0.1, 0.8], rtol=1e-12)
    np.testing.assert_allclose(got[1], np.log(p[1]))
    # The threshold is at T = 1: at T = 2 the largest of the second label is .51.
    assert softmax(np.log(p[1]) / 2).max() < 0.6
    assert is_unsure(logits, 0.5).tolist() == [False, False]


def test_a_run_is_taught_by_the_rule_and_records_how_often(selection, logits_NC, tmp_path, monkeypatch):
    label_N = open_task(selection.path).beton.columns["label"]
    with watched(monkeypatch) as watch:
        report = trained(selection, tmp_path, **UNSURE)
    want, unsure_N = rule(logits_NC, label_N)
    order = epoch_order(0, 0, COUNT)
    np.testing.assert_allclose(probabilities(watch), want[order], atol=1e-6)
    [row] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < row["unsure"] == unsure_N.mean() < 1
    assert (report["config"]["unsure_below"], report["config"]["unsure_smoothing"]) == (BELOW, S)


def test_top_k_labels_are_judged_by_their_exact_probability_at_temperature_1(make_manifest, tmp_path, monkeypatch):
    logits_NC = np.random.default_rng(5).normal(0, 2, (COUNT, 5)).astype(np.float16)
    names = ["blue", "green", "red", "x", "y"]
    manifest = make_manifest(count=COUNT, views=1, targets_NVC=logits_NC[:, None], top_k=2, class_names=names)
    label_N = open_task(manifest.path).beton.columns["label"]
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path, **UNSURE)
    completed = softmax(top_k(logits_NC, label_N, 2).logits(T) / T, axis=1)
    want, unsure_N = rule(logits_NC, label_N, completed)
    assert 5 < unsure_N.sum() < COUNT - 5
    np.testing.assert_allclose(probabilities(watch), want[epoch_order(0, 0, COUNT)], atol=1e-6)


def test_a_live_teacher_is_judged_view_by_view(selection, tmp_path, monkeypatch):
    module, info = build_model("tiny_networks:linear", class_count=3, image_px=8)
    task = open_task(selection.path)
    facts = info.preprocessing
    logits_NC = linear_logits(drawn(task, ViewRecipe(name="none"), 0), module, facts.mean, facts.std)
    below = float(np.median(softmax(logits_NC, axis=1).max(axis=1)))
    with watched(monkeypatch) as watch:
        trained(selection, tmp_path, teacher="tiny_networks:linear", **UNSURE | {"unsure_below": below})
    hard = np.isclose(np.sort(probabilities(watch), axis=1), [S / 3, S / 3, 1 - S + S / 3], atol=1e-6).all(axis=1)
    unsure_N = softmax(logits_NC, axis=1).max(axis=1) < below
    np.testing.assert_array_equal(hard, unsure_N[epoch_order(0, 0, COUNT)])


def test_labels_are_revised_replaced_and_then_mixed(selection, logits_NC, tmp_path, monkeypatch):
    label_N = open_task(selection.path).beton.columns["label"]
    with watched(monkeypatch) as watch:
        trained(selection, tmp_path, mixup=0.4, revise_eta=0.5, **UNSURE)
    p = softmax(logits_NC.astype(np.float64) / T, axis=1)
    b = (0.5 / (p.max(axis=1) - p[np.arange(COUNT), label_N] + 1))[:, None]
    want, _ = rule(logits_NC, label_N, b * p + (1 - b) * np.eye(3)[label_N])
    config = configured(mixup=0.4)
    for number, step in enumerate(watch.steps):
        rows = epoch_order(0, 0, COUNT)[number * BATCH : (number + 1) * BATCH]
        mix = draw_mix(config, epoch=0, step=number, rank=0, count=BATCH, side_px=8)
        pair = mix.share * want[rows] + (1 - mix.share) * want[rows[mix.partner_n]]
        np.testing.assert_allclose(softmax(step.target / T, axis=1), pair, atol=1e-5)


def test_a_stopped_run_goes_on_to_equal_weights(selection, tmp_path, monkeypatch):
    flags = UNSURE | {"epochs": 3, "lr": 0.05}
    trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 5):
        trained(selection, tmp_path / "stopped", **flags)
    trained(selection, tmp_path / "stopped", **flags)
    files = [(tmp_path / run / "student.safetensors").read_bytes() for run in ("whole", "stopped")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"unsure_below": 1.5}, r"--unsure-below must be in \(0, 1\], or 0 to turn it off, not 1.5"),
        ({"unsure_below": float("nan")}, r"--unsure-below must be in"),
        ({"unsure_below": 0.5, "unsure_smoothing": 0.0}, r"--unsure-smoothing must be in \(0, 1\), not 0"),
        ({"unsure_smoothing": 0.5}, r"--unsure-smoothing has no effect without --unsure-below"),
        ({"unsure_below": 0.5, "loss": "ce"}, r"--unsure-below and --loss ce contradict"),
        ({"unsure_below": 0.5, "loss": "lskd"}, r"--unsure-below and --loss lskd contradict"),
        ({"unsure_below": 0.5, "mixup": 0.2, "teacher": "resnet8"}, r"--mixup and --unsure-below contradict"),
    ],
)
def test_what_is_not_defined_is_refused(flags, told):
    with pytest.raises(UsageError, match=told):
        configured(**flags)


def test_it_needs_labels_can_be_turned_off_and_is_not_named_where_it_is_not_used(selection, tmp_path):
    with pytest.raises(UsageError, match="--unsure-below needs labels"):
        without_labels(under_flags({}, {"unsure_below": 0.5}), "x")
    assert configured(unsure_below=0.0) == configured()
    assert configured(unsure_below=0.5).unsure_smoothing == 0.1
    assert "unsure_below" not in trained(selection, tmp_path, epochs=1)["config"]
