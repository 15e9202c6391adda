"""The parts of a run by themselves: which views an epoch shows, which epoch was best, which loader validates."""

from dataclasses import replace

import numpy as np
import pytest

from manifests.errors import UsageError
from trainer.evaluation import loader_for
from trainer.order import Stream, batch_plan, stream_seed
from trainer.recipes import resolve
from trainer.run_record import RunFolder, State
from trainer.task import open_task, open_validation
from trainer.training_views import TrainingViews
from trainer.views import epoch_views


def configured(task, **flags):
    return resolve(flags, recipe="auto", image_px=task.image_px, stored_views=task.beton.view_count)


def test_replayed_views_go_with_their_own_labels(make_manifest):
    task = open_task(make_manifest(count=30, views=4).path)
    views = TrainingViews.of(task, configured(task))
    assert (views.recipe.name, views.recipe.seed) == ("pad_crop_flip", 5)
    rows = np.array([7, 3, 29])
    seen = []
    for epoch in range(3):
        view_n, target_view_n = views.of_epoch(epoch, rows)
        assert np.array_equal(view_n, target_view_n)
        assert np.array_equal(view_n, epoch_views(epoch, task.beton.columns["view_id"][rows], 4))
        seen.append(view_n)
    assert np.array_equal(np.sort(np.stack(seen), axis=0), [[1, 1, 1], [2, 2, 2], [3, 3, 3]])


def test_unscored_views_never_repeat_and_keep_the_label_of_view_0(make_manifest):
    task = open_task(make_manifest(count=30, views=4).path)
    views = TrainingViews.of(task, configured(task, augment="pad_crop_flip", seed=3))
    assert views.recipe.seed == stream_seed(3, Stream.VIEWS)
    for epoch in range(3):
        view_n, target_view_n = views.of_epoch(epoch, np.arange(5))
        assert set(view_n) == {1 + epoch}
        assert set(target_view_n) == {0}
    plain = TrainingViews.of(task, configured(task, augment="none"))
    assert [set(part) for part in plain.of_epoch(2, np.arange(5))] == [{0}, {0}]


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


def test_small_raw_validation_sets_are_read_without_compiling_a_loader(make_manifest):
    manifest = make_manifest(count=9)
    validation = open_validation(str(manifest.path), split="test", class_names=manifest.class_names)
    assert loader_for(validation, "auto", 8) == "torch"
    assert loader_for(validation, "auto", 20_000) == "auto"
    assert loader_for(validation, "ffcv", 8) == "ffcv"
    assert loader_for(replace(validation, data=None), "ffcv", 8) == "torch"
