"""Budgets: so many steps whatever the number of samples, and the training time of another run."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from trainer_support import stopped_at, trained

from manifests.errors import InputError, UsageError
from trainer import training
from trainer.budget import MAX_STEPS, MIN_STEPS, MatchTime, timed_steps, training_seconds
from trainer.recipes import resolve
from trainer.student import Student
from trainer.task import open_task
from trainer.training_views import Stored

STORED = Stored(count=100, image_px=32, view_count=1)
DROPOUT = {"student": "tiny_networks:dropout", "lr": 0.05}


@pytest.fixture(autouse=True)
def tiny_networks(networks, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(networks))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def selection(make_manifest):
    """96 samples: 6 steps of 16 an epoch."""
    return make_manifest(count=96, views=3, weighted=True)


def config(**flags):
    return resolve({"batch_size": 10} | flags, recipe="cifar", stored=STORED)


def weights(folder):
    return load_file(folder / "student.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_steps_are_epochs_the_last_of_which_may_be_cut_short():
    got = config(steps=25)
    assert (got.steps, got.epochs, got.total_steps(10)) == (25, 3, 25)
    assert config(steps=30).epochs == 3
    assert config(steps=31).epochs == 4
    assert config(epochs=3).total_steps(10) == 30


def test_milestones_and_warm_up_keep_their_fraction_of_the_steps():
    assert config(steps=2400).milestones == config(epochs=240).milestones == (150, 180, 210)
    assert config(steps=24).milestones == pytest.approx((1.5, 1.8, 2.1))
    demo = resolve({"steps": 5}, recipe="demo", stored=STORED)
    assert demo.warmup_epochs == pytest.approx(5 / 20)
    assert config(steps=25, milestones=(1.0, 2.0)).milestones == (1, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, not 0"),
        ({"steps": 9, "epochs": 2}, "--steps and --epochs contradict each other"),
        ({"steps": 9, "warmup_epochs": 0.9}, "--warmup-epochs must be below the 0.9 epochs of --steps 9"),
    ],
)
def test_budgets_that_cannot_be_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


@pytest.mark.parametrize("schedule", [{"schedule": "cosine", "warmup_epochs": 0.5}, {"schedule": "step"}])
def test_whole_epochs_counted_in_steps_are_bit_equal_to_epochs(selection, schedule, tmp_path):
    epochs = trained(selection, tmp_path / "epochs", epochs=3, **DROPOUT, **schedule)
    steps = trained(selection, tmp_path / "steps", steps=18, **DROPOUT, **schedule)
    assert equal(weights(tmp_path / "epochs"), weights(tmp_path / "steps"))
    assert (epochs["budget"], epochs["steps"], steps["budget"], steps["steps"]) == (
        "fixed epochs",
        18,
        "fixed steps",
        18,
    )
    assert steps["last"]["epoch"] == 3


def test_a_cut_last_epoch_takes_its_first_steps_and_the_schedule_ends_with_it(selection, tmp_path, monkeypatch):
    rates, step = [], Student.step

    def stepped(self, loss, learning_rate):
        rates.append(learning_rate)
        step(self, loss, learning_rate)

    monkeypatch.setattr(Student, "step", stepped)
    report = trained(selection, tmp_path, steps=15, **DROPOUT | {"schedule": "cosine"})
    assert rates == pytest.approx([0.05 * 0.5 * (1 + math.cos(math.pi * k / 15)) for k in range(15)])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == [rates[5], rates[11], rates[14]]
    times = report["time"]
    assert times["images_per_s"] == pytest.approx(15 * 16 / times["training_s"])


def test_a_selection_of_another_size_takes_the_same_number_of_steps(selection, make_manifest, tmp_path):
    half = make_manifest(count=48, views=3)
    reports = [trained(manifest, tmp_path / manifest.id[:8], steps=9) for manifest in (selection, half)]
    assert [(report["steps"], report["config"]["epochs"]) for report in reports] == [(9, 2), (9, 3)]


@pytest.mark.parametrize("count", [8, 14])
def test_a_stopped_run_of_steps_goes_on_to_equal_weights(selection, count, tmp_path, monkeypatch):
    trained(selection, tmp_path / "whole", steps=15, **DROPOUT)
    with stopped_at(monkeypatch, count):
        trained(selection, tmp_path / "stopped", steps=15, **DROPOUT)
    trained(selection, tmp_path / "stopped", steps=15, **DROPOUT)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def matching(selection, out, seconds, **options):
    """A run that takes the time of another one, as train-student sets it up."""
    task = open_task(selection.path)
    flags = {"batch_size": 16, "schedule": "constant", "match_s": seconds} | DROPOUT
    match = MatchTime(
        run="other",
        seconds=seconds,
        configure=lambda steps: resolve(flags | {"steps": steps}, recipe="auto", stored=task.stored),
    )
    machine = training.Machine(device="cpu", loader="torch", workers=1)
    return training.train(
        task,
        resolve(flags, recipe="auto", stored=task.stored),
        validation=None,
        out=out,
        machine=machine,
        match=match,
        **options,
    )


def test_the_steps_that_fit_are_trained_as_if_they_had_been_asked_for(selection, tmp_path):
    report = matching(selection, tmp_path / "matched", 0.3)
    kept = json.loads((tmp_path / "matched" / "budget.json").read_text())
    assert report["steps"] == report["config"]["steps"] == kept["steps"] == int(0.3 / kept["seconds_a_step"])
    assert report["budget"] == "time of other"
    assert report["matched"] == {"asked_s": 0.3, "got_s": report["time"]["training_s"]}
    trained(selection, tmp_path / "fixed", steps=kept["steps"], **DROPOUT)
    assert equal(weights(tmp_path / "matched"), weights(tmp_path / "fixed"))


def test_a_stopped_run_keeps_the_steps_it_found(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "trial", lambda lesson, ranks, seconds: 0.01)
    whole = matching(selection, tmp_path / "whole", 0.2)
    assert whole["steps"] == 20
    with stopped_at(monkeypatch, 9):
        matching(selection, tmp_path / "stopped", 0.2)
    monkeypatch.setattr(training, "trial", None)
    assert matching(selection, tmp_path / "stopped", 0.2)["steps"] == 20
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert matching(selection, tmp_path / "stopped", 0.2)["steps"] == 20
    with pytest.raises(UsageError, match="another configuration"):
        matching(selection, tmp_path / "stopped", 0.3)
    monkeypatch.setattr(training, "trial", lambda lesson, ranks, seconds: 0.02)
    assert matching(selection, tmp_path / "stopped", 0.3, fresh=True)["steps"] == 15


def test_a_trial_times_a_part_of_the_budget_and_whole_epochs_where_they_are_short():
    assert timed_steps(1000, 0.1, 5000) == 200
    assert timed_steps(100, 0.1, 5000) == 50
    assert timed_steps(100, 0.1, 30) == 60
    assert timed_steps(1e-3, 0.1, 5000) == MIN_STEPS
    assert timed_steps(1e9, 1e-6, 10**6) == MAX_STEPS


def test_the_time_of_a_run_is_waiting_and_computing(selection, tmp_path):
    report = trained(selection, tmp_path, epochs=1)
    times = report["time"]
    assert times["training_s"] == times["waiting_for_data_s"] + times["compute_s"]
    assert training_seconds(tmp_path) == times["training_s"]


def test_a_run_that_does_not_say_its_time_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json") as caught:
        training_seconds(tmp_path / "nowhere")
    assert "let it finish" in caught.value.hint
    for content in ("{}", "not json", '{"time": {"waiting_for_data_s": 0, "compute_s": 0}}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(InputError, match="does not say how long the run trained"):
            training_seconds(tmp_path)
