"""The parts of a run by themselves: which views an epoch shows, which epoch was best, which loader validates."""

from dataclasses import replace

import pytest

from manifests.errors import UsageError
from manifests.sources import ReadOptions
from trainer.data.order import batch_plan
from trainer.data.task import open_validation
from trainer.loop.evaluation import loader_for
from trainer.loop.run_folder import NUMBERS, RunFolder, State


def test_fewer_samples_than_a_batch_are_one_batch():
    plan = batch_plan(10, 64, 1)
    assert (plan.batch_size, plan.steps_per_epoch) == (10, 1)
    assert (batch_plan(11, 64, 2).batch_size, batch_plan(11, 64, 2).steps_per_epoch) == (10, 1)
    with pytest.raises(UsageError, match="--batch-size 15 counts all ranks and cannot be shared by 2"):
        batch_plan(100, 15, 2)


def test_best_is_the_earliest_of_equals_and_unevaluated_epochs_do_not_count():
    values = [0.5, None, 0.7, 0.7, 0.6]
    state = State(history=[{"epoch": n + 1, "val_top1": value} for n, value in enumerate(values)])
    assert state.best["epoch"] == 3
    assert State(history=[{"epoch": 1, "val_top1": None}]).best is None


def test_a_run_never_writes_into_a_manifest(make_manifest):
    manifest = make_manifest(count=6)
    with pytest.raises(UsageError, match="is a manifest"):
        RunFolder(manifest.path, {}).open(fresh=True)
    assert (manifest.path / "train.beton").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["student.safetensors", "run.json", "metrics.jsonl", "checkpoint.pt", "notes.txt"])
def test_a_run_neither_overwrites_nor_deletes_files_of_others(tmp_path, name, fresh):
    (tmp_path / name).write_text('{"loss": 1}')
    with pytest.raises(UsageError, match=f"holds {name}, which is not of an unfinished run"):
        RunFolder(tmp_path, {}).open(fresh=fresh)
    assert [path.read_text() for path in tmp_path.iterdir()] == ['{"loss": 1}']


def test_a_begun_run_is_taken_again_but_a_link_in_it_is_not(tmp_path):
    row = {**dict.fromkeys(NUMBERS, 0.5), "epoch": 1, "val_top1": None}
    folder = RunFolder(tmp_path / "run", {"epochs": 2})
    folder.open(fresh=False)
    folder.record(State(history=[row]))
    (folder.path / "log.txt").touch()
    assert folder.open(fresh=False).history == [row]
    (folder.path / "student.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        folder.open(fresh=True)
    (folder.path / "student.safetensors").unlink()
    assert folder.open(fresh=True).history == []
    assert [path.name for path in folder.path.iterdir()] == ["log.txt"]


def test_a_finished_run_of_another_configuration_is_kept_without_its_checkpoint_too(tmp_path):
    RunFolder(tmp_path, {"epochs": 2}).finish({})
    with pytest.raises(UsageError, match="a finished run of another configuration"):
        RunFolder(tmp_path, {"epochs": 3}).open(fresh=False)
    assert RunFolder(tmp_path, {"epochs": 2}).open(fresh=False).history == []
    RunFolder(tmp_path, {"epochs": 3}).open(fresh=True)
    assert not list(tmp_path.iterdir())


def test_small_raw_validation_sets_are_read_without_compiling_a_loader(make_manifest):
    manifest = make_manifest(count=9)
    validation = open_validation(str(manifest.path), ReadOptions(split="test"), manifest.class_names)
    assert loader_for(validation, "auto", 8) == "torch"
    assert loader_for(validation, "auto", 20_000) == "auto"
    assert loader_for(validation, "ffcv", 8) == "ffcv"
    assert loader_for(replace(validation, data=None), "ffcv", 8) == "torch"
