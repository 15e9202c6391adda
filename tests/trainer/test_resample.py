import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import functional

from manifests.format.header import Preprocessing
from trainer.data.batches import image_views
from trainer.data.resample import INTERPOLATIONS, draw_view, place_block, place_pillow, resample_pillow
from trainer.data.views import ViewPlan

NAMES = sorted(INTERPOLATIONS)


def extents(side):
    """Low and high end of a box along a side, a quarter of a pixel or longer."""
    ends = st.tuples(*[st.floats(0, side, width=32)] * 2).map(sorted)
    return ends.map(lambda pair: pair if pair[1] - pair[0] >= 0.25 else [0.0, side])


@st.composite
def views(draw):
    """An image, a box inside it, a grid with a square inside it, and how to place that."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    size_px = draw(st.integers(1, 60))
    whole = draw(st.booleans())
    (x0, x1), (y0, y1) = ([0.0, side] if whole else draw(extents(side)) for side in (width, height))
    grid = [draw(st.integers(size_px, size_px + 20)) for _ in range(2)]
    if draw(st.booleans()):
        grid = [max(width, size_px), max(height, size_px)]
    corner = [draw(st.integers(0, side - size_px)) for side in grid]
    shift = [draw(st.integers(-size_px - 2, size_px + 2)) for _ in range(2)]
    plan = ViewPlan(
        box_n4=np.array([[x0, y0, x1, y1]], np.float32),
        grid_n4=np.array([[*grid, *corner]], np.int32),
        shift_n2=np.array([shift], np.int16),
        flip_n=np.array([draw(st.booleans())]),
    )
    plan.check(np.array([width], np.int32), np.array([height], np.int32), size_px)
    seed = draw(st.integers(0, 2**32 - 1))
    extreme = draw(st.booleans())
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if extreme else pixels, plan, size_px


def pillow_passes(picture, size, method, box=None):
    """Pillow's resize with its passes in the order all versions before 13 have: columns first."""
    x0, y0, x1, y1 = box or (0, 0, *picture.size)
    narrow = picture.resize((size[0], picture.height), method, box=(x0, 0, x1, picture.height))
    return narrow.resize(size, method, box=(0, y0, size[0], y1))


@given(views(), st.sampled_from(NAMES))
@settings(max_examples=150, deadline=None)
def test_a_view_is_pillows_resize_then_torchvisions_crop_pad_and_flip(view, interpolation):
    pixels, plan, size_px = view
    grid_width, grid_height, left, top = plan.grid_n4[0].tolist()
    box = plan.box_n4[0].tolist()
    resized = pillow_passes(Image.fromarray(pixels), (grid_width, grid_height), INTERPOLATIONS[interpolation], box)
    picture = functional.crop(resized, top, left, size_px, size_px)
    dx, dy = plan.shift_n2[0].tolist()
    reach = size_px + 2
    picture = functional.crop(functional.pad(picture, reach), reach - dy, reach - dx, size_px, size_px)
    wanted = np.asarray(ImageOps.mirror(picture) if plan.flip_n[0] else picture)
    out = np.full((size_px, size_px, 3), 77, np.uint8)
    draw_view(pixels, plan, 0, interpolation, out)
    np.testing.assert_array_equal(out, wanted)


@given(views(), st.sampled_from(NAMES))
@settings(max_examples=250, deadline=None)
def test_the_compiled_kernel_equals_pillow_byte_for_byte(view, interpolation):
    pytest.importorskip("numba")
    from trainer.data.kernels import render

    pixels, plan, size_px = view
    wanted, out = np.empty((2, size_px, size_px, 3), np.uint8)
    draw_view(pixels, plan, 0, interpolation, wanted)
    bicubic = interpolation == "bicubic"
    render(pixels, plan.box_n4[0], plan.grid_n4[0], plan.shift_n2[0], bool(plan.flip_n[0]), bicubic, out)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("interpolation", NAMES)
@pytest.mark.parametrize("axis", [0, 1])
def test_one_pass_equals_pillow_in_one_call(interpolation, axis):
    generator = np.random.default_rng(0)
    for _ in range(20):
        size_px, long = (int(side) for side in generator.integers(8, 70, 2))
        shape = (size_px, long) if axis == 0 else (long, size_px)
        pixels = generator.integers(0, 256, (*shape, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((size_px, size_px), INTERPOLATIONS[interpolation])
        box, grid = np.array([0, 0, *shape[::-1]], np.float32), np.array([size_px, size_px, 0, 0], np.int32)
        out = resample_pillow(pixels, box, grid, size_px, interpolation)
        np.testing.assert_array_equal(out, np.asarray(picture))


def test_a_hand_worked_enlargement():
    """[0, 100] stretched to 4: centres at 0.25, 0.75, 1.25, 1.75 weigh the pixels 1:0, 3:1, 1:3, 0:1."""
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[:, 1] = 100
    out = resample_pillow(pixels, np.array([0, 0, 2, 4], np.float32), np.array([4, 4, 0, 0], np.int32), 4, "bilinear")
    np.testing.assert_array_equal(out[:, :, 0], np.tile([0, 25, 75, 100], (4, 1)))


def test_a_shift_moves_right_and_down_over_zeros_and_the_mirror_comes_last():
    square = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1).repeat(3, axis=2)
    out = np.full((3, 3, 3), 99, np.uint8)
    place_pillow(square, 1, -1, False, out)
    np.testing.assert_array_equal(out[:, :, 0], [[0, 4, 5], [0, 7, 8], [0, 0, 0]])
    place_pillow(square, 1, -1, True, out)
    np.testing.assert_array_equal(out[:, :, 0], [[5, 4, 0], [8, 7, 0], [0, 0, 0]])
    place_pillow(square, 3, 0, False, out)
    assert not out.any()


@given(st.integers(1, 20), st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_block_of_squares_is_placed_as_one_by_one(size, count, reach, seed):
    generator = np.random.default_rng(seed)
    square_nSS3 = generator.integers(0, 256, (count, size + 2, size + 1, 3), np.uint8)[:, 1:-1, :-1]
    shift_n2 = generator.integers(-reach, reach + 1, (count, 2)).astype(np.int16)
    flip_n = generator.random(count) < 0.5
    wanted = np.empty((count, size, size, 3), np.uint8)
    for square, (dx, dy), flip, out in zip(square_nSS3, shift_n2.tolist(), flip_n, wanted, strict=True):
        place_pillow(square, dx, dy, bool(flip), out)
    np.testing.assert_array_equal(place_block(square_nSS3, shift_n2, flip_n), wanted)


@pytest.mark.parametrize(
    ("image_px", "resize_px", "interpolation"), [(224, 256, "bilinear"), (160, 182, "bicubic"), (64, 64, "bilinear")]
)
def test_the_evaluation_view_of_real_photographs_is_torchvisions(shared_data, image_px, resize_px, interpolation):
    preprocessing = Preprocessing(
        image_px=image_px, resize_px=resize_px, interpolation=interpolation, mean=[0.5] * 3, std=[0.5] * 3
    )
    resize = transforms.Resize(resize_px, interpolation=transforms.InterpolationMode(interpolation))
    crop = transforms.CenterCrop(image_px)
    paths = sorted((shared_data / "imagefolder_clothing" / "test").glob("*/*.jpg"))[::8]
    assert len(paths) > 10
    for path in paths:
        with Image.open(path) as opened:
            upright = opened.convert("RGB")
        for picture in (upright, upright.transpose(Image.Transpose.ROTATE_90)):
            view = image_views(np.asarray(picture), preprocessing)[0]
            ordered = pillow_passes(picture, resize(picture).size, INTERPOLATIONS[interpolation])
            np.testing.assert_array_equal(view, np.asarray(crop(ordered)))
            # Pillow from 13 on may run the passes in the other order.
            installed = np.asarray(crop(resize(picture))).astype(np.int64)
            assert np.abs(view - installed).max() <= 2
