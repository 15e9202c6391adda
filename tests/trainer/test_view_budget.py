"""Labels of different views per sample in training: each policy, both loaders, two ranks, resumed, as a dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainer_support import QUICK, ended, stopped_at, trained, two_ranks, watched

from manifests.base.layout import BETON_NAME, HEADER_NAME
from manifests.betons.labelled_views import bits_of
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.errors import InputError
from manifests.format.codes import encode
from manifests.format.header import ViewBudget
from manifests.manifest import Manifest, commit, file_entry
from trainer.data.dataset import PrunedDataset
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.order import epoch_order
from trainer.data.policies import TrainingViews
from trainer.data.task import open_task
from trainer.data.views import epoch_views
from trainer.loop.recipes import resolve
from trainer.loop.run_report import taught

COUNT, BATCH, VIEWS = 48, 16, 6

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(params=["torch", "ffcv"])
def loader(request):
    if request.param == "ffcv" and not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    return request.param


def ragged(manifest: Manifest, targets_NVC: np.ndarray, flags_NV: np.ndarray, codec: str | None = None) -> Manifest:
    """The manifest with a beton that holds only these targets."""
    beton = Beton.open(manifest.beton_path)
    names = ("label", "sample_id", "view_id", "weight", "kd_weight")
    columns = BetonColumns(**{f"{name}_N": beton.columns[name] for name in names})
    stored = [values if codec is None else encode(values, codec).words() for values in targets_NVC]
    images, path = [beton.image(row) for row in range(COUNT)], manifest.path / BETON_NAME
    write_beton(
        path,
        images,
        replace(columns, labelled_views_N=bits_of(flags_NV)),
        targets=[values[flags] for values, flags in zip(stored, flags_NV, strict=True)],
        target_shape=(VIEWS, stored[0].shape[1]),
    )
    each_N = flags_NV.sum(axis=1)
    found = {"labels": int(each_N.sum()), "least": int(each_N.min()), "most": int(each_N.max())}
    budget = ViewBudget(rule="sure", mean="3", first_views=VIEWS, temperature=1, **found)
    labels = manifest.header.labels.model_copy(update={"budget": budget, "policy": "replay"})
    (manifest.path / HEADER_NAME).unlink()
    files = [file_entry(manifest.path, BETON_NAME, COUNT)]
    return commit(manifest.path, manifest.header.model_copy(update={"labels": labels, "files": files}))


@pytest.fixture(scope="module")
def labels():
    """Targets (N, V, C) float16, no two alike, and flags (N, V) of those that are stored: 2 to 6 of each sample."""
    generator = np.random.default_rng(3)
    flags_NV = generator.random((COUNT, VIEWS)) < 0.4
    flags_NV[:, 0] = True
    flags_NV[np.arange(COUNT), generator.integers(1, VIEWS, COUNT)] = True
    flags_NV[7] = True
    return generator.normal(0, 4, (COUNT, VIEWS, 3)).astype(np.float16), flags_NV


@pytest.fixture(scope="module", params=[None, "int8"])
def stored(request, make_manifest, labels):
    """A manifest, and its labels (N, V, C) as numpy decodes them."""
    targets_NVC, flags_NV = labels
    made = make_manifest(count=COUNT, views=VIEWS, targets_NVC=targets_NVC, codec=request.param)
    manifest = ragged(made, targets_NVC, flags_NV, request.param)
    if request.param is None:
        return manifest, targets_NVC
    return manifest, np.stack([encode(values, request.param).logits() for values in targets_NVC])


def test_each_epoch_shows_one_of_a_samples_own_views(stored, labels) -> None:
    _, flags_NV = labels
    views = TrainingViews.of(open_task(stored[0].path), policy="replay")
    rows, own_N = np.arange(COUNT), flags_NV[:, 1:].sum(axis=1)
    shown = np.stack([views.of_epoch(epoch, rows)[0] for epoch in range(60)])
    for row in rows:
        want = set(np.flatnonzero(flags_NV[row, 1:]) + 1)
        for start in range(0, 60 - own_N[row], own_N[row]):
            assert set(shown[start : start + own_N[row], row]) == want, "each once, before one comes back"
    for epoch in (0, 5):
        view_n, slot_n = views.of_epoch(epoch, rows[::-1])
        assert np.array_equal(view_n, shown[epoch][::-1]), "whatever the order of the rows"
        assert np.array_equal(slot_n[::-1], [flags_NV[row, :view].sum() for row, view in enumerate(shown[epoch])])


def test_all_views_of_all_samples_are_shown_as_without_a_budget() -> None:
    view_id_n = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    for epoch in (0, 3, 11):
        assert np.array_equal(epoch_views(epoch, view_id_n, np.full(50, 8)), epoch_views(epoch, view_id_n, 8))


@pytest.mark.parametrize("policy", ["replay", "single", "mean"])
def test_the_loss_is_taught_the_labels_of_the_views_shown(
    stored, labels, loader, policy, tmp_path, monkeypatch
) -> None:
    (manifest, decoded_NVC), (_, flags_NV) = stored, labels
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "run", loader=loader, epochs=3, policy=policy, seed=0)
    target_nC = np.concatenate([step.target for step in watch.steps])
    order = np.concatenate([epoch_order(0, epoch, COUNT) for epoch in range(3)])
    views = TrainingViews.of(open_task(manifest.path), policy="replay")
    if policy == "replay":
        view_n = np.concatenate([views.of_epoch(epoch, epoch_order(0, epoch, COUNT))[0] for epoch in range(3)])
        want_nC = decoded_NVC[order, view_n]
    elif policy == "single":
        want_nC = decoded_NVC[order, 0]
    else:
        own = [decoded_NVC[row, flags_NV[row]].astype(np.float32).mean(axis=0) for row in range(COUNT)]
        want_nC = np.stack(own).astype(decoded_NVC.dtype)[order]
    np.testing.assert_allclose(
        target_nC, want_nC, rtol=2e-3 if policy == "mean" else 0, atol=1e-5 if policy == "mean" else 0
    )


def test_both_loaders_bring_the_same_bytes(stored) -> None:
    task, brought = open_task(stored[0].path), {}
    slot_n = np.maximum(task.beton.label_count_N - 1, 0)
    for kind in ["torch", *(["ffcv"] if ffcv_available()[0] else [])]:
        opened = open_loader(task.beton, kind=kind, preprocessing=task.preprocessing(8), workers=2, form=task.form)
        batches = list(opened.batches(np.arange(COUNT), target_view_n=slot_n, batch_size=BATCH))
        brought[kind] = torch.cat([batch.target for batch in batches]).numpy().tobytes()
        with pytest.raises(ValueError, match="a row has fewer targets than that of the view"):
            list(opened.batches(np.arange(COUNT), target_view_n=VIEWS - 1, batch_size=BATCH))
        opened.close()
    assert len(set(brought.values())) == 1


def test_a_resumed_run_ends_bit_equal(stored, loader, tmp_path, monkeypatch) -> None:
    options = {"student": "tiny_networks:dropout", "loader": loader, "epochs": 3, "lr": 0.05}
    trained(stored[0], tmp_path / "whole", **options)
    with stopped_at(monkeypatch, COUNT // BATCH + 2):
        trained(stored[0], tmp_path / "resumed", **options)
    trained(stored[0], tmp_path / "resumed", **options)
    name = "student.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(stored, networks, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{networks}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--manifest", stored[0].path, "--student", QUICK["student"], "--epochs", 3, "--batch-size", BATCH]
    flags += ["--lr", "0.05", "--schedule", "constant", "--device", "cpu", "--loader", "torch", "--out", "run"]
    assert [code for code, _ in ended(two_ranks(tmp_path, "-m", "trainer", *flags))] == [0, 0]
    trained(stored[0], tmp_path / "alone", epochs=3, lr=0.05, batch_size=BATCH)
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("alone", "run"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)


def test_a_dataset_gives_the_same(stored, labels) -> None:
    (manifest, decoded_NVC), (_, flags_NV) = stored, labels
    data, views = PrunedDataset(manifest), TrainingViews.of(open_task(manifest.path), policy="replay")
    for epoch in (0, 4):
        data.set_epoch(epoch)
        targets_NC = np.stack([item[2].numpy() for item in data.__getitems__(range(COUNT))])
        view_n, _ = views.of_epoch(epoch, np.arange(COUNT))
        assert flags_NV[np.arange(COUNT), view_n].all()
        assert np.array_equal(targets_NC, decoded_NVC[np.arange(COUNT), view_n].astype(np.float32))


def test_a_run_says_what_it_is_taught(stored) -> None:
    each = Beton.open(stored[0].beton_path).label_count_N
    span = f"{each.min() - 1} to {each.max() - 1}"
    told = f"replay: {span} training views of pad_crop_flip per sample, {each.mean() - 1:.4g} on average"
    facts = open_task(stored[0].path).stored
    assert taught(facts, resolve(QUICK | {"policy": "replay"}, recipe="auto", stored=facts)).startswith(told)
    said = taught(facts, resolve(QUICK | {"policy": "mean"}, recipe="auto", stored=facts))
    assert f"the {each.min()} to {each.max()} stored views of each sample, {each.mean():.4g} on average" in said


def test_a_beton_without_the_views_its_header_names_is_refused(make_manifest, labels) -> None:
    targets_NVC, flags_NV = labels
    manifest = ragged(make_manifest(count=COUNT, views=VIEWS, targets_NVC=targets_NVC), targets_NVC, flags_NV)
    header = manifest.header
    (manifest.path / HEADER_NAME).unlink()
    said = header.labels.model_copy(update={"budget": None})
    commit(manifest.path, header.model_copy(update={"labels": said}))
    with pytest.raises(InputError, match="has targets of different views of its samples, unlike its header"):
        open_task(manifest.path)
