"""Revised labels where students learn: from a selection or by flags, whole or top-k, stored or of a live teacher."""

import shutil

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.utils.data import default_collate
from trainer_support import drawn, linear_logits, trained, watched

from manifests.base.layout import BETON_NAME
from manifests.betons.reader import Beton
from manifests.errors import InputError, UsageError
from manifests.format.top_k import top_k
from manifests.manifest import commit
from trainer import PrunedDataset
from trainer.data.task import open_task
from trainer.loop.recipes import resolve
from trainer.losses.settings import under_flags
from trainer.models.build import build_model
from trainer.models.weights import save_student
from trainer.teachers.teacher_spec import TeacherSpec

COUNT, ETA, T = 48, 0.8, 3.0


pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def raw(make_manifest):
    """Labels of a teacher that is often wrong."""
    targets_NVC = np.random.default_rng(4).normal(0, 3, (COUNT, 1, 3)).astype(np.float16)
    return make_manifest(count=COUNT, views=1, targets_NVC=targets_NVC)


def relabelled(manifest, folder, **labels):
    """The same selection with other claims about its labels."""
    shutil.copytree(manifest.path, folder)
    header = manifest.header
    return commit(folder, header.model_copy(update={"labels": header.labels.model_copy(update=labels)}))


@pytest.fixture
def selected(raw, tmp_path):
    """The selection as `prune select --labels revise` leaves it."""
    return relabelled(raw, tmp_path / "selected", transform="revise", parameters={"eta": ETA, "scope": "wrong"})


def formula(target_nC, label_n, *, eta=ETA, temperature=T, scope="all"):
    """Probabilities at T that the loss should see, in numpy."""
    p = softmax(np.asarray(target_nC, np.float64) / temperature, axis=1)
    own = p[np.arange(len(p)), label_n]
    b = (eta / (p.max(axis=1) - own + 1))[:, None]
    revised = b * p + (1 - b) * np.eye(p.shape[1])[label_n]
    return np.where((own < p.max(axis=1))[:, None] | (scope == "all"), revised, p)


def seen(manifest, out, monkeypatch, **flags):
    """What a run from a manifest is taught: probabilities at T and labels, by the place of an image in the beton."""
    task = open_task(manifest.path)
    with watched(monkeypatch) as watch:
        given = under_flags(task.published_loss, {"temperature": T, "epochs": 1, "augment": "none"} | flags)
        trained(manifest, out, **given)
    images = drawn(task, task_views(task), 0)
    place = {image.tobytes(): row for row, image in enumerate(images)}
    taught = {}
    for step in watch.steps:
        for image, target in zip(step.images, step.target, strict=True):
            taught[place[image.tobytes()]] = softmax(target.astype(np.float64) / step.temperature)
    rows = np.array(sorted(taught))
    assert len(rows) == COUNT
    return np.stack([taught[row] for row in rows])


def task_views(task):
    from trainer.data.policies import TrainingViews

    return TrainingViews.of(task, policy="single", augment="none").recipe


def stored_of(manifest):
    beton = Beton.open(manifest.path / BETON_NAME)
    return beton.targets(np.arange(COUNT))[:, 0], beton.columns["label"]


def test_a_selection_brings_its_revision_at_the_temperature_of_the_run(raw, selected, tmp_path, monkeypatch):
    target_NC, label_N = stored_of(raw)
    wrong_N = target_NC.argmax(axis=1) != label_N
    assert 10 < wrong_N.sum() < 40
    got = seen(selected, tmp_path / "run", monkeypatch)
    np.testing.assert_allclose(got, formula(target_NC, label_N, scope="wrong"), atol=1e-5)
    np.testing.assert_allclose(got[~wrong_N], softmax(target_NC[~wrong_N].astype(float) / T, axis=1), atol=1e-5)


@pytest.mark.parametrize("loss", ["dkd", "lskd", "lskd-dkd", "dist"])
def test_every_loss_is_given_the_revised_label(raw, loss, tmp_path, monkeypatch):
    target_NC, label_N = stored_of(raw)
    got = seen(raw, tmp_path / "run", monkeypatch, loss=loss, revise_eta=0.5)
    np.testing.assert_allclose(got, formula(target_NC, label_N, eta=0.5), atol=1e-5)


def test_flags_win_over_the_selection_and_zero_leaves_the_labels(raw, selected, tmp_path, monkeypatch):
    target_NC, label_N = stored_of(raw)
    got = seen(selected, tmp_path / "all", monkeypatch, revise_eta=0.3, revise_scope="all")
    np.testing.assert_allclose(got, formula(target_NC, label_N, eta=0.3), atol=1e-5)
    got = seen(selected, tmp_path / "none", monkeypatch, revise_eta=0.0)
    np.testing.assert_allclose(got, softmax(target_NC.astype(float) / T, axis=1), atol=1e-5)


def test_labels_of_the_k_largest_are_revised_with_the_labels_own_logit(make_manifest, tmp_path, monkeypatch):
    logits_NVC = np.random.default_rng(5).normal(0, 3, (COUNT, 1, 3)).astype(np.float16)
    manifest = make_manifest(count=COUNT, views=1, targets_NVC=logits_NVC, top_k=1)
    label_N = Beton.open(manifest.path / BETON_NAME).columns["label"]
    # At a stored temperature and with one class in the tail beside the label, nothing of the full label is lost.
    outside = top_k(logits_NVC[:, 0], label_N, 1).class_nK[:, 0] != label_N
    assert outside.sum() > 10
    got = seen(manifest, tmp_path / "run", monkeypatch, revise_eta=ETA, temperature=2.0)
    want = formula(logits_NVC[:, 0], label_N, temperature=2.0)
    np.testing.assert_allclose(got[outside], want[outside], atol=1e-5)
    own = (np.arange(COUNT), label_N)
    np.testing.assert_allclose(got[own], want[own], atol=1e-5)


def test_a_loss_that_looks_at_the_label_by_itself_is_given_its_own_logit(make_manifest, tmp_path, monkeypatch):
    logits_NVC = np.random.default_rng(6).normal(0, 3, (COUNT, 1, 3)).astype(np.float16)
    manifest = make_manifest(count=COUNT, views=1, targets_NVC=logits_NVC, top_k=1)
    own = (np.arange(COUNT), Beton.open(manifest.path / BETON_NAME).columns["label"])
    want = softmax(logits_NVC[:, 0].astype(float) / 2, axis=1)[own]
    got = {
        name: seen(manifest, tmp_path / name, monkeypatch, loss=name, temperature=2.0)[own] for name in ("kd", "dkd")
    }
    np.testing.assert_allclose(got["dkd"], want, atol=1e-5)
    assert np.abs(got["kd"] - want).max() > 0.05


def test_a_live_teachers_labels_are_revised_too(raw, tmp_path, monkeypatch):
    module, info = build_model("tiny_networks:linear", class_count=3, image_px=8)
    with torch.no_grad():
        module[1].weight.mul_(8)
    save_student(tmp_path / "teacher.safetensors", module, info, {})
    task = open_task(raw.path)
    facts, label_N = info.preprocessing, stored_of(raw)[1]
    logits_NC = linear_logits(drawn(task, task_views(task), 0), module, facts.mean, facts.std)
    assert (logits_NC.argmax(axis=1) != label_N).any()
    spec = TeacherSpec(network="tiny_networks:linear", checkpoint=tmp_path / "teacher.safetensors")
    flags = {"teacher": spec.network, "teacher_spec": spec}
    got = seen(raw, tmp_path / "run", monkeypatch, revise_eta=ETA, revise_scope="wrong", **flags)
    np.testing.assert_allclose(got, formula(logits_NC, label_N, scope="wrong"), atol=1e-4)


def test_the_revision_is_part_of_the_configuration(selected, tmp_path):
    task = open_task(selected.path)
    assert task.published_loss == {"revise_eta": ETA, "revise_scope": "wrong"}
    given = under_flags(task.published_loss, {"epochs": 1})
    report = trained(selected, tmp_path / "run", **given)
    assert (report["config"]["revise_eta"], report["config"]["revise_scope"]) == (ETA, "wrong")
    with pytest.raises(UsageError, match=r"another configuration.*revise_eta"):
        trained(selected, tmp_path / "run", **given | {"revise_eta": 0.5})


def test_a_preset_brings_its_loss_and_its_weights(raw, tmp_path):
    loss = {"loss": "dkd", "kd_weight": 2.0, "ce_weight": 0.5, "temperature": 2.0, "colour": "red"}
    preset = relabelled(raw, tmp_path / "preset", parameters={"loss": loss})
    task = open_task(preset.path)
    config = resolve(under_flags(task.published_loss, {}), recipe="cifar", stored=task.stored)
    assert (config.loss, config.kd_weight, config.ce_weight, config.temperature) == ("dkd", 2.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("transform", "parameters", "told"),
    [
        ("revise", {"eta": "much", "scope": "all"}, "but eta is missing"),
        ("revise", {"eta": 0.8, "scope": [1]}, "but scope is missing"),
        ("raw", {"loss": "kd"}, "not a set of weights"),
    ],
)
def test_forged_parameters_of_labels_are_an_input_error(raw, tmp_path, transform, parameters, told):
    forged = relabelled(raw, tmp_path / "forged", transform=transform, parameters=parameters)
    with pytest.raises(InputError, match=told):
        _ = open_task(forged.path).published_loss


def test_a_header_that_forgets_the_eta_is_an_input_error(raw, tmp_path):
    broken = relabelled(raw, tmp_path / "broken", transform="revise", parameters={"scope": "all"})
    with pytest.raises(InputError, match="its labels are to be revised, but eta is missing"):
        _ = open_task(broken.path).published_loss


def test_the_dataset_shows_revised_targets(raw, selected):
    target_NC, label_N = stored_of(raw)
    data = PrunedDataset(selected.path, augment="none", temperature=T)
    _, label, target, *_ = default_collate(data.__getitems__(range(COUNT)))
    assert (target.dtype, label.tolist()) == (torch.float32, label_N.tolist())
    np.testing.assert_allclose(
        softmax(target.numpy() / T, axis=1), formula(target_NC, label_N, scope="wrong"), atol=1e-5
    )
    # Without targets there is nothing to revise.
    assert not PrunedDataset(selected.path, policy="none")[0][2].any()


def test_the_dataset_asks_for_the_temperature_unless_the_preset_says_it(raw, selected, tmp_path):
    with pytest.raises(UsageError, match="revised at the temperature of the loss") as refused:
        PrunedDataset(selected.path)
    assert "temperature=4.0" in refused.value.hint
    parameters = {"eta": ETA, "scope": "all", "loss": {"temperature": T}}
    preset = relabelled(raw, tmp_path / "preset", transform="revise", parameters=parameters)
    one, other = PrunedDataset(preset.path, augment="none"), PrunedDataset(preset.path, augment="none", temperature=T)
    assert torch.equal(one[5][2], other[5][2])


@pytest.mark.parametrize("loss", ["lskd", "lskd-dkd"])
def test_labels_of_the_k_largest_cannot_be_standardised(make_manifest, loss, tmp_path):
    manifest = make_manifest(count=COUNT, views=1, top_k=2)
    with pytest.raises(UsageError, match=f"--loss {loss} standardises all 3 logits") as refused:
        trained(manifest, tmp_path / "run", loss=loss, epochs=1)
    assert "--teacher" in refused.value.hint
    assert not (tmp_path / "run").exists()
