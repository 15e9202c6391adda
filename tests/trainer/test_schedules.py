"""Learning rates by hand, orders as permutations, and configurations resolved from recipes."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import UsageError
from trainer.config import TrainConfig, digest
from trainer.data.order import Stream, epoch_order, rank_rows, rank_share, stream_seed
from trainer.data.stored import StoredLabels
from trainer.loop.recipes import RECIPES, resolve
from trainer.loop.schedules import SCHEDULES, Schedule


def schedule(name, **values):
    return Schedule(**{"name": name, "lr": 0.1, "epochs": 10, "steps_per_epoch": 4} | values)


def test_step_falls_at_exactly_the_first_step_of_a_milestone():
    rates = [schedule("step", milestones=(2, 5)).learning_rate(step) for step in (0, 7, 8, 19, 20, 39)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_step_falls_inside_an_epoch_at_a_fractional_milestone():
    rates = [schedule("step", milestones=(2.5,)).learning_rate(step) for step in (8, 9, 10, 11)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_cosine_is_half_way_down_at_half_time():
    cosine = schedule("cosine")
    assert cosine.learning_rate(0) == pytest.approx(0.1)
    assert cosine.learning_rate(20) == pytest.approx(0.05)
    assert cosine.learning_rate(39) == pytest.approx(0.05 * (1 + math.cos(math.pi * 39 / 40)))


def test_warm_up_rises_linearly_to_the_full_rate_and_the_cosine_starts_there():
    warm = schedule("cosine", warmup_epochs=2)
    assert [warm.learning_rate(step) for step in range(8)] == pytest.approx([0.1 * k / 8 for k in range(1, 9)])
    assert warm.learning_rate(8) == pytest.approx(0.1)
    assert warm.learning_rate(24) == pytest.approx(0.05)


def test_constant_stays():
    assert {schedule("constant").learning_rate(step) for step in range(40)} == {0.1}


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    epochs=st.integers(1, 50),
    steps=st.integers(1, 20),
    warmup=st.floats(0, 0.9),
)
def test_rates_are_never_negative_and_never_above_the_highest(name, epochs, steps, warmup):
    rate = schedule(
        name, epochs=epochs, steps_per_epoch=steps, warmup_epochs=warmup * epochs, milestones=(0.3 * epochs,)
    ).learning_rate
    rates = [rate(step) for step in range(epochs * steps)]
    assert all(0 <= value <= 0.1 * (1 + 1e-12) for value in rates)


def test_every_epoch_shows_another_permutation_and_the_same_one_next_time():
    first = epoch_order(7, 0, 100)
    assert sorted(first) == list(range(100))
    assert np.array_equal(first, epoch_order(7, 0, 100))
    assert not np.array_equal(first, epoch_order(7, 1, 100))
    assert not np.array_equal(first, epoch_order(8, 0, 100))


def test_streams_of_one_seed_are_separate():
    seeds = {stream_seed(0, stream, word) for stream in Stream for word in range(10)}
    assert len(seeds) == 10 * len(Stream)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(count=st.integers(1, 200), local=st.integers(1, 8), world_size=st.integers(1, 4), seed=st.integers(0, 5))
def test_slices_of_the_ranks_concatenate_to_the_batches_of_one_process(count, local, world_size, seed):
    batch_size = local * world_size
    order = epoch_order(seed, 0, count)
    steps = count // batch_size
    ranks = [
        rank_rows(order, batch_size=batch_size, rank=rank, world_size=world_size).reshape(steps, local)
        for rank in range(world_size)
    ]
    whole = rank_rows(order, batch_size=batch_size, rank=0, world_size=1)
    assert np.array_equal(np.concatenate(ranks, axis=1).reshape(-1), whole)
    assert np.array_equal(whole, order[: steps * batch_size])


@given(count=st.integers(0, 100), world_size=st.integers(1, 7))
def test_each_validation_row_is_on_exactly_one_rank(count, world_size):
    shares = [rank_share(count, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(shares), np.arange(count))


def config(image_px=32, recipe="auto", count=640, **flags):
    stored = StoredLabels(count=count, image_px=image_px, view_count=1)
    return resolve(flags, recipe=recipe, stored=stored)


def test_recipe_cifar_is_the_published_one():
    got = config()
    assert (got.recipe, got.student, got.epochs, got.batch_size, got.lr) == ("cifar", "resnet8x4", 240, 64, 0.05)
    assert (got.momentum, got.weight_decay, got.milestones, got.gamma) == (0.9, 5e-4, (150, 180, 210), 0.1)
    assert (got.loss, got.kd_weight, got.temperature) == ("kd", 0.9, 4.0)


def test_recipe_imagenet_is_the_published_one():
    got = config(image_px=224)
    assert (got.recipe, got.student, got.epochs) == ("imagenet", "torchvision/resnet18", 100)
    assert (got.batch_size, got.lr, got.weight_decay) == (256, 0.1, 1e-4)
    assert (got.milestones, got.label_smoothing) == ((30, 60, 90), 0.0)


def test_milestones_keep_their_fractions_when_only_the_epochs_are_given():
    assert config(epochs=120).milestones == (75, 90, 105)
    assert config(epochs=1).milestones == (0.625, 0.75, 0.875)
    assert config(epochs=120, milestones=(60.0,)).milestones == (60,)


def test_warm_up_keeps_its_fraction_too():
    assert config(recipe="demo").warmup_epochs == 1
    assert config(recipe="demo", epochs=1).warmup_epochs == 0.05
    assert config(recipe="demo", epochs=1, warmup_epochs=0.5).warmup_epochs == 0.5


def test_image_size_decides_recipe_and_views():
    assert config(image_px=64).augment == "pad_crop_flip"
    assert config(image_px=65).augment == "resized_crop_flip"
    assert config(image_px=224, **{}).recipe == "imagenet"
    assert resolve({"image_px": 48}, recipe="auto", stored=StoredLabels(image_px=224)).recipe == "cifar"


def test_images_as_large_as_a_manifest_says_are_confirmed_before_they_take_gigabytes():
    stored = StoredLabels(image_px=4096)
    with pytest.raises(UsageError, match="256 images of 4096 px, the size that the manifest says, take") as refused:
        resolve({}, recipe="auto", stored=stored)
    assert refused.value.hint == "take a smaller --batch-size, or confirm the size with --image-size 4096"
    assert resolve({"image_px": 4096}, recipe="auto", stored=stored).batch_size == 256
    assert resolve({"batch_size": 16}, recipe="auto", stored=stored).image_px == 4096
    assert resolve({"batch_size": 64}, recipe="auto", stored=stored, world_size=4).image_px == 4096
    with pytest.raises(UsageError, match="--image-size must be from 1 to 4096, not 20000"):
        resolve({"image_px": 20000}, recipe="auto", stored=stored)


def test_every_recipe_resolves():
    for name in RECIPES:
        assert config(recipe=name).recipe == name
    with pytest.raises(UsageError, match="unknown recipe 'nope'"):
        config(recipe="nope")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"batch_size": -1}, "--batch-size must be at least 1, not -1"),
        ({"image_px": 0}, "--image-size must be from 1 to 4096, not 0"),
        ({"lr": 0.0}, "--lr must be above 0, not 0.0"),
        ({"lr": math.nan}, "--lr must be above 0, not nan"),
        ({"temperature": 0.0}, "--temperature must be above 0, not 0.0"),
        ({"kd_weight": 1.1}, r"--kd-weight must be in \[0, 1\], not 1.1"),
        ({"label_smoothing": 1.0}, r"--label-smoothing must be in \[0, 1\), not 1.0"),
        ({"momentum": 1.0}, r"--momentum must be in \[0, 1\), not 1.0"),
        ({"epochs": 3, "warmup_epochs": 3.0}, "--warmup-epochs must be below --epochs 3, not 3.0"),
        ({"milestones": (5.0, 2.0)}, "--milestones must be in increasing order, not 5,2"),
        ({"milestones": ()}, "--schedule step needs milestones"),
        ({"momentum": 0.0, "nesterov": True}, "--nesterov needs a momentum above 0"),
        ({"loss": "hinge"}, "--loss hinge is not known"),
        ({"optimizer": "lion"}, "--optimizer lion is not known"),
        ({"precision": "fp8"}, "--precision fp8 is not known"),
        ({"seed": -1}, "--seed must be 0 or more, not -1"),
    ],
)
def test_values_no_run_can_have_are_refused_with_the_flag_and_the_value(flags, message):
    with pytest.raises(UsageError, match=message):
        config(**flags)


def test_the_digest_follows_every_value_and_nothing_else():
    assert digest(asdict(config())) == digest(asdict(config()))
    assert len({digest(asdict(config(**flags))) for flags in ({}, {"seed": 1}, {"lr": 0.2}, {"epochs": 9})}) == 4
    assert isinstance(config(), TrainConfig)
