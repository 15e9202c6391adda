"""Whole runs of the dynamic arms: against the loop written out by hand, resumed, on two ranks, and what they report."""

import json
import math
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trainer_support import ended, stopped_at, trained, two_ranks

from trainer.cli.console import run_cli
from trainer.cli.train_student import train_student
from trainer.data.loaders import ffcv_available
from trainer.data.order import Stream, epoch_order, stream_generator, stream_seed
from trainer.data.task import open_task
from trainer.data.torch_loader import TorchLoader
from trainer.loop import training
from trainer.loop.budget import MatchTime
from trainer.loop.recipes import resolve
from trainer.models.build import build_model

COUNT = 96
DROPOUT = {"student": "tiny_networks:dropout", "lr": 0.05, "schedule": "cosine"}
ARMS = {
    "infobatch": {"dynamic": "infobatch"},
    "rs2": {"dynamic": "rs2", "keep": 0.4},
    "seta": {"dynamic": "seta", "keep": 0.7, "groups": 4},
}


pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def selection(make_manifest):
    """6 steps of 16 an epoch."""
    return make_manifest(count=COUNT, views=3, weighted=True)


def weights(folder):
    return load_file(folder / "student.safetensors")


def distance(one, two):
    assert one.keys() == two.keys()
    return max(float(np.abs(one[name].astype(np.float64) - two[name]).max()) for name in one)


def pixels_of(task):
    stored = np.stack([task.beton.pixels(row) for row in range(task.beton.count)]).astype(np.float64) / 255
    facts = task.preprocessing(task.image_px)
    return torch.from_numpy(((stored - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2))


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def by_hand(selection, epochs, ratio, anneal_epochs):
    """Weights, images shown and mean losses of InfoBatch with SGD on view 0, cross-entropy alone, in float64."""
    task = open_task(selection.path)
    torch.manual_seed(stream_seed(0, Stream.INIT))
    model, _ = build_model("tiny_networks:plain", class_count=3, image_px=8, pretrained=False)
    model = model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    pixels, columns = pixels_of(task), task.beton.columns
    label, weight = torch.from_numpy(columns["label"]), torch.from_numpy(columns["weight"]).double()
    last, shown, means = np.full(COUNT, np.nan), [], []
    for epoch in range(epochs):
        order, scale = epoch_order(0, epoch, COUNT), np.ones(COUNT)
        if 0 < epoch < epochs - anneal_epochs:
            easy = last < last.mean()
            dropped = easy & (stream_generator(0, Stream.PRUNE, epoch).random(COUNT) < ratio)
            scale[easy] = 1 / (1 - ratio)
            order = np.array([row for row in order if not dropped[row]])
        steps = len(order) // 16
        total = stands_for = 0.0
        for step in range(steps):
            rows = order[16 * step : 16 * step + 16]
            optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch + step / steps) / epochs))
            ce = torch.nn.functional.cross_entropy(model(pixels[rows]), label[rows], reduction="none")
            optimizer.zero_grad()
            terms = ce * weight[rows] * torch.from_numpy(scale[rows])
            terms.mean().backward()
            optimizer.step()
            last[rows] = ce.detach().numpy()
            total, stands_for = total + float(terms.sum().detach()), stands_for + scale[rows].sum()
        shown.append(16 * steps)
        means.append(total / stands_for)
    return model, shown, means


@pytest.mark.parametrize(("epochs", "ratio", "anneal", "full"), [(4, 0.5, 0.125, 1), (5, 0.7, 0.0, 0)])
def test_infobatch_is_the_loop_written_out_by_hand(selection, epochs, ratio, anneal, full, tmp_path):
    flags = {"loss": "ce", "augment": "none", "lr": 0.05, "schedule": "cosine", "weight_decay": 5e-4}
    arm = {"dynamic": "infobatch", "prune_ratio": ratio, "anneal": anneal}
    report = trained(selection, tmp_path, epochs=epochs, **flags, **arm)
    model, shown, means = by_hand(selection, epochs, ratio, full)
    saved, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    for want, got in zip(model.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)
    rows = rows_of(tmp_path)
    assert [row["samples_shown"] for row in rows] == shown
    assert [row["train_loss"] for row in rows] == pytest.approx(means, rel=1e-5)
    assert min(shown[1 : epochs - full]) < COUNT
    assert (report["samples_shown"], report["steps"]) == (sum(shown), sum(shown) // 16)
    assert (report["steps_at_most"], report["steps_per_epoch"], report["dynamic"]) == (6 * epochs, 6, "infobatch")
    assert report["time"]["images_per_s"] == pytest.approx(sum(shown) / report["time"]["training_s"])


@pytest.mark.parametrize("arm", ARMS)
def test_the_loader_is_asked_for_what_is_shown_and_for_nothing_else(selection, arm, tmp_path, monkeypatch):
    asked, batches = [], TorchLoader.batches

    def watched(self, rows_n, **options):
        asked.append(rows_n.copy())
        return batches(self, rows_n, **options)

    monkeypatch.setattr(TorchLoader, "batches", watched)
    report = trained(selection, tmp_path, epochs=5, **DROPOUT, **ARMS[arm])
    warm_up, *epochs = asked
    assert len(warm_up) == 16
    shown = [row["samples_shown"] for row in rows_of(tmp_path)]
    assert [len(rows) for rows in epochs] == shown
    assert sum(shown) == report["samples_shown"] < 5 * COUNT
    if arm == "rs2":
        # 38.4 of 96 is 38: two batches of 16. No sample comes twice before all came once.
        assert shown == [32] * 5
        assert sorted(np.concatenate(epochs[:3])) == list(range(COUNT))


@pytest.mark.parametrize("arm", ARMS)
def test_a_stopped_run_goes_on_to_equal_weights(selection, arm, tmp_path, monkeypatch):
    flags = {"epochs": 6, "optimizer": "adamw"} | DROPOUT | ARMS[arm]
    whole = trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 9):
        trained(selection, tmp_path / "stopped", **flags)
    assert 1 <= len(rows_of(tmp_path / "stopped")) < 6
    resumed = trained(selection, tmp_path / "stopped", **flags)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]
    for name in ("steps", "samples_shown", "last"):
        assert resumed[name] == whole[name]


def test_both_loaders_show_infobatch_the_same_also_in_batches_smaller_than_the_first(selection, tmp_path):
    if not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    for loader in ("torch", "ffcv"):
        trained(selection, tmp_path / loader, epochs=5, loader=loader, batch_size=80, **DROPOUT, **ARMS["infobatch"])
        shown = [row["samples_shown"] for row in rows_of(tmp_path / loader)]
        assert shown[0] == 80
        assert min(shown) < 80
    assert distance(weights(tmp_path / "torch"), weights(tmp_path / "ffcv")) == 0


def test_a_run_that_lost_its_losses_would_show_something_else(selection, tmp_path, monkeypatch):
    flags = {"epochs": 6} | DROPOUT | ARMS["infobatch"]
    trained(selection, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 9):
        trained(selection, tmp_path / "stopped", **flags)
    path = tmp_path / "stopped" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    assert content["losses"].shape == (COUNT,)
    assert bool(content["losses"].isfinite().all())
    torch.save(content | {"losses": None}, path)
    trained(selection, tmp_path / "stopped", **flags)
    assert distance(weights(tmp_path / "whole"), weights(tmp_path / "stopped")) > 0


@pytest.mark.parametrize("arm", [{"dynamic": "rs2", "keep": 1.0}, {"dynamic": "infobatch", "prune_ratio": 0.0}])
def test_an_arm_that_leaves_nothing_out_is_the_static_run(selection, arm, tmp_path):
    static = trained(selection, tmp_path / "static", epochs=3, **DROPOUT)
    dynamic = trained(selection, tmp_path / "dynamic", epochs=3, **DROPOUT, **arm)
    assert distance(weights(tmp_path / "static"), weights(tmp_path / "dynamic")) == 0
    assert static["last"] == dynamic["last"]
    assert (static["samples_shown"], static["steps"], static["dynamic"]) == (3 * COUNT, 18, None)


def test_budgets_of_steps_and_time_count_the_steps_of_rs2(selection, tmp_path, monkeypatch):
    report = trained(selection, tmp_path / "steps", steps=5, **DROPOUT, **ARMS["rs2"])
    assert (report["steps"], report["steps_per_epoch"], report["config"]["epochs"]) == (5, 2, 3)
    assert [row["steps"] for row in rows_of(tmp_path / "steps")] == [2, 2, 1]
    monkeypatch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.04)
    task = open_task(selection.path)
    flags = {"batch_size": 16, "match_s": 0.2} | DROPOUT | ARMS["rs2"]
    match = MatchTime(
        run="other",
        seconds=0.2,
        configure=lambda steps: resolve(flags | {"steps": steps}, recipe="auto", stored=task.stored),
    )
    training.train(
        task,
        resolve(flags, recipe="auto", stored=task.stored),
        validation=None,
        out=tmp_path / "time",
        machine=training.Machine(device="cpu", loader="torch", workers=1),
        match=match,
    )
    assert distance(weights(tmp_path / "steps"), weights(tmp_path / "time")) == 0


def test_a_real_trial_times_steps_of_rs2(selection, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_SECONDS_A_STEP", "0.02")
    task = open_task(selection.path)
    flags = {"batch_size": 16, "match_s": 0.5} | DROPOUT | ARMS["rs2"]

    def configure(**steps):
        return resolve(flags | steps, recipe="auto", stored=task.stored)

    report = training.train(
        task,
        configure(),
        validation=None,
        out=tmp_path,
        machine=training.Machine(device="cpu", loader="torch", workers=1),
        match=MatchTime(run="other", seconds=0.5, configure=lambda steps: configure(steps=steps)),
    )
    # 25 sleeps of 20 ms, and what else a step takes.
    assert 8 <= report["steps"] <= 25


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (
            ["--dynamic", "rs2", "--keep", "1/3"],
            ["4 epochs x 2 steps of 16 (fixed epochs)", "rs2: 32 of 96 samples per epoch"],
        ),
        (
            ["--dynamic", "seta", "--keep", "1/3", "--groups", "4"],
            [
                "4 epochs x at most 2 steps of 16 (fixed epochs)",
                "seta: 32 of 96 samples are drawn per epoch; from epoch 2 it shows 2 of 4 groups of them by last loss, "
                "in turn from easy to hard; the last epoch shows all of these",
            ],
        ),
        (
            ["--dynamic", "infobatch"],
            [
                "4 epochs x at most 6 steps of 16 (fixed epochs)",
                "infobatch: from epoch 2 a sample whose last loss is below the mean is left out with probability 0.5, "
                "or counts 2 times; the last epoch shows all",
            ],
        ),
        (
            ["--record-grand", "2"],
            ["dynamics of all samples are recorded in each epoch, gradient norms in the first 2"],
        ),
    ],
)
def test_a_dry_run_tells_what_an_epoch_shows(selection, flags, lines, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["--manifest", str(selection.path), "--epochs", "4", "--batch-size", "16", "--dry-run", *flags]
    with pytest.raises(SystemExit) as left:
        run_cli(train_student, args)
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    for line in lines:
        assert line in err
    plan = json.loads(out)
    assert plan["steps_per_epoch"] == (2 if "--keep" in flags else 6)
    assert plan["dynamic"] == (flags[1] if flags[0] == "--dynamic" else None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dynamic", "infobatch", "--steps", "9"], "--dynamic infobatch and --steps contradict each other"),
        (["--dynamic", "rs2", "--keep", "all"], "'all' is not a share such as 0.3, 1/3 or 30%"),
        (["--dynamic", "rs2", "--keep", "1/0"], "is not a share"),
        (["--dynamic", "rs2", "--keep", "130%"], "--keep must be in (0, 1], not 1.3"),
        (["--keep", "0.3"], "--keep is an option of --dynamic rs2"),
    ],
)
def test_wrong_flags_end_with_code_2_and_one_message(selection, flags, message, capsys):
    with pytest.raises(SystemExit) as left:
        run_cli(train_student, ["--manifest", str(selection.path), *flags])
    err = capsys.readouterr().err
    assert (left.value.code, message in err, "Traceback" in err) == (2, True, False)


@pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=[pytest.mark.slow] if arm != "infobatch" else []) for arm in ARMS]
)
def test_two_ranks_train_what_one_process_does(selection, arm, tiny_networks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny_networks), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = {"student": "tiny_networks:plain", "lr": 0.05, "schedule": "cosine", "epochs": 6} | ARMS[arm]
    one = trained(selection, tmp_path / "one", **flags)
    args = ["--manifest", selection.path, "--batch-size", 16, "--device", "cpu", "--loader", "torch", "--workers", 1]
    args += [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value)]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *args, "--out", tmp_path / "two"))
    assert [code for code, _ in ranks] == [0, 0], ranks
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-5
    two = json.loads((tmp_path / "two" / "run.json").read_text())
    assert [row["samples_shown"] for row in rows_of(tmp_path / "two")] == [
        row["samples_shown"] for row in rows_of(tmp_path / "one")
    ]
    assert (two["world_size"], two["steps"], two["samples_shown"]) == (2, one["steps"], one["samples_shown"])
    assert two["samples_shown"] < 6 * COUNT
