import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision import transforms

from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from trainer.data.views import VIEW_RECIPES, ViewPlan, ViewRecipe, epoch_views, plan_views

SMALL = Preprocessing(image_px=32, resize_px=32, mean=[0.5] * 3, std=[0.5] * 3)
LARGE = Preprocessing(image_px=224, resize_px=256, mean=[0.5] * 3, std=[0.5] * 3)
RESIZED = ViewRecipe(name="resized_crop_flip", seed=7)
PADDED = ViewRecipe(name="pad_crop_flip", seed=7)


def sizes(*pairs):
    width_n, height_n = np.array(pairs, np.int32).T
    return width_n, height_n


def many(count, width, height):
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2**64, count, dtype=np.uint64)
    return ids, np.full(count, width, np.int32), np.full(count, height, np.int32)


def assert_equal(plan, other):
    for name in ("box_n4", "grid_n4", "shift_n2", "flip_n"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(other, name), err_msg=name)


def rows_of(plan, rows):
    return ViewPlan(
        box_n4=plan.box_n4[rows], grid_n4=plan.grid_n4[rows], shift_n2=plan.shift_n2[rows], flip_n=plan.flip_n[rows]
    )


def test_the_evaluation_view_resizes_the_short_side_and_crops_the_centre():
    width_n, height_n = sizes((400, 533), (533, 400), (256, 256), (300, 300), (257, 500))
    plan = plan_views(ViewRecipe(), LARGE, np.zeros(5, np.uint64), 0, width_n, height_n)
    np.testing.assert_array_equal(plan.box_n4[:, 2:], np.stack([width_n, height_n], axis=1))
    # 256 * 533 / 400 = 341.12; (341 - 224) / 2 = 58.5 rounds to the even 58; 256 * 500 / 257 = 498.05.
    np.testing.assert_array_equal(
        plan.grid_n4,
        [(256, 341, 16, 58), (341, 256, 58, 16), (256, 256, 16, 16), (256, 256, 16, 16), (256, 498, 16, 137)],
    )
    assert not plan.flip_n.any()
    assert not plan.shift_n2.any()
    np.testing.assert_array_equal(plan.is_whole(width_n, height_n), [False, False, True, False, False])


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_the_resized_size_is_the_one_torchvision_computes(width, height, resize_px):
    preprocessing = Preprocessing(image_px=1, resize_px=resize_px, mean=[0.5] * 3, std=[0.5] * 3)
    plan = plan_views(ViewRecipe(), preprocessing, np.zeros(1, np.uint64), 0, *sizes((width, height)))
    if max(plan.grid_n4[0, :2]) < 3000:
        resized = transforms.Resize(resize_px)(Image.new("L", (width, height)))
        assert tuple(plan.grid_n4[0, :2]) == resized.size


def test_view_0_is_the_evaluation_view_under_every_recipe():
    ids, width_n, height_n = many(50, 300, 200)
    evaluation = plan_views(ViewRecipe(), LARGE, ids, 0, width_n, height_n)
    for name in VIEW_RECIPES:
        assert_equal(plan_views(ViewRecipe(name=name), LARGE, ids, 0, width_n, height_n), evaluation)
    assert_equal(plan_views(ViewRecipe(name="none"), LARGE, ids, 3, width_n, height_n), evaluation)


@pytest.mark.parametrize("recipe", [PADDED, RESIZED])
def test_a_view_depends_on_seed_view_id_and_number_only_and_not_on_its_neighbours(recipe):
    ids, width_n, height_n = many(200, 300, 200)
    height_n = height_n + np.arange(200, dtype=np.int32)
    view_n = np.arange(200) % 4
    plan = plan_views(recipe, LARGE, ids, view_n, width_n, height_n)
    rows = np.random.default_rng(1).permutation(200)[:77]
    part = plan_views(recipe, LARGE, ids[rows], view_n[rows], width_n[rows], height_n[rows])
    assert_equal(rows_of(plan, rows), part)
    for row in rows[:5]:
        one = plan_views(recipe, LARGE, ids[[row]], int(view_n[row]), width_n[[row]], height_n[[row]])
        assert_equal(rows_of(plan, [row]), one)
    other = plan_views(ViewRecipe(name=recipe.name, seed=8), LARGE, ids, view_n, width_n, height_n)
    augmented = view_n > 0
    moved = (plan.box_n4 != other.box_n4).any(axis=1) | (plan.shift_n2 != other.shift_n2).any(axis=1)
    assert moved[augmented].mean() > 0.95
    assert not moved[~augmented].any()


def test_the_views_of_version_1_are_these_for_ever():
    """Stored labels belong to these crops: numbers that change here need a new recipe version."""
    ids = np.array([1, 2, 9, 2**63 + 5], np.uint64)
    padded = plan_views(PADDED, SMALL, ids, 1, *sizes(*[(32, 32)] * 4))
    np.testing.assert_array_equal(padded.shift_n2, [(-4, 3), (-4, -3), (2, 0), (-1, 3)])
    np.testing.assert_array_equal(padded.flip_n, [False, False, True, False])
    sizes_n = sizes((500, 400), (400, 500), (2000, 100), (300, 300))
    resized = plan_views(RESIZED, LARGE, ids, [1, 2, 3, 1], *sizes_n)
    boxes = [
        (68.942, 4.945, 452.242, 358.802),
        (17.016, 65.747, 382.811, 445.841),
        (933.333, 0, 1066.667, 100),
        (150.088, 119.123, 299.511, 279.694),
    ]
    np.testing.assert_allclose(resized.box_n4, boxes, rtol=0, atol=1e-3)


def test_padded_shifts_are_uniform_and_half_of_the_views_are_mirrored():
    ids, width_n, height_n = many(20_000, 32, 32)
    plan = plan_views(PADDED, SMALL, ids, 1, width_n, height_n)
    assert plan.shift_n2.min() == -4
    assert plan.shift_n2.max() == 4
    pairs = (plan.shift_n2[:, 0] + 4) * 9 + plan.shift_n2[:, 1] + 4
    assert stats.chisquare(np.bincount(pairs, minlength=81)).pvalue > 1e-3
    assert abs(plan.flip_n.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(plan.flip_n, plan.shift_n2[:, 0])[0, 1]) < 0.03
    assert plan.is_whole(width_n, height_n).all()
    wide = plan_views(ViewRecipe(name="pad_crop_flip", pad_px=9, flip=False), SMALL, ids, 1, width_n, height_n)
    assert np.abs(wide.shift_n2).max() == 9
    assert not wide.flip_n.any()
    still = plan_views(ViewRecipe(name="pad_crop_flip", pad_px=0), SMALL, ids, 1, width_n, height_n)
    assert not still.shift_n2.any()


@pytest.mark.parametrize(("width", "height"), [(300, 300), (500, 375), (200, 400)])
def test_resized_crops_are_distributed_as_torchvisions(width, height):
    count = 3000
    ids, width_n, height_n = many(count, width, height)
    box_n4 = plan_views(RESIZED, LARGE, ids, 1, width_n, height_n).box_n4.astype(np.float64)
    image = Image.new("L", (width, height))
    torch.manual_seed(0)
    drawn = [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    top_n, left_n, crop_height_n, crop_width_n = np.array(drawn, np.float64).T
    ours = {
        "area": (box_n4[:, 2] - box_n4[:, 0]) * (box_n4[:, 3] - box_n4[:, 1]) / (width * height),
        "ratio": (box_n4[:, 2] - box_n4[:, 0]) / (box_n4[:, 3] - box_n4[:, 1]),
        "left": box_n4[:, 0] / width,
        "top": box_n4[:, 1] / height,
    }
    theirs = {
        "area": crop_height_n * crop_width_n / (width * height),
        "ratio": crop_width_n / crop_height_n,
        "left": left_n / width,
        "top": top_n / height,
    }
    for name, values in ours.items():
        assert stats.ks_2samp(values, theirs[name]).statistic < 0.06, name


def test_an_image_no_crop_fits_shows_its_centre_within_the_ratios_as_torchvision_does():
    image = Image.new("L", (1000, 50))
    top, left, height, width = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    plan = plan_views(RESIZED, LARGE, np.arange(9, dtype=np.uint64), 1, *sizes(*[(1000, 50)] * 9))
    for box in plan.box_n4:
        np.testing.assert_allclose(box, (left, top, left + width, top + height), atol=1)
    tall = plan_views(RESIZED, LARGE, np.arange(1, dtype=np.uint64), 1, *sizes((60, 6000)))
    np.testing.assert_allclose(tall.box_n4[0], (0, 2960, 60, 3040), rtol=1e-5)


def test_a_copy_of_another_size_shows_the_same_part_of_the_picture():
    ids, width_n, height_n = many(500, 500, 400)
    plan = plan_views(RESIZED, LARGE, ids, 2, width_n, height_n)
    half = plan_views(RESIZED, LARGE, ids, 2, width_n // 2, height_n // 2)
    np.testing.assert_allclose(plan.box_n4, half.box_n4 * 2, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(plan.flip_n, half.flip_n)


@given(
    st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)), min_size=1, max_size=30),
    st.integers(0, 2**63 - 1),
    st.sampled_from(["pad_crop_flip", "resized_crop_flip", "none"]),
)
@settings(max_examples=60, deadline=None)
def test_every_box_lies_inside_its_image_whatever_the_size(pairs, seed, name):
    width_n, height_n = sizes(*pairs)
    ids = np.arange(len(pairs), dtype=np.uint64)
    plan = plan_views(ViewRecipe(name=name, seed=seed), SMALL, ids, np.arange(len(pairs)) % 3, width_n, height_n)
    plan.check(width_n, height_n, SMALL.image_px)
    assert plan.box_n4.dtype == np.float32
    assert len(plan) == len(pairs)


@given(
    st.lists(st.tuples(*[st.integers(1, 65535)] * 4), min_size=1, max_size=30),
    st.integers(0, 2**63 - 1),
    st.sampled_from(["pad_crop_flip", "resized_crop_flip", "none"]),
)
@settings(max_examples=60, deadline=None)
def test_an_image_of_any_size_is_shown_in_the_crop_of_the_one_that_was_scored(pairs, seed, name):
    width_n, height_n, scored_width_n, scored_height_n = np.array(pairs, np.int32).T
    ids, view_n = np.arange(len(pairs), dtype=np.uint64), np.arange(len(pairs)) % 3
    recipe = ViewRecipe(name=name, seed=seed)
    scored_n2 = np.stack([scored_width_n, scored_height_n], axis=1)
    scored = plan_views(recipe, SMALL, ids, view_n, scored_width_n, scored_height_n)
    shown = plan_views(recipe, SMALL, ids, view_n, width_n, height_n, scored_n2)
    shown.check(width_n, height_n, SMALL.image_px)
    share = [
        plan.box_n4.astype(np.float64) / np.stack([width, height] * 2, axis=1)
        for plan, width, height in ((scored, scored_width_n, scored_height_n), (shown, width_n, height_n))
    ]
    np.testing.assert_allclose(share[1], share[0], rtol=0, atol=1e-6)
    for part in ("grid_n4", "shift_n2", "flip_n"):
        np.testing.assert_array_equal(getattr(shown, part), getattr(scored, part))
    assert_equal(plan_views(recipe, SMALL, ids, view_n, scored_width_n, scored_height_n, scored_n2), scored)


def test_which_draw_fits_is_told_by_the_scored_aspect_and_not_by_a_rounded_one():
    """Of a picture of 267 x 401, half is 133 x 200: for some views another draw would be the first that fits."""
    ids, width_n, height_n = many(3000, 133, 200)
    scored_n2 = np.tile(np.array([[267, 401]], np.int32), (3000, 1))
    scored = plan_views(RESIZED, LARGE, ids, 1, *scored_n2.T).box_n4 / [267, 401, 267, 401]
    own = plan_views(RESIZED, LARGE, ids, 1, width_n, height_n).box_n4 / [133, 200, 133, 200]
    shown = plan_views(RESIZED, LARGE, ids, 1, width_n, height_n, scored_n2).box_n4 / [133, 200, 133, 200]
    assert 0 < (np.abs(own - scored).max(axis=1) > 0.05).sum() < 100
    np.testing.assert_allclose(shown, scored, rtol=0, atol=1e-6)


def test_a_box_outside_its_image_or_a_square_outside_its_grid_is_refused():
    ids, width_n, height_n = many(4, 40, 30)
    for name, column, value in [("box_n4", 0, -0.5), ("box_n4", 2, 40.5), ("box_n4", 3, 0.0), ("grid_n4", 2, 12)]:
        plan = plan_views(ViewRecipe(), SMALL, ids, 0, width_n, height_n)
        getattr(plan, name)[2, column] = value
        with pytest.raises(ValueError, match="view 2 is outside its 40x30 image"):
            plan.check(width_n, height_n, SMALL.image_px)


def test_each_epoch_shows_another_scored_view_until_all_were_seen():
    ids = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    shown = np.stack([epoch_views(epoch, ids, 5) for epoch in range(100, 104)])
    np.testing.assert_array_equal(np.sort(shown, axis=0), np.tile([[1], [2], [3], [4]], 4000))
    np.testing.assert_array_equal(epoch_views(104, ids, 5), epoch_views(100, ids, 5))
    assert stats.chisquare(np.bincount(shown[0], minlength=5)[1:]).pvalue > 1e-3
    np.testing.assert_array_equal(epoch_views(3, ids, 2), 1)


@pytest.mark.parametrize("view_count", [0, 1])
def test_unscored_views_never_repeat(view_count):
    ids = np.arange(3, dtype=np.uint64)
    np.testing.assert_array_equal(
        [epoch_views(epoch, ids, view_count) for epoch in (0, 1, 9)], [[1] * 3, [2] * 3, [10] * 3]
    )


def test_recipes_that_cannot_be_drawn_are_refused():
    with pytest.raises(UsageError, match="unknown view recipe 'spin'"):
        ViewRecipe(name="spin")
    with pytest.raises(InputError, match="version 2; this tool draws version 1"):
        ViewRecipe(name="none", version=2)
    for wrong in ({"pad_px": -1}, {"scale_min": 0.0}, {"scale_min": 0.9, "scale_max": 0.5}, {"ratio_min": -1.0}):
        with pytest.raises(UsageError):
            ViewRecipe(name="resized_crop_flip", **wrong)
    wrong = Preprocessing(image_px=224, resize_px=200, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UsageError, match="resized to 200 px and cropped to 224 px"):
        plan_views(ViewRecipe(), wrong, np.zeros(1, np.uint64), 0, *sizes((300, 300)))
    with pytest.raises(ValueError, match="view -1"):
        plan_views(ViewRecipe(), SMALL, np.zeros(1, np.uint64), -1, *sizes((300, 300)))
