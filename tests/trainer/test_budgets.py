"""Budgets: so many steps whatever the number of samples, and the training time of another run."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from trainer_support import stopped_at, trained

from manifests.errors import InputError, UsageError
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.data.torch_loader import TorchLoader
from trainer.loop import training
from trainer.loop.budget import MAX_STEPS, MIN_STEPS, MatchTime, asked_seconds, timed_steps, training_seconds
from trainer.loop.recipes import resolve
from trainer.loop.run_folder import BUDGET_NAME
from trainer.loop.student import Student

STORED = StoredLabels(count=100, image_px=32, view_count=1)
DROPOUT = {"student": "tiny_networks:dropout", "lr": 0.05}


pytestmark = pytest.mark.usefixtures("tiny_networks")


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
        (
            {"match_s": 12.5, "steps": 9, "warmup_epochs": 0.9},
            r"--warmup-epochs must be below the 0\.9 epochs that fit into the 12\.5 s of --match-time, not 0\.9",
        ),
    ],
)
def test_budgets_that_cannot_be_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


def test_before_its_trial_a_run_that_matches_a_time_has_no_length_to_warm_up_in():
    assert config(match_s=9.0, warmup_epochs=300.0).warmup_epochs == 300
    with pytest.raises(UsageError, match="--warmup-epochs must be below --epochs 240, not 300"):
        config(warmup_epochs=300.0)


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


def matching(selection, out, seconds, flags=None, **options):
    """A run that takes the time of another one, as train-student sets it up."""
    task = open_task(selection.path)
    flags = {"batch_size": 16, "schedule": "constant", "match_s": seconds} | DROPOUT | (flags or {})
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
    assert report["steps"] == report["config"]["steps"] == kept["steps"] == int(0.3 / kept["seconds_per_step"])
    assert report["budget"] == "time of other"
    assert report["matched"] == {"asked_s": 0.3, "got_s": report["time"]["training_s"]}
    trained(selection, tmp_path / "fixed", steps=kept["steps"], **DROPOUT)
    assert equal(weights(tmp_path / "matched"), weights(tmp_path / "fixed"))


def test_a_stopped_run_keeps_the_steps_it_found(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.01)
    whole = matching(selection, tmp_path / "whole", 0.2)
    assert whole["steps"] == 20
    with stopped_at(monkeypatch, 9):
        matching(selection, tmp_path / "stopped", 0.2)
    monkeypatch.setattr(training, "timed_trial", None)
    assert matching(selection, tmp_path / "stopped", 0.2)["steps"] == 20
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert matching(selection, tmp_path / "stopped", 0.2)["steps"] == 20
    with pytest.raises(UsageError, match="another configuration"):
        matching(selection, tmp_path / "stopped", 0.3)
    monkeypatch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.02)
    assert matching(selection, tmp_path / "stopped", 0.3, fresh=True)["steps"] == 15


def test_the_steps_are_those_that_a_known_time_a_step_leaves(selection, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_SECONDS_A_STEP", "0.05")
    report = matching(selection, tmp_path, 1.5)
    # 30 sleeps of 50 ms, fewer by what else a step takes on this machine.
    step_s = json.loads((tmp_path / BUDGET_NAME).read_bytes())["seconds_per_step"]
    assert step_s >= 0.05
    assert report["steps"] == int(1.5 / step_s)
    assert 0.05 * report["steps"] <= report["matched"]["got_s"]


def test_a_run_goes_on_when_the_one_it_matches_is_gone(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.01)
    matching(selection, tmp_path / "out", 0.2)
    assert asked_seconds(Path("other"), tmp_path / "out") == 0.2
    with pytest.raises(InputError, match=r"another holds no run\.json"):
        asked_seconds(Path("another"), tmp_path / "out")
    with pytest.raises(InputError, match=r"other holds no run\.json"):
        asked_seconds(Path("other"), tmp_path)


def test_steps_that_the_configuration_refuses_are_not_kept(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "timed_trial", lambda session, ranks, seconds: 0.1)
    with pytest.raises(UsageError, match=r"below the 0\.3333 epochs that fit into the 0\.2 s of --match-time, not 300"):
        matching(selection, tmp_path, 0.2, {"warmup_epochs": 300.0})
    assert list(tmp_path.iterdir()) == []


def test_a_trial_times_a_part_of_the_budget_and_whole_epochs_where_they_are_short():
    assert timed_steps(1000, 0.1, 5000) == 200
    assert timed_steps(100, 0.1, 5000) == 50
    assert timed_steps(100, 0.1, 30) == 30
    assert timed_steps(1e-3, 0.1, 5000) == MIN_STEPS
    assert timed_steps(1e-3, 0.1, 6) == 12
    assert timed_steps(1e9, 1e-6, 10**6) == timed_steps(1e9, 1e-6, MAX_STEPS) == MAX_STEPS
    assert timed_steps(1e9, 1e-6, 600) == 600


@given(seconds=st.floats(1e-3, 1e6), step_s=st.floats(1e-6, 1e3), steps_per_epoch=st.integers(1, 10**5))
def test_a_trial_is_never_longer_than_it_may_be(seconds, step_s, steps_per_epoch):
    steps = timed_steps(seconds, step_s, steps_per_epoch)
    assert MIN_STEPS <= steps <= MAX_STEPS
    assert steps < steps_per_epoch or steps % steps_per_epoch == 0


def test_the_time_of_a_run_is_waiting_and_computing(selection, tmp_path):
    report = trained(selection, tmp_path, epochs=1)
    times = report["time"]
    assert times["training_s"] == times["waiting_for_data_s"] + times["compute_s"]
    assert training_seconds(tmp_path) == times["training_s"]


def test_the_start_of_the_loader_is_in_no_training_time(selection, tmp_path, monkeypatch):
    batches, calls = TorchLoader.batches, []

    def slow_at_first(self, rows_n, **options):
        calls.append(len(rows_n))
        if len(calls) == 1:
            time.sleep(1)
        yield from batches(self, rows_n, **options)

    monkeypatch.setattr(TorchLoader, "batches", slow_at_first)
    report = trained(selection, tmp_path, epochs=1)
    assert calls == [16, 96]
    assert report["time"]["waiting_for_data_s"] < 1 <= report["time"]["other_s"]


def test_a_loader_that_fails_at_its_first_batch_is_closed(selection, tmp_path, monkeypatch):
    closed = []

    def failing(self, rows_n, **options):
        raise InputError("no image")
        yield

    def close(self):
        closed.append(self)

    monkeypatch.setattr(TorchLoader, "batches", failing)
    monkeypatch.setattr(TorchLoader, "close", close)
    with pytest.raises(InputError, match="no image"):
        trained(selection, tmp_path, epochs=1)
    assert len(closed) == 1


def test_a_run_that_does_not_say_its_time_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json") as caught:
        training_seconds(tmp_path / "nowhere")
    assert "let it finish" in caught.value.hint
    for content in ("{}", "not json", '{"time": {"waiting_for_data_s": 0, "compute_s": 0}}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(InputError, match="does not say how long the run trained"):
            training_seconds(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"time": {"waiting_for_data_s": 0, "compute_s": 1%s}}' % ("0" * 400)])
def test_a_run_json_that_no_run_writes_says_no_time(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="does not say how long"):
        training_seconds(tmp_path)
