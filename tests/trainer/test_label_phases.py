"""Phases of soft and hard labels: where they end, what each is taught and shown, resumed, on ranks, and refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.special import log_softmax
from trainer_support import drawn, ended, stopped_at, trained, two_ranks, watched

import trainer
from manifests.errors import UsageError
from trainer.data.loaders import ffcv_available
from trainer.data.policies import FRESH_VIEWS, TrainingViews
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.loop import session as session_module
from trainer.loop.epoch_config import changing_values, epoch_config
from trainer.loop.label_phases import is_hard, phases_of
from trainer.loop.mixing import Mix, draw_mix
from trainer.loop.recipes import resolve
from trainer.models.build import build_model

COUNT, BATCH = 48, 16
SCHEDULE = {"label_schedule": "soft:1,hard:2,soft:1", "epochs": 4}

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def single(make_manifest):
    return make_manifest(count=COUNT, views=1, weighted=True)


@pytest.fixture(scope="module")
def replayed(make_manifest):
    return make_manifest(count=COUNT, views=3)


def configured(**flags):
    return resolve(flags, recipe="cifar", stored=StoredLabels(count=COUNT, view_count=1, image_px=8))


def bits(run):
    return (run / "student.safetensors").read_bytes()


def test_phases_end_at_the_nearest_whole_epoch():
    assert phases_of("soft:0.4,hard:0.2,soft:0.4", 10) == (("soft", 4), ("hard", 2), ("soft", 4))
    assert phases_of("soft:40%, hard:1/5, soft:.4", 240) == (("soft", 96), ("hard", 48), ("soft", 96))
    # Ends at 2.8 and 4.2 of 7; half an epoch goes to the phase before.
    assert phases_of("soft:0.4,hard:0.2,soft:0.4", 7) == (("soft", 3), ("hard", 1), ("soft", 3))
    assert phases_of("soft:0.5,hard:0.5", 5) == (("soft", 3), ("hard", 2))
    assert phases_of("hard:2,soft:5", 7) == (("hard", 2), ("soft", 5))
    config = configured(**SCHEDULE)
    assert [is_hard(config, epoch) for epoch in range(4)] == [False, True, True, False]


def test_a_hard_epoch_learns_from_smoothed_labels_of_mixed_images_alone():
    config = configured(**SCHEDULE, mixup=0.2, temperature="4:1", revise_eta=0.5, loss="kd")
    soft, hard = epoch_config(config, 0), epoch_config(config, 1)
    assert (soft.loss, soft.mixup, soft.cutmix, soft.revise_eta, soft.policy) == ("kd", 0.2, None, 0.5, "single")
    assert (hard.loss, hard.mixup, hard.cutmix, hard.mix_prob) == ("ce", None, 1.0, 1.0)
    assert (hard.label_smoothing, hard.revise_eta, hard.policy) == (0.8, None, None)
    plain = epoch_config(configured(**SCHEDULE, hard_smoothing=0.3, hard_cutmix=0.0), 1)
    assert (plain.label_smoothing, plain.cutmix, plain.mix_prob) == (0.3, None, None)
    assert changing_values(config, 1) == {"temperature": pytest.approx(3.0), "hard_labels": 1}


def test_the_loss_of_a_hard_epoch_is_written_out_by_hand(single, tmp_path):
    flags = {"hard_smoothing": 0.6, "hard_cutmix": 0.0, "augment": "none", "lr": 1e-12, "weight_decay": 0.0}
    report = trained(single, tmp_path, **SCHEDULE, **flags)
    task = open_task(single.path)
    model, _ = build_model("tiny_networks:plain", class_count=3, checkpoint=tmp_path / "student.safetensors")
    facts, columns, rows = task.preprocessing(8), task.beton.columns, np.arange(COUNT)
    pixels = np.stack([task.beton.pixels(row) for row in rows]).astype(np.float64) / 255
    inputs = ((pixels - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        log_q = log_softmax(model.double()(torch.from_numpy(inputs)).numpy(), axis=1)
    # .6 of the label is spread over all three classes: .6 for the true one, .2 for each of the others.
    smoothed = np.full((COUNT, 3), 0.2)
    smoothed[rows, columns["label"]] = 0.6
    want = (columns["weight"] * -(smoothed * log_q).sum(axis=1)).mean()
    history = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["hard_labels"] for row in history] == [0, 1, 1, 0]
    assert [row["train_loss"] for row in history[1:3]] == pytest.approx([want, want], rel=1e-5)
    assert history[0]["train_loss"] == pytest.approx(history[3]["train_loss"])
    assert history[0]["train_loss"] != pytest.approx(want, rel=1e-2)
    assert report["config"]["label_schedule"] == [["soft", 1], ["hard", 2], ["soft", 1]]
    assert (report["config"]["hard_smoothing"], report["config"]["hard_cutmix"]) == (0.6, 0.0)


def test_replay_shows_scored_views_in_soft_epochs_and_fresh_ones_in_hard_epochs(replayed, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        trained(replayed, tmp_path, **SCHEDULE, hard_cutmix=0.0)
    task = open_task(replayed.path)
    recipe = TrainingViews.of(task, policy="replay").recipe
    scored = {image.tobytes() for view in (1, 2) for image in drawn(task, recipe, view)}
    steps = COUNT // BATCH
    known = [
        np.mean([image.tobytes() in scored for step in watch.steps[start : start + steps] for image in step.images])
        for start in range(0, 4 * steps, steps)
    ]
    # 18 views are possible at 8 pixels, so some of the fresh ones look like scored ones.
    assert known[0] == known[3] == 1
    assert max(known[1:3]) < 0.5
    assert [step.target is None for step in watch.steps] == [False] * steps + [True] * 2 * steps + [False] * steps


def test_fresh_views_of_replay_have_their_own_numbers_per_epoch_and_seed(replayed):
    task, rows = open_task(replayed.path), np.arange(COUNT)

    def numbers(seed, epoch):
        views = TrainingViews.of(task, policy="replay", seed=seed)
        view_n, target_view_n = views.of_epoch(epoch, rows, uses_targets=False)
        assert not target_view_n.any()
        return set(view_n.tolist())

    found = [numbers(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert min(min(one) for one in found) > FRESH_VIEWS
    assert len(set.union(*found)) == 4
    single = TrainingViews.of(task, policy="single")
    for uses_targets in (True, False):
        assert (single.of_epoch(3, rows, uses_targets=uses_targets)[0] == 4).all()


def test_a_run_stopped_in_a_hard_phase_goes_on_to_equal_weights(replayed, tmp_path, monkeypatch):
    flags = SCHEDULE | {"lr": 0.05, "temperature": "4:1", "mixup": 0.2}
    whole = trained(replayed, tmp_path / "whole", **flags)
    with stopped_at(monkeypatch, 8):
        trained(replayed, tmp_path / "stopped", **flags)
    assert trained(replayed, tmp_path / "stopped", **flags)["last"] == whole["last"]
    assert bits(tmp_path / "stopped") == bits(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"another configuration.*label_schedule"):
        trained(replayed, tmp_path / "whole", **flags | {"label_schedule": "soft:2,hard:1,soft:1"})


def test_both_loaders_show_the_same_in_both_kinds_of_phase(replayed, tmp_path):
    if not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    for loader in ("torch", "ffcv"):
        trained(replayed, tmp_path / loader, loader=loader, lr=0.05, **SCHEDULE)
    assert bits(tmp_path / "torch") == bits(tmp_path / "ffcv")


def test_a_live_teacher_does_not_work_in_a_hard_phase(single, tmp_path, monkeypatch, capsys):
    with watched(monkeypatch) as watch:
        trained(single, tmp_path, **SCHEDULE, teacher="tiny_networks:linear")
    assert [step.target is None for step in watch.steps] == [False] * 3 + [True] * 6 + [False] * 3
    assert "  hard 1  " in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_train_the_student_of_one_process(replayed, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(networks), str(Path(trainer.__file__).parents[1])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--manifest", replayed.path, "--student", "tiny_networks:plain", "--device", "cpu", "--loader", "torch"]
    flags += ["--batch-size", "16", "--lr", "0.05", "--schedule", "constant", "--out", "ranks", "--epochs", "4"]
    flags += ["--label-schedule", "soft:0.25,hard:0.5,soft:0.25", "--temperature", "4:1", "--unsure-below", "0.9"]
    ranks = ended(two_ranks(tmp_path, "-m", "trainer.cli.train_student", *flags))
    assert [code for code, _ in ranks] == [0, 0], ranks

    def of_halves(config, *, count, rank, **at):
        halves = [draw_mix(config, rank=half, count=count // 2, **at) for half in range(2)]
        partner_n = np.concatenate([halves[0].partner_n, halves[1].partner_n + count // 2])
        return Mix(partner_n=partner_n, share=halves[0].share, box=halves[0].box)

    monkeypatch.setattr(session_module, "draw_mix", of_halves)
    trained(replayed, tmp_path / "one", lr=0.05, temperature="4:1", unsure_below=0.9, **SCHEDULE)
    two, one = (load_file(tmp_path / run / "student.safetensors") for run in ("ranks", "one"))
    assert max(float(np.abs(two[name] - one[name]).max()) for name in one) < 1e-5
    rows = [json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[0]) for run in ("ranks", "one")]
    assert rows[0]["unsure"] == rows[1]["unsure"] > 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"label_schedule": "soft,hard,soft"}, r"soft,hard,soft is not KIND:LENGTH"),
        ({"label_schedule": "soft:1/0,hard:1"}, r"is not KIND:LENGTH"),
        ({"label_schedule": "soft:-1,hard:2"}, r"is not KIND:LENGTH"),
        ({"label_schedule": "soft:0.5,firm:0.5"}, r"firm is not known"),
        ({"label_schedule": "soft:0.5,soft:0.5"}, r"has no hard phase"),
        ({"label_schedule": "soft:0.5,hard:0.4"}, r"the lengths sum to 0.9"),
        ({"label_schedule": "soft:50,hard:50"}, r"the lengths sum to 100"),
        ({"label_schedule": "soft:0.5,hard:0.5", "epochs": 1}, r"a hard phase is shorter than one of the 1 epochs"),
        ({"label_schedule": "soft:0.5,hard:0.5", "loss": "ce"}, r"--label-schedule and --loss ce contradict"),
        ({"label_schedule": "soft:0.5,hard:0.5", "dynamic": "infobatch"}, r"--dynamic infobatch contradict"),
        ({"label_schedule": "soft:0.5,hard:0.5", "record_dynamics": True}, r"--record-dynamics contradict"),
        ({"label_schedule": "soft:0.5,hard:0.5", "hard_smoothing": 1.0}, r"--hard-smoothing must be in \[0, 1\)"),
        ({"label_schedule": "soft:0.5,hard:0.5", "hard_cutmix": -1.0}, r"--hard-cutmix must be 0 or more, not -1"),
        ({"hard_smoothing": 0.5}, r"--hard-smoothing has no effect without --label-schedule"),
        ({"hard_cutmix": 0.5}, r"--hard-cutmix has no effect without --label-schedule"),
    ],
)
def test_phases_that_cannot_be_are_refused(flags, told):
    with pytest.raises(UsageError, match=told):
        configured(**flags)


def test_a_run_without_phases_does_not_name_them_so_that_older_runs_go_on(single, tmp_path):
    config = trained(single, tmp_path, epochs=1)["config"]
    assert not {"label_schedule", "hard_smoothing", "hard_cutmix"} & config.keys()
