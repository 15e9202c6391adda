"""The record of a run's dynamics: every sample in every epoch, against networks run by hand, resumed, on two ranks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import softmax
from trainer_support import QUICK, drawn, ended, linear_logits, stopped_at, trained, two_ranks

from manifests.errors import InputError, UsageError
from manifests.format.dynamics import read_dynamics
from trainer.data.order import epoch_order
from trainer.data.task import open_task
from trainer.data.views import epoch_views
from trainer.loop import record_dynamics as recording
from trainer.loop.distributed import Ranks
from trainer.loop.run_folder import RunFolder
from trainer.loop.session import EpochFacts
from trainer.models.build import build_model

COUNT, BATCH = 40, 16
"""Two steps an epoch; eight samples are left over."""
STILL = {"student": "tiny_networks:linear", "lr": 1e-12, "weight_decay": 0.0, "momentum": 0.0}
MOVING = {"student": "tiny_networks:dropout", "lr": 0.05, "schedule": "cosine", "epochs": 5}


pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=COUNT, views=3, weighted=True)


@pytest.fixture(autouse=True)
def modes(tmp_path_factory, monkeypatch):
    """Networks whose margin tells the mode they are called in: 5 in training, 2 in evaluation."""
    folder = tmp_path_factory.mktemp("modes")
    (folder / "modes.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Tells(nn.Module):\n"
        "    def __init__(self, count):\n"
        "        super().__init__()\n"
        "        self.zero = nn.Parameter(torch.zeros(count))\n"
        "    def forward(self, images):\n"
        "        row = torch.zeros(len(self.zero))\n"
        "        row[0] = 5.0 if self.training else 2.0\n"
        "        return row.repeat(len(images), 1) + 1e-9 * self.zero\n"
        "def tells(num_classes):\n    return Tells(num_classes)\n"
        "class Stubborn(Tells):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images) * float(images.sum().item() != 1.5)\n"
        "def stubborn(num_classes):\n    return Stubborn(num_classes)\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def recorded(selection, out, **flags):
    trained(selection, out, record_dynamics=True, **flags)
    return read_dynamics(out)


def weights(folder):
    return load_file(folder / "student.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def facts_of(logits, label):
    """The four columns by numpy in float64."""
    rows, one_hot = np.arange(len(label)), np.eye(logits.shape[1])[label]
    p = softmax(logits, axis=1)
    return {
        "p_y": p[rows, label],
        "margin": logits[rows, label] - np.where(one_hot > 0, -np.inf, logits).max(1),
        "correct": logits.argmax(1) == label,
        "el2n": np.linalg.norm(p - one_hot, axis=1),
    }


def agree(got, want):
    assert np.array_equal(got["correct"], want["correct"])
    for name in ("p_y", "margin", "el2n"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("flags", [{}, {"dynamic": "rs2", "keep": 0.4}, {"dynamic": "infobatch"}])
def test_every_sample_of_every_epoch_is_on_record_as_the_view_it_was_shown_in(selection, flags, tmp_path):
    dynamics = recorded(selection, tmp_path, epochs=4, **STILL, **flags)
    task = open_task(selection.path)
    module, _ = build_model("tiny_networks:linear", class_count=3, image_px=8)
    facts = task.preprocessing(8)
    shown = [drawn(task, task.stored.scored, view) for view in range(3)]
    logits_VNC = np.stack([linear_logits(images, module, facts.mean, facts.std) for images in shown])
    label, rows = task.beton.columns["label"], np.arange(COUNT)
    assert np.array_equal(dynamics.sample_id_N, rows)
    for epoch in range(4):
        view_n = epoch_views(epoch, task.beton.columns["view_id"], 3)
        agree(dynamics.epoch(epoch), facts_of(logits_VNC[view_n, rows], label))
    assert (dynamics.info.epochs_recorded, dynamics.info.rows, dynamics.info.count) == (4, COUNT, 2 * COUNT)
    assert (dynamics.info.manifest, dynamics.info.fingerprint) == (selection.id, "f" * 64)
    assert (dynamics.info.student, dynamics.info.seed) == ("tiny_networks:linear", 0)
    assert dynamics.info.columns == ("p_y", "margin", "correct", "el2n")


def test_what_is_stepped_on_is_recorded_in_training_mode_and_the_rest_in_evaluation(selection, tmp_path):
    dynamics = recorded(selection, tmp_path, epochs=2, student="modes:tells", loss="ce")
    for epoch in range(2):
        stepped = epoch_order(0, epoch, COUNT)[: COUNT // BATCH * BATCH]
        margin = np.abs(dynamics.epoch(epoch)["margin"])
        is_stepped = np.isin(np.arange(COUNT), stepped)
        np.testing.assert_allclose(margin[is_stepped], 5, atol=1e-3)
        np.testing.assert_allclose(margin[~is_stepped], 2, atol=1e-3)


@pytest.mark.parametrize("student", ["resnet8", "tiny_networks:dropout"])
def test_recording_does_not_change_what_is_learned(selection, student, tmp_path):
    flags = MOVING | {"student": student, "epochs": 3}
    plain = trained(selection, tmp_path / "plain", **flags)
    told = trained(selection, tmp_path / "told", record_grand=2, **flags)
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "told"))
    assert plain["last"] == told["last"]
    assert (plain["recorded"], told["recorded"]) == (None, {"epochs": 3, "grand_epochs": 2})
    assert plain["time"]["recording_s"] == 0
    assert told["time"]["recording_s"] > 0
    assert not (tmp_path / "plain" / "dynamics").exists()


def test_recorded_losses_move_as_the_network_learns(selection, tmp_path):
    dynamics = recorded(selection, tmp_path, **MOVING | {"student": "resnet8", "epochs": 6})
    right = [dynamics.epoch(epoch)["correct"].mean() for epoch in range(6)]
    assert right[-1] > right[0]


def files_of(run):
    return {path.name: path.read_bytes() for path in sorted((run / "dynamics").rglob("*")) if path.is_file()}


@pytest.mark.parametrize("flags", [{}, {"dynamic": "infobatch"}])
def test_a_stopped_run_records_the_same_bytes(selection, flags, tmp_path, monkeypatch):
    trained(selection, tmp_path / "whole", record_grand=2, **MOVING, **flags)
    for count in (3, 4):
        with stopped_at(monkeypatch, count):
            trained(selection, tmp_path / "stopped", record_grand=2, **MOVING, **flags)
    trained(selection, tmp_path / "stopped", record_grand=2, **MOVING, **flags)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")
    assert len(list((tmp_path / "whole" / "dynamics").iterdir())) == 6
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_killed_between_the_record_and_the_checkpoint_the_epoch_is_recorded_again(selection, tmp_path, monkeypatch):
    trained(selection, tmp_path / "whole", record_dynamics=True, **MOVING)
    record, left = RunFolder.record, iter((3, 2, 1))

    def killed(self, state):
        if next(left) == 1:
            raise KeyboardInterrupt
        record(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(selection, tmp_path / "stopped", record_dynamics=True, **MOVING)
    assert read_dynamics(tmp_path / "stopped").info.epochs_recorded == 3
    trained(selection, tmp_path / "stopped", record_dynamics=True, **MOVING)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")


def test_a_run_whose_record_is_gone_is_not_gone_on_with(selection, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 6):
        trained(selection, tmp_path, record_dynamics=True, **MOVING)
    for path in (tmp_path / "dynamics").rglob("*.json"):
        path.unlink()
    with pytest.raises(InputError, match=r"holds no dynamics/dynamics\.json"):
        trained(selection, tmp_path, record_dynamics=True, **MOVING)


def test_fresh_removes_an_old_record_and_leaves_other_files(selection, tmp_path):
    trained(selection, tmp_path, record_dynamics=True, **MOVING)
    (tmp_path / "dynamics" / "mine.txt").write_text("kept")
    trained(selection, tmp_path, fresh=True, **MOVING)
    assert [path.name for path in (tmp_path / "dynamics").iterdir()] == ["mine.txt"]


def test_a_cut_last_epoch_is_recorded_whole(selection, tmp_path):
    flags = {name: value for name, value in MOVING.items() if name != "epochs"}
    dynamics = recorded(selection, tmp_path, steps=3, **flags)
    assert dynamics.info.epochs_recorded == 2
    assert len(dynamics.epoch(1)["p_y"]) == COUNT


def test_the_record_says_how_many_samples_the_steps_showed(selection, tmp_path):
    assert recorded(selection, tmp_path / "all", epochs=3, **STILL).info.stepped == (32, 32, 32)
    info = recorded(selection, tmp_path / "rs2", epochs=3, **STILL, dynamic="rs2", keep=0.4).info
    # The third slice of 16 goes over the end of the first permutation of 40: a sample may be in both.
    last = np.concatenate([epoch_order(0, 0, COUNT)[32:], epoch_order(0, 1, COUNT)[:8]])
    assert info.stepped == (16, 16, len(np.unique(last)))


def test_a_record_that_began_without_that_is_gone_on_with(selection, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 3):
        trained(selection, tmp_path, record_dynamics=True, **MOVING)
    path = tmp_path / "dynamics" / "dynamics.json"
    content = json.loads(path.read_text())
    del content["stepped"]
    path.write_text(json.dumps(content))
    trained(selection, tmp_path, record_dynamics=True, **MOVING)
    assert read_dynamics(tmp_path).info.stepped is None
    assert read_dynamics(tmp_path).info.epochs_recorded == 5


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_not_finite_stops_every_rank(monkeypatch, tmp_path, rank):
    """A rank that went on would wait for the others for ten minutes."""
    monkeypatch.setattr(recording, "sample_ids", lambda task: np.arange(3))
    fact_nK = np.ones((3, 4), np.float32)
    fact_nK[1, 1] = np.nan
    student = SimpleNamespace(model=torch.nn.Identity(), device=torch.device("cpu"))
    session = SimpleNamespace(
        student=student,
        seen=EpochFacts(row_n=np.arange(3), fact_nK=fact_nK),
        look=lambda row_n, number: iter(()),
        task=None,
        config=SimpleNamespace(record_grand=0, record_kl=False),
        predictions=None,
        # Of a world of one process nothing is sent; which rank it is says who writes.
        ranks=Ranks(rank=rank, world_size=1),
    )
    recorder = recording.Recorder(session, SimpleNamespace(path=tmp_path), epochs_done=0)
    with pytest.raises(InputError, match="margin of sample 1 is not finite"):
        recorder(0)
    assert list(tmp_path.iterdir()) == []


def test_gradient_norms_are_of_view_0_after_the_epoch(selection, tmp_path):
    trained(selection, tmp_path, record_grand=2, epochs=3, **QUICK | {"student": "resnet8", "lr": 0.05})
    trained(selection, tmp_path / "two", epochs=2, **QUICK | {"student": "resnet8", "lr": 0.05})
    task = open_task(selection.path)
    model, _ = build_model("resnet8", class_count=3, checkpoint=tmp_path / "two" / "student.safetensors")
    model.eval()
    facts, label = task.preprocessing(8), torch.from_numpy(task.beton.columns["label"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.mean, facts.std))
    images = (torch.from_numpy(drawn(task, task.stored.scored, 0)).float() / 255 - mean) / std
    want = []
    for row in range(COUNT):
        loss = torch.nn.functional.cross_entropy(model(images[row : row + 1]), label[row : row + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        want.append(float(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()))
    dynamics = read_dynamics(tmp_path)
    np.testing.assert_allclose(dynamics.epoch(1)["grand"], want, rtol=1e-3, atol=1e-5)
    assert ["grand" in dynamics.epoch(epoch) for epoch in range(3)] == [True, True, False]
    assert dynamics.info.grand_epochs == 2
    assert not np.allclose(dynamics.epoch(0)["grand"], want, rtol=1e-2)


def test_a_network_that_has_no_gradient_a_sample_is_refused_before_the_first_step(selection, tmp_path):
    with pytest.raises(UsageError, match="modes:stubborn cannot be differentiated sample by sample") as caught:
        trained(selection, tmp_path, record_grand=1, epochs=1, loss="ce", student="modes:stubborn")
    assert "--record-dynamics alone" in str(caught.value)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_beton_that_does_not_name_its_samples_is_refused(selection, monkeypatch):
    task = open_task(selection.path)
    monkeypatch.delitem(task.beton.columns, "sample_id")
    with pytest.raises(UsageError, match="does not say which samples its rows are"):
        recording.sample_ids(task)


def test_rows_in_any_order_are_recorded_by_ascending_sample(selection, tmp_path, monkeypatch):
    straight = recorded(selection, tmp_path / "straight", epochs=2, **STILL)
    shuffled = np.random.default_rng(0).permutation(COUNT) * 3
    monkeypatch.setattr(recording, "sample_ids", lambda task: shuffled)
    turned = recorded(selection, tmp_path / "turned", epochs=2, **STILL)
    assert np.array_equal(turned.sample_id_N, np.arange(COUNT) * 3)
    for name, values in turned.epoch(1).items():
        assert np.array_equal(values[shuffled // 3], straight.epoch(1)[name])


@pytest.mark.slow
def test_two_ranks_record_what_one_process_does(selection, tiny_networks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny_networks))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = {"student": "tiny_networks:plain", "lr": 0.05, "schedule": "cosine", "epochs": 3, "record_grand": 1}
    trained(selection, tmp_path / "one", dynamic="rs2", keep=0.9, **flags)
    args = ["--manifest", selection.path, "--batch-size", BATCH, "--device", "cpu", "--loader", "torch"]
    args += ["--dynamic", "rs2", "--keep", "0.9", "--workers", 1]
    args += [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value)]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *args, "--out", tmp_path / "two"))
    assert [code for code, _ in ranks] == [0, 0], ranks
    one, two = read_dynamics(tmp_path / "one"), read_dynamics(tmp_path / "two")
    assert (one.info.epochs_recorded, two.info.epochs_recorded) == (3, 3)
    for epoch in range(3):
        for name, values in one.epoch(epoch).items():
            np.testing.assert_allclose(two.epoch(epoch)[name], values, rtol=1e-3, atol=1e-5)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["recorded"] == {"epochs": 3, "grand_epochs": 1}
