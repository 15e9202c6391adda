"""Which policy is meant, which views it shows, and which stored label it asks for: by hand, without training."""

from dataclasses import replace

import numpy as np
import pytest

from manifests.errors import InputError, UsageError
from manifests.images.identity import mix64
from trainer.data.order import Stream, stream_seed
from trainer.data.policies import TrainingViews, choose_policy
from trainer.data.stored import StoredLabels
from trainer.data.task import open_task
from trainer.data.views import MEAN_VIEW, ViewRecipe
from trainer.loop.recipes import resolve
from trainer.loop.run_report import taught

SCORED = ViewRecipe(name="resized_crop_flip", seed=5, scale_min=0.3, ratio_min=0.5, flip=False)
REPLAYED = StoredLabels(count=640, image_px=32, view_count=8, policy="replay", scored=SCORED, scored_views=8)
MEAN = replace(REPLAYED, view_count=1, policy="mean")
SINGLE = replace(REPLAYED, view_count=1, policy="single")
ONE = replace(REPLAYED, view_count=2, scored_views=2)
OLD = StoredLabels(count=640, image_px=32, view_count=1)
INDEX = StoredLabels(count=640, image_px=32)


def config(stored, **flags):
    return resolve(flags, recipe="auto", stored=stored)


@pytest.mark.parametrize(
    ("stored", "augment", "policy"),
    [
        (REPLAYED, None, "replay"),
        (REPLAYED, "resized_crop_flip", "replay"),
        (REPLAYED, "pad_crop_flip", "single"),
        (REPLAYED, "none", "single"),
        (replace(REPLAYED, policy="mean"), "none", "mean"),
        (replace(REPLAYED, policy=None), None, "replay"),
        (MEAN, None, "mean"),
        (MEAN, "none", "mean"),
        (SINGLE, None, "single"),
        (OLD, None, "single"),
        (OLD, "none", "single"),
    ],
)
def test_the_policy_is_that_of_the_stored_labels_unless_other_augmentation_is_asked_for(stored, augment, policy):
    assert choose_policy(stored, "auto", augment=augment) == choose_policy(stored, augment=augment) == policy
    assert config(stored, augment=augment).policy == policy


@pytest.mark.parametrize(
    ("stored", "policy", "message", "hint"),
    [
        (OLD, "replay", "needs stored labels of several views; this manifest has 1", "prune label SELECTION --views 8"),
        (MEAN, "replay", "this manifest has 1", "--policy single"),
        (SINGLE, "mean", "the only stored label is that of view 0", "prune label SELECTION --policy mean"),
        (MEAN, "single", "the only stored label is the mean over 8 views", "--policy mean"),
        (
            replace(REPLAYED, top_k=10),
            "mean",
            "labels of 10 logits per view cannot be averaged",
            "prune label SELECTION --policy mean --top-k 10",
        ),
        (REPLAYED, "magic", "--policy magic is not known", "auto, replay, mean, single, online"),
        (REPLAYED, "online", "needs a live teacher", "--teacher SPEC"),
    ],
)
def test_a_policy_that_the_labels_do_not_serve_is_refused_with_the_next_step(stored, policy, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        config(stored, policy=policy)
    assert hint in caught.value.hint


def test_policies_that_are_asked_for_by_name():
    assert config(REPLAYED, policy="mean").policy == "mean"
    assert config(REPLAYED, policy="single").policy == "single"
    assert config(replace(REPLAYED, top_k=10), policy="single").policy == "single"
    assert config(replace(MEAN, top_k=10)).policy == "mean"


def test_a_live_teacher_is_the_policy_online_and_contradicts_the_others():
    assert config(INDEX, teacher="resnet20").policy == "online"
    assert config(REPLAYED, teacher="resnet20", policy="online").policy == "online"
    assert config(REPLAYED, teacher="resnet20", policy="auto").policy == "online"
    with pytest.raises(UsageError, match="--teacher and --policy replay contradict each other"):
        config(REPLAYED, teacher="resnet20", policy="replay")
    with pytest.raises(UsageError, match="--teacher resnet20 and --loss ce contradict each other"):
        config(REPLAYED, teacher="resnet20", loss="ce")


def test_labels_alone_have_no_policy_and_fresh_views():
    got = config(REPLAYED, loss="ce")
    assert (got.policy, got.augment) == (None, "resized_crop_flip")
    with pytest.raises(UsageError, match="--policy replay and --loss ce contradict each other"):
        config(REPLAYED, loss="ce", policy="replay")


@pytest.mark.parametrize("flags", [{"policy": "single"}, {"policy": "mean"}, {"teacher": "t"}, {"loss": "ce"}])
def test_fresh_views_are_like_the_scored_ones_unless_flags_say_otherwise(flags):
    got = config(REPLAYED, **flags)
    assert (got.augment, got.scale_min, got.flip) == ("resized_crop_flip", 0.3, False)
    got = config(REPLAYED, scale_min=0.5, flip=True, **flags)
    assert (got.augment, got.scale_min, got.flip) == ("resized_crop_flip", 0.5, True)
    got = config(REPLAYED, augment="pad_crop_flip", pad_px=3, **flags)
    assert (got.augment, got.pad_px, got.flip) == ("pad_crop_flip", 3, True)


def test_without_scored_views_the_image_size_and_the_recipe_decide():
    assert config(OLD).augment == "pad_crop_flip"
    assert config(replace(OLD, image_px=65)).augment == "resized_crop_flip"
    assert config(OLD).flip is True
    assert resolve({}, recipe="demo", stored=OLD).flip is False
    assert resolve({}, recipe="demo", stored=replace(OLD, scored=ViewRecipe(name="pad_crop_flip"))).flip is True


def test_replayed_views_are_the_scored_ones_and_nothing_else():
    got = config(REPLAYED)
    assert (got.augment, got.scale_min, got.flip) == ("resized_crop_flip", 0.3, False)
    same = {"augment": "resized_crop_flip", "scale_min": 0.3, "flip": False}
    assert config(REPLAYED, policy="replay", **same) == config(REPLAYED, **same) == got
    for flags, message in [
        ({"augment": "pad_crop_flip"}, "--augment pad_crop_flip: the views with stored labels are resized_crop"),
        ({"scale_min": 0.2}, "--scale-min 0.2: the views .* are resized_crop_flip with 0.3"),
        ({"flip": True}, "--flip True"),
    ]:
        with pytest.raises(UsageError, match=message):
            config(REPLAYED, policy="replay", **flags)
    padded = replace(REPLAYED, scored=ViewRecipe(name="pad_crop_flip"))
    assert config(padded, pad_px=4).policy == "replay"
    with pytest.raises(UsageError, match="--pad 2"):
        config(padded, pad_px=2)


def test_labels_of_views_that_the_header_does_not_tell_of_are_not_replayed():
    with pytest.raises(InputError, match="the header does not say how these views are drawn"):
        config(replace(REPLAYED, scored=None))
    assert config(replace(REPLAYED, scored=None), policy="single").augment == "pad_crop_flip"


def test_augmentations_there_are_not_are_refused():
    with pytest.raises(UsageError, match="--augment replay is not known") as caught:
        config(REPLAYED, augment="replay")
    assert caught.value.hint.startswith("known: pad_crop_flip, resized_crop_flip, none; ")
    assert caught.value.hint.endswith("--policy replay")


@pytest.fixture(scope="module")
def task(make_manifest):
    return open_task(make_manifest(count=30, views=4).path)


def test_a_task_knows_what_is_stored(task, make_manifest):
    stored = task.stored
    assert (stored.count, stored.image_px, stored.view_count, stored.scored_views) == (30, 8, 4, 4)
    assert stored.scored == ViewRecipe(name="pad_crop_flip", seed=5, pad_px=2, scale_min=0.3)
    mean = open_task(make_manifest(count=6, views=1, policy="mean", scored_views=4, top_k=2).path).stored
    assert (mean.view_count, mean.policy, mean.top_k, mean.scored_views) == (1, "mean", 2, 4)
    assert mean.scored == stored.scored
    alone = open_task(make_manifest(count=6, views=1).path).stored
    assert (alone.scored, alone.scored_views) == (None, 1)


def test_replay_shows_every_scored_view_once_in_turn_with_its_own_label(task):
    views = TrainingViews.of(task, policy="replay")
    assert views.recipe == task.stored.scored
    rows = np.array([7, 3, 29])
    ids = task.beton.columns["view_id"][rows]
    seen = []
    for epoch in range(3):
        view_n, target_view_n = views.of_epoch(epoch, rows)
        assert target_view_n.tolist() == view_n.tolist()
        assert view_n.tolist() == [1 + (epoch + int(mix64(np.array([word]))[0]) % 3) % 3 for word in ids]
        seen.append(view_n)
    assert np.array_equal(np.sort(np.stack(seen), axis=0), [[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    assert np.array_equal(views.of_epoch(3, rows)[0], seen[0])


@pytest.mark.parametrize(("policy", "label"), [("single", 0), ("mean", MEAN_VIEW), ("online", 0), (None, 0)])
def test_fresh_views_never_repeat_and_have_a_seed_of_the_run(task, policy, label):
    views = TrainingViews.of(task, policy=policy, seed=3)
    assert views.recipe == replace(task.stored.scored, seed=stream_seed(3, Stream.VIEWS))
    for epoch in range(5):
        view_n, target_view_n = views.of_epoch(epoch, np.arange(5))
        assert set(view_n) == {1 + epoch}
        assert set(target_view_n) == {label}
    plain = TrainingViews.of(task, policy=policy, augment="none")
    assert [set(part) for part in plain.of_epoch(2, np.arange(5))] == [{0}, {label}]


def test_one_stored_mean_is_taken_as_it_is(make_manifest):
    task = open_task(make_manifest(count=6, views=1, policy="mean", scored_views=4).path)
    assert set(TrainingViews.of(task, policy="mean").of_epoch(0, np.arange(6))[1]) == {0}


@pytest.mark.parametrize(
    ("stored", "flags", "line"),
    [
        (REPLAYED, {}, "replay: 7 training views of {}, each with its own label; a view comes back every 7 epochs"),
        (ONE, {}, "replay: 1 training view of {}, each with its own label; a view comes back every epoch"),
        (REPLAYED, {"policy": "mean"}, "mean: fresh views of {}, the label is the mean over 8 stored views"),
        (MEAN, {}, "mean: fresh views of {}, the label is the mean over 8 stored views"),
        (OLD, {"augment": "none"}, "single: view 0 with its own label"),
        (REPLAYED, {"teacher": "resnet20"}, "online: fresh views of {}, labelled by resnet20 as they are shown"),
        (REPLAYED, {"loss": "ce"}, "labels alone: fresh views of {}"),
    ],
)
def test_what_is_taught_is_said_in_one_line(stored, flags, line):
    assert taught(stored, config(stored, **flags)) == line.format("resized_crop_flip")
