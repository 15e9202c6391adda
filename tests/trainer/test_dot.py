"""DOT: against two buffers written out by hand, in runs that are stopped or shared by ranks, and in fp16's scaling."""

import json
import math
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F
from trainer_support import ended, stopped_at, trained, two_ranks

from manifests.errors import UsageError
from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.data.order import Stream, epoch_order, stream_seed
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.loop.distributed import Ranks
from trainer.loop.dot import DOT, keep_kd_gradients
from trainer.loop.recipes import resolve
from trainer.models.build import build_model

pytestmark = pytest.mark.usefixtures("tiny_networks")
LEARNS = {"lr": 0.05, "schedule": "cosine", "augment": "none", "weight_decay": 1e-2}
OFF = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture(scope="module")
def selection(make_manifest):
    """6 steps of 16 an epoch."""
    return make_manifest(count=96, views=1, weighted=True)


def config(**flags):
    return resolve(flags, recipe="cifar", stored=StoredLabels(count=100, image_px=32, view_count=1))


def distance(one, two):
    one, two = (load_file(folder / "student.safetensors") for folder in (one, two))
    return max(float(np.abs(one[name].astype(np.float64) - two[name]).max()) for name in one)


def stepped(optimizer, weight, task, kd):
    """One step whose gradients are these numbers."""
    weight.grad = None
    scale = keep_kd_gradients(optimizer, OFF, Ranks(), (weight * task).sum(), (weight * kd).sum())
    scale.backward()
    optimizer.step()


def test_two_steps_by_hand():
    # mu 0.5, delta 0.25: buffers decay by 0.25 and 0.75. lr 1, decay 0.5, weight 2.
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = DOT([weight], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.5, nesterov=False)
    # v_task = 1 + 0.5 * 2 = 2, v_kd = 4: 2 - 2 - 4 = -4
    stepped(optimizer, weight, 1.0, 4.0)
    assert weight.tolist() == [-4.0]
    # v_task = 0.25 * 2 + 1 + 0.5 * -4 = -0.5, v_kd = 0.75 * 4 + 8 = 11: -4 + 0.5 - 11 = -14.5
    stepped(optimizer, weight, 1.0, 8.0)
    assert weight.tolist() == [-14.5]
    assert {name: buffer.tolist() for name, buffer in optimizer.state[weight].items()} == {
        "momentum_buffer": [-0.5],
        "kd_momentum_buffer": [11.0],
    }


def test_nesterov_looks_ahead_in_each_buffer_by_hand():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = DOT([weight], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.0, nesterov=True)
    # 1 + 0.25 * 1 and 4 + 0.75 * 4.
    stepped(optimizer, weight, 1.0, 4.0)
    assert weight.tolist() == [2 - 1.25 - 7]


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_a_difference_it_is_sgd(nesterov):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(6, dtype=torch.float64)) for _ in range(2))
    values = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    dot, sgd = DOT([ours], **values, delta=0.0), torch.optim.SGD([theirs], **values)
    for _ in range(8):
        task, kd = torch.randn(2, 6, dtype=torch.float64)
        stepped(dot, ours, task, kd)
        theirs.grad = task + kd
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_the_network_does_not_use_stays():
    used, idle = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = DOT([idle, used], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.5, nesterov=False)
    stepped(optimizer, used, 1.0, 1.0)
    assert (idle.item(), used.item()) == (1.0, -1.5)


def by_hand(selection, epochs, delta, nesterov, hard=()):
    """The network after runs of DOT on view 0 in float64, with one backward pass per term and two plain buffers."""
    task = open_task(selection.path)
    torch.manual_seed(stream_seed(0, Stream.INIT))
    model, _ = build_model("tiny_networks:plain", class_count=3, image_px=8, pretrained=False)
    model = model.double()
    stored = np.stack([task.beton.pixels(row) for row in range(96)]).astype(np.float64) / 255
    facts = task.preprocessing(task.image_px)
    pixels = torch.from_numpy(((stored - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2))
    target = torch.from_numpy(task.beton.targets(np.arange(96))[:, 0].astype(np.float64))
    columns = {name: torch.from_numpy(values) for name, values in task.beton.columns.items() if name != "view_id"}
    label, weight, a = columns["label"], columns["weight"].double(), 0.7 * columns["kd_weight"].double()
    slow, fast = ([torch.zeros_like(each) for each in model.parameters()] for _ in range(2))
    losses = []
    for step in range(6 * epochs):
        rows = epoch_order(0, step // 6, 96)[16 * (step % 6) :][:16]
        logits = model(pixels[rows])
        ce = F.cross_entropy(logits, label[rows], reduction="none")
        kl = F.kl_div((logits / 4).log_softmax(1), (target[rows] / 4).softmax(1), reduction="none").sum(1)
        if step // 6 in hard:
            smoothed = F.cross_entropy(logits, label[rows], reduction="none", label_smoothing=0.8)
            ce, kl, share = smoothed, 0 * kl, torch.zeros(len(rows))
        else:
            share = a[rows]
        terms = (weight * 1)[rows] * (1 - share) * ce, weight[rows] * share * 16 * kl
        gradients = []
        for term in terms:
            model.zero_grad()
            term.mean().backward(retain_graph=True)
            gradients.append([each.grad.clone() for each in model.parameters()])
        losses.append(float((terms[0] + terms[1]).detach().mean()))
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / (6 * epochs)))
        with torch.no_grad():
            for number, each in enumerate(model.parameters()):
                g_task, g_kd = gradients[0][number] + 1e-2 * each, gradients[1][number]
                slow[number] = (0.9 - delta) * slow[number] + g_task
                fast[number] = (0.9 + delta) * fast[number] + g_kd
                v_task, v_kd = slow[number], fast[number]
                if nesterov:
                    v_task, v_kd = g_task + (0.9 - delta) * v_task, g_kd + (0.9 + delta) * v_kd
                each.sub_(rate * (v_task + v_kd))
    return model, np.mean(losses[-6:])


@pytest.mark.parametrize(("delta", "nesterov"), [(0.075, False), (0.09, True)])
def test_a_run_is_the_loop_written_out_by_hand(selection, delta, nesterov, tmp_path):
    flags = {"kd_weight": 0.7, "dot": delta, "nesterov": nesterov}
    report = trained(selection, tmp_path, epochs=3, **LEARNS | flags)
    want, loss = by_hand(selection, 3, delta, nesterov)
    got, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    for ours, theirs in zip(got.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    assert report["last"]["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert report["config"]["dot"] == delta


def test_in_a_phase_of_hard_labels_the_buffer_of_the_kd_term_fades(selection, tmp_path):
    flags = {"kd_weight": 0.7, "dot": 0.075, "label_schedule": "soft:1,hard:1,soft:1", "hard_cutmix": 0.0}
    trained(selection, tmp_path, epochs=3, **LEARNS | flags)
    want, _ = by_hand(selection, 3, 0.075, False, hard=(1,))
    got, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    for ours, theirs in zip(got.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_a_stopped_run_goes_on_to_equal_weights_with_both_buffers(selection, tmp_path, monkeypatch):
    flags = {"student": "tiny_networks:dropout", "loss": "dkd", "dot": 0.075, "epochs": 4} | LEARNS
    whole = trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 15):
        trained(selection, tmp_path / "stopped", **flags)
    path = tmp_path / "stopped" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    assert {*content["optimizer"]["state"][0]} == {"momentum_buffer", "kd_momentum_buffer"}
    resumed = trained(selection, tmp_path / "stopped", **flags)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]
    assert resumed["last"] == whole["last"]
    with pytest.raises(UsageError, match=r"another configuration \(dot: 0.075 there, null now\)"):
        trained(selection, tmp_path / "stopped", **flags | {"dot": None})


def test_0_turns_it_off_and_leaves_no_trace(selection, tmp_path):
    plain, off = (trained(selection, tmp_path / str(dot), epochs=1, dot=dot) for dot in (None, 0.0))
    assert plain["digest"] == off["digest"]
    assert "dot" not in plain["config"]


def test_two_ranks_average_both_gradients(selection, tiny_networks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny_networks), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = {"student": "tiny_networks:plain", "dot": 0.09, "epochs": 3} | LEARNS
    trained(selection, tmp_path / "one", **flags)
    trained(selection, tmp_path / "plain", **flags | {"dot": None})
    args = ["--manifest", selection.path, "--batch-size", 16, "--device", "cpu", "--loader", "torch", "--workers", 1]
    args += [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value)]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *args, "--out", tmp_path / "two"))
    assert [code for code, _ in ranks] == [0, 0], ranks
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-5
    assert distance(tmp_path / "plain", tmp_path / "two") > 1e-3
    assert json.loads((tmp_path / "two" / "run.json").read_text())["world_size"] == 2


@pytest.mark.parametrize("overflows", ["task", "kd", "neither"])
def test_with_gradients_scaled_for_fp16_a_step_is_taken_or_left_out_as_a_whole(overflows):
    weight = torch.nn.Parameter(torch.tensor([2.0, 1.0]))
    optimizer = DOT([weight], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.0, nesterov=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    factor = {name: torch.tensor([1.0, torch.inf if name == overflows else 2.0]) for name in ("task", "kd")}
    losses = [(weight * factor[name]).sum() for name in ("task", "kd")]
    scaler.scale(keep_kd_gradients(optimizer, scaler, Ranks(), *losses)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == ([0.0, -3.0] if overflows == "neither" else [2.0, 1.0])
    assert scaler.get_scale() == (8.0 if overflows == "neither" else 4.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optimizer": "adamw"}, "--dot and --optimizer adamw contradict each other"),
        ({"loss": "ce"}, "--dot parts the gradients of a cross-entropy and a KD term, and --loss ce has none"),
        ({"kd_weight": 0.0}, "and --kd-weight is 0"),
        ({"ce_weight": 0.0}, "and --ce-weight is 0"),
        ({"dot": 0.1}, r"--dot must be above 0, and within \[0, 1\) .* the momentum 0.9, not 0.1"),
        ({"dot": 0.4, "momentum": 0.3}, r"--dot must be .* the momentum 0.3, not 0.4"),
        ({"dot": -0.05}, "--dot must be above 0, .* not -0.05"),
        ({"dot": math.nan}, "--dot must be above 0, .* not nan"),
    ],
)
def test_what_has_no_two_buffers_is_refused_with_the_flag(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**{"dot": 0.075} | flags)


def test_the_run_tells_both_momenta(selection, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_cli(train_student, ["--manifest", str(selection.path), "--dry-run", "--dot", "0.075"])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    assert "DOT: momentum 0.825 for the cross-entropy's gradient, 0.975 for that of the KD term" in err
    assert json.loads(out)["dot"] == 0.075
