"""Whole runs on small synthetic data: against numpy oracles, resumed, repeated and refused."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from trainer_support import renamed

from manifests.errors import InputError, MismatchError, UsageError
from manifests.sources import ReadOptions
from trainer.data.order import Stream, epoch_order, stream_seed
from trainer.data.task import open_task, open_validation
from trainer.loop.recipes import resolve
from trainer.loop.run_folder import BUDGET_NAME, NAMES
from trainer.loop.training import Machine, train
from trainer.models.build import build_model

TORCH = Machine(device="cpu", loader="torch", workers=2)
QUICK = {"student": "tiny_networks:plain", "epochs": 2, "batch_size": 16, "lr": 0.05, "schedule": "cosine"}


@pytest.fixture(autouse=True)
def tiny_networks(networks, monkeypatch):
    monkeypatch.syspath_prepend(str(networks))
    return networks


def configured(task, **flags):
    return resolve(QUICK | flags, recipe="auto", stored=task.stored)


def run(manifest, out, *, val=None, machine=TORCH, fresh=False, **flags):
    task = open_task(manifest.path)
    validation = None
    if val is not None:
        validation = open_validation(str(val.path), ReadOptions(split="test"), task.class_names)
    return train(task, configured(task, **flags), validation=validation, out=out, machine=machine, fresh=fresh)


@pytest.fixture(scope="module")
def index(make_manifest):
    return make_manifest(count=120)


@pytest.fixture(scope="module")
def val(make_manifest):
    return make_manifest(count=50, seed=9)


@pytest.fixture(scope="module")
def selection(make_manifest):
    return make_manifest(count=96, views=1, weighted=True)


def pixels_of(task, rows):
    stored = np.stack([task.beton.pixels(row) for row in rows]).astype(np.float64) / 255
    facts = task.preprocessing(task.image_px)
    return ((stored - np.array(facts.mean)) / np.array(facts.std)).transpose(0, 3, 1, 2)


def reloaded(path):
    return build_model("tiny_networks:plain", class_count=3, checkpoint=path)[0]


def logits_of(model, task, rows):
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(pixels_of(task, rows))).numpy()


def test_a_student_learns_and_leaves_a_complete_record(index, val, tmp_path):
    report = run(index, tmp_path, val=val, loss="ce", student="resnet8", epochs=3, augment="none")
    assert report["last"]["top1"] > 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*NAMES} - {BUDGET_NAME})
    assert json.loads((tmp_path / "run.json").read_text()) == report
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    with (tmp_path / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [float(row["val_top1"]) for row in table] == [row["val_top1"] for row in rows]
    assert report["best"]["top1"] == max(row["val_top1"] for row in rows)
    assert report["last"]["top1"] == rows[-1]["val_top1"]
    assert report["manifest"] == {
        "id": index.id,
        "kind": "index",
        "data": "colours",
        "selection": None,
        "keep": 1.0,
    }
    assert (report["samples"], report["batch_size"], report["steps_per_epoch"]) == (120, 16, 7)
    assert (report["world_size"], report["budget"], report["loader"]) == (1, "fixed epochs", "torch")
    assert {"torch", "numpy", "python", "prune-toolkit"} <= report["versions"].keys()
    times = report["time"]
    parts = sum(times[name] for name in ("waiting_for_data_s", "compute_s", "evaluation_s"))
    assert 0 < parts <= times["total_s"]


def test_the_saved_student_alone_reproduces_what_was_reported(index, val, tmp_path):
    report = run(index, tmp_path, val=val, loss="ce", augment="none", student="resnet8")
    model, info = build_model(str(tmp_path / "student.safetensors"), class_count=3)
    task = open_task(val.path)
    logits, label = logits_of(model, task, range(50)), task.beton.columns["label"]
    assert info.class_names == ("blue", "green", "red")
    assert info.preprocessing.image_px == 8
    assert (logits.argmax(1) == label).mean() == pytest.approx(report["last"]["top1"])
    loss = -log_softmax(logits, axis=1)[np.arange(50), label].mean()
    assert loss == pytest.approx(report["last"]["loss"], rel=1e-5)
    best, _ = build_model(str(tmp_path / "best.safetensors"), class_count=3)
    assert (logits_of(best, task, range(50)).argmax(1) == label).mean() == pytest.approx(report["best"]["top1"])


def test_the_loss_of_an_epoch_pairs_every_sample_with_its_own_stored_target(selection, tmp_path):
    rate = 1e-12
    report = run(
        selection, tmp_path, epochs=1, lr=rate, weight_decay=0.0, augment="none", kd_weight=0.8, temperature=3.0
    )
    task = open_task(selection.path)
    model = reloaded(tmp_path / "student.safetensors")
    rows = np.arange(96)
    student, target = logits_of(model, task, rows), task.beton.targets(rows)[:, 0].astype(np.float64)
    columns = task.beton.columns
    ce = -log_softmax(student, axis=1)[rows, columns["label"]]
    kl = rel_entr(softmax(target / 3, axis=1), softmax(student / 3, axis=1)).sum(1)
    a = 0.8 * columns["kd_weight"]
    want = (columns["weight"] * ((1 - a) * ce + a * 9 * kl)).mean()
    assert report["last"]["train_loss"] == pytest.approx(want, rel=1e-5)


def test_one_sgd_epoch_is_the_epoch_written_out_by_hand(selection, tmp_path):
    run(selection, tmp_path, epochs=1, augment="none", loss="ce", weight_decay=1e-2, nesterov=True)
    task = open_task(selection.path)
    torch.manual_seed(stream_seed(0, Stream.INIT))
    model, _ = build_model("tiny_networks:plain", class_count=3, image_px=8, pretrained=False)
    model = model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2)
    order = epoch_order(0, 0, 96)
    for step in range(6):
        rows = order[step * 16 : (step + 1) * 16]
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 6))
        logits = model(torch.from_numpy(pixels_of(task, rows)))
        label = torch.from_numpy(task.beton.columns["label"][rows])
        ce = torch.nn.functional.cross_entropy(logits, label, reduction="none")
        optimizer.zero_grad()
        (ce * torch.from_numpy(task.beton.columns["weight"][rows])).mean().backward()
        optimizer.step()
    saved = reloaded(tmp_path / "student.safetensors")
    for want, got in zip(model.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


def test_both_loaders_train_the_same_student_and_give_torch_its_threads_back(selection, val, tmp_path):
    threads = torch.get_num_threads()
    ffcv = replace(TORCH, loader="ffcv")
    try:
        first = run(selection, tmp_path / "ffcv", val=val, machine=ffcv)
    except (ImportError, UsageError) as error:
        pytest.skip(f"ffcv is not here: {error}")
    assert torch.get_num_threads() == threads
    second = run(selection, tmp_path / "torch", val=val)
    assert (first["loader"], second["loader"]) == ("ffcv", "torch")
    assert first["last"] == second["last"]
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("ffcv", "torch")]
    assert files[0] == files[1]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(selection, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(selection, tmp_path / name, seed=seed, student="tiny_networks:dropout")
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_run_stopped_in_mid_epoch_goes_on_to_equal_weights(selection, val, tmp_path, monkeypatch):
    flags = {"student": "tiny_networks:dropout", "epochs": 4, "val": val, "optimizer": "adamw"}
    whole = run(selection, tmp_path / "whole", **flags)
    from trainer.loop import student as module

    steps, step = [], module.Student.step

    def stop_in_third_epoch(self, loss, learning_rate):
        steps.append(learning_rate)
        if len(steps) == 15:
            raise KeyboardInterrupt
        step(self, loss, learning_rate)

    with monkeypatch.context() as patch:
        patch.setattr(module.Student, "step", stop_in_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(selection, tmp_path / "stopped", **flags)
    assert len((tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()) == 2
    resumed = run(selection, tmp_path / "stopped", **flags)
    for name in ("student.safetensors", "best.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (resumed["last"], resumed["best"]) == (whole["last"], whole["best"])


def test_a_finished_run_is_not_trained_again_unless_fresh(selection, tmp_path, capsys):
    first = run(selection, tmp_path, epochs=1)
    stamp = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert run(selection, tmp_path, epochs=1) == first
    assert "finished; to train it again, give --fresh" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == stamp
    run(selection, tmp_path, epochs=1, fresh=True)
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns != stamp


def test_a_finished_run_whose_record_was_changed_is_refused(selection, tmp_path):
    report = run(selection, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    wrong = {"labels_time": report["labels_time"] | {"used": "x"}, "time": {"total_s": "x"}, "last": 3}
    for block, value in wrong.items():
        path.write_text(json.dumps(report | {block: value}))
        with pytest.raises(InputError, match="not what train-student writes"):
            run(selection, tmp_path / "run")
    # Not even JSON that can be read: the checkpoint is, so the run is finished anew.
    path.write_text("[" * 100_000)
    assert run(selection, tmp_path / "run")["last"] == report["last"]


def test_a_run_killed_between_its_last_epoch_and_its_end_is_only_finished(selection, tmp_path):
    first = run(selection, tmp_path, epochs=1)
    weights = (tmp_path / "student.safetensors").read_bytes()
    for name in ("run.json", "student.safetensors", "metrics.csv"):
        (tmp_path / name).unlink()
    assert run(selection, tmp_path, epochs=1)["last"] == first["last"]
    assert (tmp_path / "student.safetensors").read_bytes() == weights


def test_a_run_killed_after_its_first_best_weights_begins_anew_but_not_over_those_of_another(selection, val, tmp_path):
    run(selection, tmp_path, val=val, epochs=1)
    weights = (tmp_path / "best.safetensors").read_bytes()
    for path in tmp_path.iterdir():
        if path.name != "best.safetensors":
            path.unlink()
    with pytest.raises(UsageError, match=r"holds best\.safetensors, which is not of an unfinished run"):
        run(selection, tmp_path, val=val, epochs=1, lr=0.1)
    run(selection, tmp_path, val=val, epochs=1)
    assert (tmp_path / "best.safetensors").read_bytes() == weights


def test_another_configuration_in_the_same_folder_is_refused_with_what_differs(selection, tmp_path):
    run(selection, tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"another configuration.*lr: 0\.05 there, 0\.1 now") as caught:
        run(selection, tmp_path, epochs=1, lr=0.1)
    assert "--fresh" in str(caught.value)


def test_a_damaged_checkpoint_and_a_pickle_are_refused(selection, tmp_path):
    run(selection, tmp_path, epochs=1)
    (tmp_path / "run.json").unlink()
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"cos\nsystem\n(S'true'\ntR."):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(InputError, match="not a checkpoint of train-student"):
            run(selection, tmp_path, epochs=1)


def altered(content, place, value):
    *holders, name = place.split(".")
    for holder in holders:
        content = content[int(holder) if holder.isdecimal() else holder]
    content[int(name) if name.isdecimal() else name] = value


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("model", [], "weights has other names"),
        ("model.0.weight", torch.zeros(3), r"weights: 0\.weight is of another kind or shape"),
        ("optimizer.state", [], "optimizer is not a mapping"),
        ("optimizer.state.0", {"momentum_buffer": torch.zeros(3)}, "momentum_buffer of parameter 0 has another shape"),
        ("optimizer.state.99", {}, "parameters that the network lacks"),
        ("optimizer.param_groups", {}, "optimizer has other names"),
        ("optimizer.param_groups.0.lr", "high", "is of another kind"),
        ("scaler", None, "scaler has other names"),
        ("optimizer", None, "optimizer has other names"),
        ("history", {"epoch": 1}, "history is not a list of epochs"),
        ("history.0.epoch", 2, "lacks epoch 1"),
        ("history.0.total_s", None, "no number for 'total_s' of epoch 1"),
        ("losses", torch.zeros(3), "losses are not of 96 samples"),
    ],
)
def test_a_checkpoint_that_was_altered_is_refused_before_it_is_used(selection, tmp_path, place, value, reason):
    run(selection, tmp_path, epochs=2)
    (tmp_path / "run.json").unlink()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    if place.startswith("model."):
        content["model"][place.removeprefix("model.")] = value
    elif place.startswith("optimizer.state."):
        content["optimizer"]["state"][int(place.rpartition(".")[2])] = value
    else:
        altered(content, place, value)
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=reason) as refused:
        run(selection, tmp_path, epochs=2)
    assert "--fresh" in str(refused.value)


def test_evaluation_every_second_epoch_includes_the_last(index, val, tmp_path):
    run(index, tmp_path, val=val, loss="ce", epochs=3, eval_every=2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_top1"] is None for row in rows] == [True, False, False]


def test_validation_images_too_many_to_keep_are_read_every_time(index, val, tmp_path, monkeypatch):
    kept = run(index, tmp_path / "kept", val=val, loss="ce")
    monkeypatch.setattr("trainer.loop.evaluation.CACHE_BYTES", 0)
    assert run(index, tmp_path / "read", val=val, loss="ce")["last"] == kept["last"]


def test_validation_classes_are_matched_by_name(index, val, make_manifest, tmp_path):
    turned = make_manifest(count=50, seed=9, class_names=["red", "blue", "green"])
    plain = run(index, tmp_path / "plain", val=val, loss="ce", epochs=1)
    assert run(index, tmp_path / "turned", val=turned, loss="ce", epochs=1)["last"] == plain["last"]
    (tmp_path / "map.csv").write_text("ours,theirs\nred,rot\ngreen,gr\u00fcn\n")
    called = renamed(make_manifest(count=50, seed=9), ["rot", "blue", "gru\u0308n"])
    validation = open_validation(str(called.path), ReadOptions(), ["green", "red", "blue"], tmp_path / "map.csv")
    assert validation.label_map.tolist() == [1, 2, 0]
    odd = make_manifest(count=9, class_names=["blue", "green", "red", "pink"])
    with pytest.raises(MismatchError, match="1 of 4 classes that the manifest does not know: 'pink'"):
        run(index, tmp_path / "odd", val=odd, loss="ce")


def test_scored_views_are_replayed_from_end_to_end(make_manifest, val, tmp_path):
    manifest = make_manifest(count=96, views=3)
    config = run(manifest, tmp_path, val=val, epochs=4)["config"]
    assert (config["policy"], config["augment"]) == ("replay", "pad_crop_flip")


def test_padded_crops_are_replayed_at_the_scored_size_only(make_manifest, tmp_path):
    with pytest.raises(UsageError, match="8 px crops, --image-size 16 would show others"):
        run(make_manifest(count=30, views=3), tmp_path, image_px=16)


def test_bf16_autocast_and_label_smoothing_run_to_the_end(selection, val, tmp_path):
    report = run(selection, tmp_path, val=val, precision="bf16", label_smoothing=0.1, warmup_epochs=1.0)
    assert math.isfinite(report["last"]["loss"])


def test_a_loss_that_is_not_finite_stops_the_run_with_epoch_and_step(selection, tmp_path):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+ of epoch 1") as caught:
        run(selection, tmp_path, lr=1e30, schedule="constant")
    assert "lower --lr" in str(caught.value)
    assert not (tmp_path / "student.safetensors").exists()


def test_what_cannot_be_learned_from_is_refused_with_the_next_step(index, make_manifest, tmp_path):
    with pytest.raises(UsageError, match=r"kind index.* holds no targets") as caught:
        run(index, tmp_path)
    assert "--loss ce" in str(caught.value)
    with pytest.raises(InputError, match=r"has no train\.beton") as caught:
        open_task(make_manifest(count=6, beton=False).path)
    assert "prune index DATA --beton" in str(caught.value)
    with pytest.raises(InputError, match="has 7 outputs; 3 are needed"):
        run(index, tmp_path, loss="ce", student="tiny_networks:ignores_num_classes")
    with pytest.raises(UsageError, match="fp16 needs CUDA"):
        run(index, tmp_path, loss="ce", precision="fp16")


def test_a_truncated_beton_is_refused(make_manifest, tmp_path):
    manifest = make_manifest(count=12)
    beton = manifest.path / "train.beton"
    beton.write_bytes(beton.read_bytes()[:-24])
    with pytest.raises(InputError, match=r"train\.beton has .* the header says .*: truncated or replaced"):
        open_task(Path(manifest.path))
