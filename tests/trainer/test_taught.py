"""The target that reaches the loss is that of the very view the student sees: hand-made labels, and a real teacher."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from torch.utils.data import DataLoader
from trainer_support import QUICK, drawn, ended, linear_logits, stopped_at, trained, two_ranks, watched

from manifests.errors import UsageError
from manifests.format.top_k import top_k
from manifests.images.identity import mix64
from trainer.data import torch_loader
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.order import Stream, epoch_order, rank_rows, stream_seed
from trainer.data.policies import TrainingViews
from trainer.data.task import open_task
from trainer.models.build import build_model
from trainer.models.info import CIFAR_MEAN, CIFAR_STD

COUNT, BATCH, STEPS = 48, 16, 3
EPOCHS = 3


pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(params=["torch", "ffcv"])
def loader(request):
    if request.param == "ffcv" and not (found := ffcv_available())[0]:
        pytest.skip(found[1])
    return request.param


def by_hand():
    """Labels (N, V, C) of three views that nobody can mix up: 100 v + row, - row, v; whole numbers in float16."""
    row_NV, view_NV = np.meshgrid(np.arange(COUNT), np.arange(3), indexing="ij")
    return np.stack([100.0 * view_NV + row_NV, -row_NV, view_NV], axis=2)


@pytest.fixture(scope="module")
def three_views(make_manifest):
    return make_manifest(count=COUNT, views=3, targets_NVC=by_hand())


def order_of(epochs, seed=0):
    """The row of every sample that those epochs show, (epochs * N,)."""
    return np.concatenate([epoch_order(seed, epoch, COUNT) for epoch in range(epochs)])


def replayed_views(task, epochs):
    """By the definition: 1 + (epoch + hash(view_id)) mod 2."""
    hash_N = mix64(task.beton.columns["view_id"]).astype(object)
    orders = [epoch_order(0, epoch, COUNT) for epoch in range(epochs)]
    return np.concatenate([[1 + (epoch + hash_N[row]) % 2 for row in order] for epoch, order in enumerate(orders)])


def taught_by(watch):
    return (np.concatenate(parts) for parts in zip(*((step.images, step.target) for step in watch.steps), strict=True))


def test_replay_teaches_each_view_its_own_label(three_views, loader, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        trained(three_views, tmp_path, loader=loader, epochs=EPOCHS, policy="replay")
    images, target = taught_by(watch)
    task, rows = open_task(three_views.path), order_of(EPOCHS)
    view_n = replayed_views(task, EPOCHS)
    assert np.array_equal(target, by_hand()[rows, view_n])
    shown = np.stack([drawn(task, task.stored.scored, view) for view in range(3)])
    assert np.array_equal(images, shown[view_n, rows])
    assert set(view_n) == {1, 2}


@pytest.mark.parametrize(("policy", "label"), [("mean", by_hand().mean(axis=1)), ("single", by_hand()[:, 0])])
def test_mean_and_single_teach_one_label_on_fresh_views(three_views, loader, policy, label, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        trained(three_views, tmp_path, loader=loader, epochs=EPOCHS, policy=policy)
    images, target = taught_by(watch)
    task, rows = open_task(three_views.path), order_of(EPOCHS)
    assert np.array_equal(target, label[rows])
    fresh = replace(task.stored.scored, seed=stream_seed(0, Stream.VIEWS))
    shown = np.stack([drawn(task, fresh, 1 + epoch) for epoch in range(EPOCHS)])
    assert np.array_equal(images, shown[np.repeat(np.arange(EPOCHS), COUNT), rows])


def test_the_evaluation_view_alone_is_taught_with_its_label(three_views, loader, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        trained(three_views, tmp_path, loader=loader, epochs=1, augment="none")
    images, target = taught_by(watch)
    task, rows = open_task(three_views.path), order_of(1)
    assert np.array_equal(target, by_hand()[rows, 0])
    assert np.array_equal(images, drawn(task, task.stored.scored, 0)[rows])


def test_a_stored_mean_is_taught_on_fresh_views(make_manifest, loader, tmp_path, monkeypatch):
    mean_N1C = by_hand().mean(axis=1, keepdims=True)
    manifest = make_manifest(count=COUNT, views=1, targets_NVC=mean_N1C, policy="mean", scored_views=3)
    with watched(monkeypatch) as watch:
        report = trained(manifest, tmp_path, loader=loader, epochs=2)
    images, target = taught_by(watch)
    assert report["policy"] == "mean"
    assert np.array_equal(target, mean_N1C[order_of(2), 0])
    assert not np.array_equal(images[np.argsort(order_of(1))], images[COUNT:][np.argsort(epoch_order(0, 1, COUNT))])


def test_online_teaches_what_the_teacher_says_of_the_very_pixels(three_views, loader, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        report = trained(three_views, tmp_path, loader=loader, epochs=2, teacher="tiny_networks:linear")
    images, target = taught_by(watch)
    module, info = build_model("tiny_networks:linear", class_count=3, image_px=8)
    assert info.preprocessing.mean == list(CIFAR_MEAN)
    np.testing.assert_allclose(target, linear_logits(images, module, CIFAR_MEAN, CIFAR_STD), rtol=1e-4, atol=1e-3)
    task = open_task(three_views.path)
    fresh = replace(task.stored.scored, seed=stream_seed(0, Stream.VIEWS))
    assert np.array_equal(images[:COUNT], drawn(task, fresh, 1)[order_of(1)])
    assert report["policy"] == "online"


def test_labels_alone_bring_no_target_to_the_loss(three_views, tmp_path, monkeypatch):
    with watched(monkeypatch) as watch:
        trained(three_views, tmp_path, epochs=1, loss="ce")
    assert [step.target for step in watch.steps] == [None] * STEPS


@pytest.mark.parametrize("temperature", [1.0, 4.0, 3.0])
def test_top_k_labels_reach_the_loss_as_logits_at_its_temperature(
    make_manifest, loader, temperature, tmp_path, monkeypatch
):
    generator = np.random.default_rng(0)
    names = ["blue", "green", "red", *(f"other {number}" for number in range(9))]
    logits_NVC = generator.normal(0, 3, (COUNT, 3, len(names))).astype(np.float16)
    manifest = make_manifest(count=COUNT, views=3, targets_NVC=logits_NVC, top_k=4, class_names=names)
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path, loader=loader, epochs=1, temperature=temperature)
    _, target = taught_by(watch)
    task, rows = open_task(manifest.path), order_of(1)
    stored = top_k(logits_NVC[rows, replayed_views(task, 1).astype(int)], task.beton.columns["label"][rows], 4)
    np.testing.assert_allclose(target, stored.logits(temperature), rtol=1e-6, atol=1e-6)
    assert {step.temperature for step in watch.steps} == {temperature}
    with pytest.raises(UsageError, match="cannot be averaged"):
        trained(manifest, tmp_path / "mean", policy="mean")


def labelled(make_manifest, kind, augment, views=4):
    """A selection whose stored labels are what tiny_networks:linear says of each view, that network, and its facts."""
    flags = {"count": COUNT, "jpeg": kind == "jpeg", "augment": augment, "views": views}
    blank = open_task(make_manifest(**flags).path)
    facts = blank.preprocessing(8)
    module, _ = build_model("tiny_networks:linear", class_count=3, image_px=8)
    images = [drawn(blank, blank.stored.scored, view) for view in range(views)]
    targets_NVC = np.stack([linear_logits(seen, module, facts.mean, facts.std) for seen in images], axis=1)
    return make_manifest(**flags, targets_NVC=targets_NVC), module, facts


@pytest.mark.parametrize(("kind", "augment"), [("raw", "pad_crop_flip"), ("jpeg", "resized_crop_flip")])
def test_the_stored_label_is_the_teachers_of_every_batch(make_manifest, loader, kind, augment, tmp_path, monkeypatch):
    manifest, module, facts = labelled(make_manifest, kind, augment)

    def agree(watch, steps):
        images, target = taught_by(watch)
        assert len(images) == steps * BATCH
        np.testing.assert_allclose(target, linear_logits(images, module, facts.mean, facts.std), rtol=2e-3, atol=2e-2)
        return images, target

    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "whole", loader=loader, workers=1, epochs=4)
    images, target = agree(watch, 4 * STEPS)
    monkeypatch.setattr(torch_loader, "PROCESS_ROWS", 1)
    processes, opened = [], DataLoader.__init__

    def counted(self, *args, num_workers=0, **options):
        processes.append(num_workers)
        opened(self, *args, num_workers=num_workers, **options)

    monkeypatch.setattr(DataLoader, "__init__", counted)
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "two", loader=loader, workers=2, epochs=4)
    again = agree(watch, 4 * STEPS)
    if loader == "torch":
        assert (processes[0] > 0) == (kind == "jpeg")
    assert np.array_equal(images, again[0])
    assert np.array_equal(target, again[1])

    with stopped_at(monkeypatch, 2 * STEPS + 2):
        trained(manifest, tmp_path / "resumed", loader=loader, epochs=4)
    with watched(monkeypatch) as watch:
        trained(manifest, tmp_path / "resumed", loader=loader, epochs=4)
    resumed = agree(watch, 2 * STEPS)
    assert np.array_equal(resumed[0], images[2 * COUNT :])
    assert np.array_equal(resumed[1], target[2 * COUNT :])


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_slices_of_all_ranks_pair_views_with_their_labels(make_manifest, loader, kind, world_size):
    manifest, module, facts = labelled(make_manifest, kind, "pad_crop_flip")
    task = open_task(manifest.path)
    views = TrainingViews.of(task, policy="replay")
    opened = open_loader(task.beton, kind=loader, recipe=views.recipe, preprocessing=facts, workers=1)
    for epoch in range(3):
        seen = []
        for rank in range(world_size):
            rows_n = rank_rows(epoch_order(0, epoch, COUNT), batch_size=BATCH, rank=rank, world_size=world_size)
            view_n, target_view_n = views.of_epoch(epoch, rows_n)
            size = BATCH // world_size
            for batch in opened.batches(rows_n, view_n=view_n, target_view_n=target_view_n, batch_size=size):
                want = linear_logits(batch.images.numpy(), module, facts.mean, facts.std)
                np.testing.assert_allclose(batch.target.numpy(), want, rtol=2e-3, atol=2e-2)
                seen.extend(batch.rows)
        assert sorted(seen) == list(range(COUNT))
    opened.close()


CHECK = """
import os, sys
from pathlib import Path

import numpy as np
from trainer.loop import epoch
from trainer.models.build import build_model
from trainer_support import linear_logits

module, _ = build_model("tiny_networks:linear", class_count=3, image_px=8)
normalise, sample_losses = epoch.normalise, epoch.sample_losses
shown, count = [], [0]
stop_at = int(os.environ.get("STOP_AT", "-1"))

def seen(images, *rest):
    shown.append(images.numpy().copy())
    return normalise(images, *rest)

def taught(config, logits, target, **batch):
    want = linear_logits(shown.pop(), module, [0.5] * 3, [0.25] * 3)
    np.testing.assert_allclose(target.numpy(), want, rtol=2e-3, atol=2e-2)
    count[0] += len(target)
    if count[0] == stop_at:
        raise KeyboardInterrupt
    return sample_losses(config, logits, target, **batch)

epoch.normalise = seen
epoch.sample_losses = taught
from trainer.cli.train_student import main
try:
    main()
finally:
    Path(f"checked-{os.environ.get('RANK', '0')}").write_text(str(count[0]))
"""


@pytest.mark.parametrize(
    ("kind", "augment", "loader", "stop_at"),
    # In the second step of the second epoch, after so many samples on either rank.
    [
        pytest.param("raw", "pad_crop_flip", "torch", COUNT // 2 + BATCH, marks=pytest.mark.slow),
        pytest.param("jpeg", "resized_crop_flip", "ffcv", None, marks=pytest.mark.slow),
    ],
    indirect=["loader"],
)
def test_two_real_ranks_are_taught_the_labels_of_what_they_see(
    make_manifest, networks, kind, augment, loader, stop_at, tmp_path, monkeypatch
):
    manifest, _, _ = labelled(make_manifest, kind, augment)
    (tmp_path / "check.py").write_text(CHECK)
    support = [path for path in sys.path if path.endswith("support")]
    monkeypatch.setenv("PYTHONPATH", ":".join([str(networks), *support]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--manifest", manifest.path, "--student", QUICK["student"], "--epochs", EPOCHS, "--batch-size", BATCH]
    flags += ["--lr", "1e-6", "--device", "cpu", "--loader", loader, "--workers", "1"]

    def checked(*, is_stopped):
        """How many samples each rank was taught."""
        ranks = ended(two_ranks(tmp_path, "check.py", *flags))
        assert [code != 0 for code, _ in ranks] == [is_stopped] * 2, ranks
        return [int((tmp_path / f"checked-{rank}").read_text()) for rank in (0, 1)]

    epochs_left = EPOCHS
    if stop_at is not None:
        with monkeypatch.context() as patch:
            patch.setenv("STOP_AT", str(stop_at))
            assert checked(is_stopped=True) == [stop_at] * 2
        epochs_left -= 1
    assert checked(is_stopped=False) == [epochs_left * COUNT // 2] * 2
