import io
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from beton_support import jpeg_bytes, jpeg_image, make_beton, raw_image, smooth
from PIL import Image

from manifests.errors import InputError
from manifests.format.header import Preprocessing
from trainer.data.loaders import ffcv_available, open_loader
from trainer.data.resample import draw_view
from trainer.data.views import MEAN_VIEW, ViewRecipe, plan_views

SMALL = Preprocessing(image_px=16, resize_px=16, mean=[0.5] * 3, std=[0.25] * 3)
LARGE = Preprocessing(image_px=40, resize_px=48, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
RECIPES = {name: ViewRecipe(name=name, seed=3) for name in ("none", "pad_crop_flip", "resized_crop_flip")}


def jpeg_kinds():
    """JPEGs of every kind a beton may hold: sampling, grey, progressive, restart markers, odd and tiny sizes."""
    generator = np.random.default_rng(1)
    options = [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}]
    options += [{"restart_marker_blocks": 3}, {"optimize": True, "quality": 100}, {"keep_rgb": True}]
    encoded = [jpeg_bytes(smooth(generator, 61 + row, 90 - row), **option) for row, option in enumerate(options)]
    encoded += [jpeg_bytes(smooth(generator, width, height)) for width, height in [(1, 1), (3, 70), (48, 48), (200, 9)]]
    encoded.append(jpeg_bytes(smooth(generator, 50, 60)[:, :, 0]))
    return encoded


@pytest.fixture(scope="module", autouse=True)
def ffcv_is_here():
    available, reason = ffcv_available()
    if not available:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("betons")


@pytest.fixture(scope="module")
def small(folder):
    """60 raw images of the network's size, targets of 3 views."""
    generator = np.random.default_rng(0)
    images = [raw_image(generator.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(60)]
    return make_beton(folder / "small.beton", images, views=3)


@pytest.fixture(scope="module")
def mixed(folder):
    """JPEGs of every kind and raw images, targets of 1 view."""
    generator = np.random.default_rng(2)
    images = [jpeg_image(data) for data in jpeg_kinds()]
    images += [raw_image(smooth(generator, width, height)) for width, height in [(48, 48), (200, 77), (5, 6), (40, 40)]]
    return make_beton(folder / "mixed.beton", images, views=1, classes=7)


@pytest.fixture(scope="module")
def loader(small):
    return open_loader(small, recipe=RECIPES["pad_crop_flip"], preprocessing=SMALL, workers=2)


def assert_same(batches, others):
    count = 0
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        for name in ("images", "label", "weight", "kd_weight", "target"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        count += 1
    assert count


@pytest.mark.parametrize(
    ("name", "preprocessing", "recipe", "workers"),
    [
        ("small", SMALL, "pad_crop_flip", 1),
        ("small", SMALL, "pad_crop_flip", 2),
        ("small", SMALL, "none", 2),
        ("small", LARGE, "resized_crop_flip", 2),
        ("mixed", LARGE, "none", 2),
        ("mixed", LARGE, "pad_crop_flip", 1),
        ("mixed", LARGE, "resized_crop_flip", 1),
        ("mixed", LARGE, "resized_crop_flip", 2),
    ],
)
def test_both_loaders_serve_the_same_bytes(request, name, preprocessing, recipe, workers):
    beton = request.getfixturevalue(name)
    generator = np.random.default_rng(4)
    rows = generator.integers(0, beton.count, 3 * beton.count)
    view_n = generator.integers(0, 5, len(rows))
    stored = generator.integers(0, beton.view_count, len(rows))
    options = {"recipe": RECIPES[recipe], "preprocessing": preprocessing}
    ffcv = open_loader(beton, kind="ffcv", workers=workers, **options)
    assert ffcv.kind == "ffcv"
    oracle = open_loader(beton, kind="torch", **options)
    for batch_size in (7, 16):
        asked = {"view_n": view_n, "target_view_n": stored, "batch_size": batch_size}
        assert_same(ffcv.batches(rows, **asked), oracle.batches(rows, **asked))


@pytest.mark.parametrize(("name", "preprocessing"), [("small", SMALL), ("mixed", LARGE)])
@pytest.mark.parametrize("recipe", ["pad_crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("workers", [1, 2])
def test_all_views_of_an_image_are_those_drawn_alone(request, name, preprocessing, recipe, workers):
    beton = request.getfixturevalue(name)
    rows, view_n = np.append(np.random.default_rng(5).permutation(beton.count), 4).repeat(3), np.arange(3)
    view_n = np.tile(view_n, len(rows) // 3)
    loader = open_loader(beton, kind="ffcv", recipe=RECIPES[recipe], preprocessing=preprocessing, workers=workers)
    sides = beton.widths_N[rows], beton.heights_N[rows]
    plan = plan_views(RECIPES[recipe], preprocessing, beton.columns["view_id"][rows], view_n, *sides)
    wanted = np.empty((len(rows), preprocessing.image_px, preprocessing.image_px, 3), np.uint8)
    for position, row in enumerate(rows.tolist()):
        draw_view(beton.pixels(row), plan, position, preprocessing.interpolation, wanted[position])
    for batch_size in (12, 7):  # with 7 the ends of batches divide views of one image
        batches = list(loader.batches(rows, view_n=view_n, batch_size=batch_size))
        assert torch.equal(torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1), torch.from_numpy(wanted))


def test_the_mean_view_is_that_of_the_torch_loader(small, loader):
    rows = np.arange(60)
    oracle = open_loader(small, kind="torch", recipe=RECIPES["pad_crop_flip"], preprocessing=SMALL)
    for stored in (np.full(60, MEAN_VIEW), np.arange(60) % 4 - 1):
        asked = {"target_view_n": stored, "batch_size": 8}
        assert_same(loader.batches(rows, **asked), oracle.batches(rows, **asked))


def test_auto_takes_ffcv_for_a_beton(loader):
    assert (loader.kind, loader.reason, loader.count) == ("ffcv", "ffcv is installed", 60)


def test_real_jpegs_are_decoded_as_by_pillow(shared_data):
    from trainer.data.kernels import decode_jpeg

    paths = sorted((shared_data / "imagefolder_clothing").glob("*/*/*.jpg"))[::10]
    assert len(paths) > 80
    for path in paths:
        data = path.read_bytes()
        wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        pixels = np.empty_like(wanted)
        assert decode_jpeg(np.frombuffer(data, np.uint8), pixels) == 0
        np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
def test_every_chroma_sampling_a_beton_may_hold_is_decoded_as_by_pillow(sampling):
    import cv2

    from trainer.data.kernels import decode_jpeg

    generator = np.random.default_rng(6)
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    for progressive in (0, 1):
        for width, height in generator.integers(1, 100, (6, 2)).tolist():
            options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
            data = cv2.imencode(".jpg", smooth(generator, width, height), options)[1].reshape(-1)
            wanted = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))
            pixels = np.empty_like(wanted)
            assert decode_jpeg(data.copy(), pixels) == 0
            np.testing.assert_array_equal(pixels, wanted)


def test_rows_come_in_the_order_asked_in_any_number(loader):
    rows = np.array([5, 1, 2, 9, 8, 5, 5])
    assert [batch.rows.tolist() for batch in loader.batches(rows, batch_size=3)] == [[5, 1, 2], [9, 8, 5], [5]]
    assert [len(batch.rows) for batch in loader.batches(rows, batch_size=3, drop_last=True)] == [3, 3]
    assert [batch.images.shape[0] for batch in loader.batches(rows, batch_size=1000)] == [7]
    assert list(loader.batches(rows[:0], batch_size=3)) == []
    assert list(loader.batches(rows, batch_size=8, drop_last=True)) == []
    (single,) = loader.batches(np.array([5]), batch_size=4)
    (several,) = loader.batches(rows, batch_size=7)
    assert torch.equal(single.images[0], several.images[0])
    assert torch.equal(single.images[0], several.images[5])
    assert len(list(loader.batches(np.arange(60), batch_size=7))) == 9


def test_kept_batches_stay_valid(loader):
    batches = list(loader.batches(np.arange(60), view_n=1, batch_size=3))
    again = loader.batches(np.arange(60), view_n=1, batch_size=3)
    assert_same(batches, again)


def test_leaving_a_pass_half_way_leaves_no_thread(loader):
    list(loader.batches(np.arange(60), batch_size=20))
    before = threading.active_count()
    for _ in range(5):
        for _ in loader.batches(np.arange(60), view_n=2, batch_size=2):
            break
    assert threading.active_count() == before


def test_torchs_threads_and_the_global_generators_are_left_alone(small):
    threads = torch.get_num_threads()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        fresh = open_loader(small, kind="ffcv", preprocessing=SMALL, workers=1)
        assert torch.get_num_threads() == 2
        for _ in fresh.batches(np.arange(60), batch_size=20):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)


def test_whatever_ffcv_does_to_threads_and_warnings_is_undone():
    from trainer.data.ffcv_boundary import torch_untouched

    threads = torch.get_num_threads()
    with torch_untouched():
        torch.set_num_threads(threads + 1)
        warnings.warn("distutils is deprecated", DeprecationWarning, stacklevel=1)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_importing_the_boundary_leaves_torchs_threads_alone_and_warns_of_nothing():
    program = """
        import torch
        torch.set_num_threads(3)
        import trainer.data.ffcv_boundary
        print(torch.get_num_threads())
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_a_failure_in_the_thread_arrives_at_once_and_leaves_no_thread(loader, monkeypatch):
    from trainer.data.ffcv_boundary import Epoch

    tried = []

    def fail(_self, number, *_):
        tried.append(number)
        raise MemoryError(f"batch {number}")

    list(loader.batches(np.arange(60), batch_size=20))
    before = threading.active_count()
    monkeypatch.setattr(Epoch, "run_pipeline", fail)
    with pytest.raises(MemoryError, match="batch 0"):
        next(loader.batches(np.arange(60), batch_size=2))
    assert tried == [0]
    assert threading.active_count() == before


@pytest.mark.parametrize("broken", ["garbage", "cut", "empty", "wrong size", "not a jpeg"])
def test_a_jpeg_that_cannot_be_decoded_stops_the_pass_at_its_batch(folder, broken):
    encoded = jpeg_kinds()
    images = [jpeg_image(data) for data in encoded]
    noise = np.random.default_rng(0).integers(0, 256, 900, np.uint8).tobytes()
    images[7] = {
        "garbage": jpeg_image(encoded[7][:300] + noise, (68, 83)),
        "cut": jpeg_image(encoded[7][: len(encoded[7]) // 2], (68, 83)),
        "empty": jpeg_image(encoded[7][:2], (68, 83)),
        "wrong size": jpeg_image(encoded[7], (68, 82)),
        "not a jpeg": jpeg_image(noise, (68, 83)),
    }[broken]
    beton = make_beton(folder / f"{broken}.beton", images)
    batches = open_loader(beton, kind="ffcv", preprocessing=LARGE, workers=1).batches(np.arange(12), batch_size=3)
    assert [next(batches).rows.tolist() for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="row 7"):
        next(batches)
    good = np.delete(np.arange(12), 7)
    assert len(list(open_loader(beton, kind="ffcv", preprocessing=LARGE, workers=1).batches(good, batch_size=4))) == 3


def test_a_jpeg_turbojpeg_complains_about_is_served_when_pillow_reads_it(folder):
    from trainer.data.kernels import decode_jpeg

    whole = jpeg_bytes(smooth(np.random.default_rng(5), 64, 64), restart_marker_blocks=4)
    dented = []
    for position in range(len(whole) // 2, len(whole) - 20, 7):
        data = whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :]
        if decode_jpeg(np.frombuffer(data, np.uint8), np.empty((64, 64, 3), np.uint8)) != 0:
            try:
                Image.open(io.BytesIO(data)).load()
            except OSError:
                continue
            dented.append(data)
    assert dented
    images = [jpeg_image(whole), *[jpeg_image(data, (64, 64)) for data in dented[:3]]]
    beton = make_beton(folder / "dented.beton", images, views=1)
    rows, view_n = np.arange(len(images)).repeat(2), np.tile([0, 1], len(images))
    options = {"recipe": RECIPES["resized_crop_flip"], "preprocessing": LARGE, "workers": 1}
    loaders = [open_loader(beton, kind=kind, **options) for kind in ("ffcv", "torch")]
    assert_same(*(loader.batches(rows, view_n=view_n, batch_size=4) for loader in loaders))


def test_several_loaders_live_side_by_side(small, mixed, loader):
    """FFCV changes a type that numba shares when a second Loader is made; see trainer/data/kernels.py."""
    other = open_loader(mixed, kind="ffcv", recipe=RECIPES["resized_crop_flip"], preprocessing=LARGE, workers=2)
    first = torch.cat([batch.images for batch in loader.batches(np.arange(60), view_n=1, batch_size=20)])
    for batch in loader.batches(np.arange(60), view_n=1, batch_size=20):
        inner = list(other.batches(np.arange(mixed.count), view_n=1, batch_size=8))
        assert sum(len(batch.rows) for batch in inner) == mixed.count
        start = int(batch.rows[0])
        assert torch.equal(batch.images, first[start : start + 20])
    third = open_loader(small, kind="ffcv", recipe=RECIPES["pad_crop_flip"], preprocessing=SMALL, workers=2)
    again = torch.cat([batch.images for batch in third.batches(np.arange(60), view_n=1, batch_size=20)])
    assert torch.equal(first, again)
