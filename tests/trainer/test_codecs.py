"""Labels stored as codes reach the loss as numpy decodes them: through both loaders, under each policy, resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainer_support import QUICK, ended, stopped_at, trained, two_ranks, watched

from manifests.betons.reader import Beton
from manifests.format.codes import encode
from manifests.format.stored_form import StoredForm
from trainer.data.dataset import PrunedDataset
from trainer.data.label_decoder import LabelDecoder
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.order import epoch_order
from trainer.data.task import open_task
from trainer.data.views import MEAN_VIEW
from trainer.losses.kd import divergence

COUNT, BATCH, VIEWS = 48, 16, 3

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(params=["torch", "ffcv"])
def loader(request):
    if request.param == "ffcv" and not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    return request.param


@pytest.fixture(scope="module", params=["int8", "int4"])
def stored(request, make_manifest):
    """A manifest, and its labels (N, V, C) float32 as numpy decodes them."""
    logits_NVC = np.random.default_rng(3).normal(0, 4, (COUNT, VIEWS, 3)).astype(np.float16)
    manifest = make_manifest(count=COUNT, views=VIEWS, targets_NVC=logits_NVC, codec=request.param)
    codes = [encode(logits_NVC[:, view], request.param).logits() for view in range(VIEWS)]
    return manifest, np.stack(codes, axis=1)


def test_the_device_decodes_what_numpy_does() -> None:
    for codec in ("int8", "int4"):
        for classes in (1, 2, 3, 10, 101):
            logits_nC = np.random.default_rng(classes).normal(0, 5, (7, classes)) * np.logspace(-6, 3, 7)[:, None]
            codes, form = encode(logits_nC, codec), StoredForm(class_count=classes, codec=codec)
            words = torch.from_numpy(codes.words()).view(torch.float16)
            for rows in (slice(0, 7), slice(3, 4)):
                assert np.array_equal(LabelDecoder(form)(words[rows], 4.0).numpy(), codes.logits()[rows])
    with pytest.raises(ValueError, match="53 words per row expected for 101 logits as int8"):
        LabelDecoder(StoredForm(class_count=101, codec="int8"))(words, 1.0)


@pytest.mark.parametrize("view", [0, 2, MEAN_VIEW])
def test_both_loaders_bring_the_same_words(stored, view) -> None:
    manifest, decoded_NVC = stored
    task = open_task(manifest.path)
    want_NC = decoded_NVC.mean(axis=1) if view == MEAN_VIEW else decoded_NVC[:, view]
    brought = {}
    for kind in ["torch", *(["ffcv"] if ffcv_available()[0] else [])]:
        loader = open_loader(task.beton, kind=kind, preprocessing=task.preprocessing(8), workers=1, form=task.form)
        batches = list(loader.batches(np.arange(COUNT), target_view_n=view, batch_size=BATCH))
        target = torch.cat([batch.target for batch in batches])
        loader.close()
        assert np.array_equal(LabelDecoder(task.form)(target, 1.0).numpy(), want_NC)
        brought[kind] = target.numpy().tobytes()
    assert len(set(brought.values())) == 1


@pytest.mark.parametrize("policy", ["replay", "single", "mean"])
def test_the_loss_is_taught_what_numpy_decodes(stored, loader, policy, tmp_path, monkeypatch) -> None:
    manifest, decoded_NVC = stored
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "run", loader=loader, epochs=2, policy=policy, seed=0)
    target_nC = np.concatenate([step.target for step in watch.steps])
    order = np.concatenate([epoch_order(0, epoch, COUNT) for epoch in range(2)])
    if policy == "replay":
        found = [
            (decoded_NVC[row] == target).all(axis=1).nonzero()[0] for row, target in zip(order, target_nC, strict=True)
        ]
        assert {int(views[0]) for views in found} == {1, 2}
        return
    want_NC = decoded_NVC[:, 0] if policy == "single" else decoded_NVC.mean(axis=1)
    assert np.array_equal(target_nC, want_NC[order])


def test_the_loss_of_decoded_labels_is_that_of_numpys(stored) -> None:
    manifest, decoded_NVC = stored
    form = StoredForm.of(manifest.header.labels, 3)
    words_NW = Beton.open(manifest.beton_path).targets(np.arange(COUNT))[:, 1]
    student_NC = np.random.default_rng(5).normal(0, 1, (COUNT, 3)).astype(np.float32)
    target_NC = LabelDecoder(form)(torch.from_numpy(words_NW), 4.0)
    got_N = divergence(torch.from_numpy(student_NC) / 4, target_NC / 4)

    def log_softmax(logits_NC):
        return logits_NC / 4 - np.log(np.exp(logits_NC / 4).sum(axis=1, keepdims=True))

    teacher_NC, student_NC = (log_softmax(each.astype(np.float64)) for each in (decoded_NVC[:, 1], student_NC))
    want_N = (np.exp(teacher_NC) * (teacher_NC - student_NC)).sum(axis=1)
    np.testing.assert_allclose(got_N.numpy(), want_N, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_ends_bit_equal(stored, loader, tmp_path, monkeypatch) -> None:
    manifest, _ = stored
    options = {"student": "tiny_networks:dropout", "loader": loader, "epochs": 3, "lr": 0.05}
    trained(manifest, tmp_path / "whole", **options)
    with stopped_at(monkeypatch, COUNT // BATCH + 2):
        trained(manifest, tmp_path / "resumed", **options)
    trained(manifest, tmp_path / "resumed", **options)
    name = "student.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


@pytest.mark.slow
def test_two_ranks_learn_from_codes_what_they_learn_from_the_same_logits(
    make_manifest, networks, tmp_path, monkeypatch
) -> None:
    # Whole numbers from 0 to 15 are exact in both forms.
    logits_NVC = np.random.default_rng(4).permuted(np.tile([0.0, 7, 15], (COUNT, VIEWS, 1)), axis=2)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{networks}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    students = []
    for codec in (None, "int4"):
        manifest = make_manifest(count=COUNT, views=VIEWS, targets_NVC=logits_NVC, codec=codec)
        flags = ["--manifest", manifest.path, "--student", QUICK["student"], "--epochs", 3, "--batch-size", BATCH]
        flags += ["--lr", "0.05", "--device", "cpu", "--loader", "torch", "--out", f"run-{codec}"]
        assert [code for code, _ in ended(two_ranks(tmp_path, "-m", "trainer", *flags))] == [0, 0]
        students.append(load_file(tmp_path / f"run-{codec}" / "student.safetensors"))
    assert all(torch.equal(weights, students[1][name]) for name, weights in students[0].items())


@pytest.mark.parametrize("policy", ["replay", "mean"])
def test_a_dataset_gives_decoded_targets(stored, policy) -> None:
    manifest, decoded_NVC = stored
    data = PrunedDataset(manifest, policy=policy)
    targets_NC = np.stack([item[2].numpy() for item in data.__getitems__(range(COUNT))])
    assert targets_NC.dtype == np.float32
    if policy == "mean":
        assert np.array_equal(targets_NC, decoded_NVC.mean(axis=1))
    else:
        assert (targets_NC[:, None] == decoded_NVC).all(axis=2).any(axis=1).all()
