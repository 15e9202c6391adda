"""How far predictions move, on record: against networks run by hand, resumed, on two ranks."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import softmax
from trainer_support import drawn, ended, linear_logits, stopped_at, trained, two_ranks

from manifests.errors import InputError, UsageError
from manifests.format.dynamics import read_dynamics
from trainer.data.task import open_task
from trainer.data.views import epoch_views
from trainer.loop.distributed import Ranks
from trainer.loop.predictions import Predictions
from trainer.loop.run_folder import RunFolder
from trainer.models.build import build_model

COUNT, BATCH = 40, 16
STILL = {"student": "tiny_networks:linear", "lr": 1e-12, "weight_decay": 0.0, "momentum": 0.0}
MOVING = {"student": "tiny_networks:dropout", "lr": 0.05, "schedule": "cosine", "epochs": 5}

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=COUNT, views=3, weighted=True)


def files_of(run):
    return {path.name: path.read_bytes() for path in sorted((run / "dynamics").rglob("*")) if path.is_file()}


def test_a_change_by_hand(tmp_path):
    (tmp_path / "dynamics").mkdir()
    store = Predictions(tmp_path, (2, 2), Ranks(), epochs_done=0)
    for epoch, first in enumerate(([0.0, 0.0], [np.log(3), 0.0])):
        store.begin(epoch)
        store.add(np.array([1, 0]), torch.tensor([[1.0, 1.0], first]))
    # From (1/2, 1/2) to (3/4, 1/4): 3/4 log 3/2 + 1/4 log 2. The other one stays, to the last bit.
    np.testing.assert_allclose(store.changes(1), [0.75 * np.log(1.5) + 0.25 * np.log(2), 0], rtol=1e-3)
    assert store.changes(1)[1] == 0
    store.begin(2)
    assert sorted(files_of(tmp_path)) == ["log-p-0001.npy", "log-p-0002.npy"]
    store.remove()
    assert not files_of(tmp_path)


def test_impossible_classes_do_not_make_a_change_infinite(tmp_path):
    (tmp_path / "dynamics").mkdir()
    store = Predictions(tmp_path, (1, 2), Ranks(), epochs_done=0)
    for epoch, logits in enumerate(([200.0, 0.0], [0.0, 200.0])):
        store.begin(epoch)
        store.add(np.array([0]), torch.tensor([logits]))
    # Nothing is below 1e-8.
    np.testing.assert_allclose(store.changes(1), [8 * np.log(10)], rtol=1e-3)


@pytest.mark.parametrize("flags", [{}, {"dynamic": "rs2", "keep": 0.4}, {"dynamic": "infobatch"}])
def test_every_change_is_that_of_the_views_which_two_epochs_show(selection, flags, tmp_path):
    trained(selection, tmp_path, record_kl=True, epochs=4, **STILL, **flags)
    dynamics = read_dynamics(tmp_path)
    task = open_task(selection.path)
    module, _ = build_model("tiny_networks:linear", class_count=3, image_px=8)
    facts, rows = task.preprocessing(8), np.arange(COUNT)
    shown = [drawn(task, task.stored.scored, view) for view in range(3)]
    p_VNC = softmax(np.stack([linear_logits(images, module, facts.mean, facts.std) for images in shown]), axis=-1)
    p_ENC = np.stack([p_VNC[epoch_views(epoch, task.beton.columns["view_id"], 3), rows] for epoch in range(4)])
    assert "abs_kl" not in dynamics.epoch(0)
    for epoch in range(1, 4):
        now, before = np.maximum(p_ENC[epoch], 1e-8), np.maximum(p_ENC[epoch - 1], 1e-8)
        expected = np.abs(now * np.log(now / before)).sum(axis=1)
        assert expected.max() > 0.01
        np.testing.assert_allclose(dynamics.epoch(epoch)["abs_kl"], expected, rtol=2e-2, atol=3e-3)
    assert (dynamics.info.format, dynamics.info.columns[-1]) == (2, "abs_kl")
    assert not list((tmp_path / "dynamics").glob("log-p-*"))


def test_all_else_is_what_it_is_without(selection, tmp_path):
    for name, flags in (("with", {"record_kl": True}), ("without", {"record_dynamics": True})):
        trained(selection, tmp_path / name, **flags, **MOVING)
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("with", "without"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    for epoch in range(5):
        with_it, without = (read_dynamics(tmp_path / name).epoch(epoch) for name in ("with", "without"))
        assert all(np.array_equal(with_it[name], values) for name, values in without.items())
    configs = [json.loads((tmp_path / name / "run.json").read_text())["config"] for name in ("with", "without")]
    # Runs that were begun before this option existed go on.
    assert (configs[0]["record_kl"], "record_kl" in configs[1]) == (True, False)
    assert (read_dynamics(tmp_path / "without").info.format, read_dynamics(tmp_path / "without").info.has_kl) == (
        1,
        False,
    )


@pytest.mark.parametrize("flags", [{}, {"dynamic": "infobatch"}])
def test_a_stopped_run_records_the_same_bytes(selection, flags, tmp_path, monkeypatch):
    trained(selection, tmp_path / "whole", record_kl=True, **MOVING, **flags)
    # The first time in its first epoch.
    for count in (1, 3, 4):
        with stopped_at(monkeypatch, count):
            trained(selection, tmp_path / "stopped", record_kl=True, **MOVING, **flags)
        assert list((tmp_path / "stopped" / "dynamics").glob("log-p-*"))
    trained(selection, tmp_path / "stopped", record_kl=True, **MOVING, **flags)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")


def test_killed_between_the_record_and_the_checkpoint_the_epoch_is_recorded_again(selection, tmp_path, monkeypatch):
    trained(selection, tmp_path / "whole", record_kl=True, **MOVING)
    record, left = RunFolder.record, iter((3, 2, 1))

    def killed(self, state):
        if next(left) == 1:
            raise KeyboardInterrupt
        record(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(selection, tmp_path / "stopped", record_kl=True, **MOVING)
    trained(selection, tmp_path / "stopped", record_kl=True, **MOVING)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")


@pytest.mark.parametrize(("damage", "says"), [
    (lambda path: path.unlink(), r"the predictions of epoch \d, cannot be read"),
    (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read"),
    (lambda path: np.save(path, np.zeros((3, 3), np.float16)), "does not hold the predictions of this run"),
])  # fmt: skip
def test_a_run_whose_predictions_are_gone_is_not_gone_on_with(selection, damage, says, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 6):
        trained(selection, tmp_path, record_kl=True, **MOVING)
    for path in (tmp_path / "dynamics").glob("log-p-*.npy"):
        damage(path)
    with pytest.raises(InputError, match=says):
        trained(selection, tmp_path, record_kl=True, **MOVING)
    trained(selection, tmp_path, record_kl=True, fresh=True, **MOVING)


def test_ranks_of_several_machines_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--record-kl: 4 of 8 processes are on this machine"):
        Predictions(tmp_path, (2, 2), Ranks(rank=1, world_size=8, local_world_size=4), epochs_done=0)


@pytest.mark.slow
def test_two_ranks_record_what_one_process_does(selection, tiny_networks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny_networks), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = {"student": "tiny_networks:plain", "lr": 0.05, "schedule": "cosine", "epochs": 3}
    trained(selection, tmp_path / "one", dynamic="rs2", keep=0.9, record_kl=True, **flags)
    args = ["--manifest", selection.path, "--batch-size", BATCH, "--device", "cpu", "--loader", "torch"]
    args += ["--dynamic", "rs2", "--keep", "0.9", "--workers", 1, "--record-kl"]
    args += [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value)]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *args, "--out", tmp_path / "two"))
    assert [code for code, _ in ranks] == [0, 0], ranks
    one, two = read_dynamics(tmp_path / "one"), read_dynamics(tmp_path / "two")
    for epoch in (1, 2):
        np.testing.assert_allclose(two.epoch(epoch)["abs_kl"], one.epoch(epoch)["abs_kl"], rtol=2e-2, atol=3e-3)
