import subprocess
import sys
import textwrap
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from beton_support import jpeg_bytes, jpeg_image, make_beton, raw_image, smooth
from torchvision import transforms

from manifests.betons.reader import Beton
from manifests.errors import InputError, UsageError
from manifests.format.header import Preprocessing
from manifests.images.decode import Encoded, ImageProblem, Pixels
from trainer.data import torch_loader
from trainer.data.loaders import open_loader
from trainer.data.resample import draw_view
from trainer.data.views import MEAN_VIEW, ViewRecipe, plan_views
from trainer.models.normalise import normalise

SMALL = Preprocessing(image_px=16, resize_px=16, mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.3])
LARGE = Preprocessing(image_px=40, resize_px=48, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
PADDED = ViewRecipe(name="pad_crop_flip", seed=3)
RESIZED = ViewRecipe(name="resized_crop_flip", seed=3)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def small(tmp_path_factory, pixels):
    """50 raw images of the network's size, targets of 3 views."""
    return make_beton(tmp_path_factory.mktemp("small") / "a.beton", [raw_image(image) for image in pixels], views=3)


@pytest.fixture(scope="module")
def encoded():
    generator = np.random.default_rng(1)
    return [jpeg_bytes(smooth(generator, 60 + row, 90 - row)) for row in range(20)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, encoded):
    """JPEGs and raw images of many sizes, without targets."""
    images = [jpeg_image(data) for data in encoded]
    images[3] = raw_image(smooth(np.random.default_rng(2), 48, 48))
    return make_beton(tmp_path_factory.mktemp("mixed") / "a.beton", images)


class ListSource:
    """A source of images in a list."""

    kind, name, split, class_names = "folder", "photos", None, ("a", "b")

    def __init__(self, images):
        self.images = images
        self.keys = [f"train/{row:04d}.jpg" for row in range(len(images))]
        self.labels_N = (np.arange(len(images)) % 2).astype(np.int32)

    def read(self, rows):
        return [self.images[row] for row in rows]


def with_columns(beton, columns):
    changed = copy(beton)
    changed.columns = columns
    return changed


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        for name in ("images", "label", "weight", "kd_weight", "target"):
            values = getattr(batch, name), getattr(other, name)
            assert values == (None, None) or torch.equal(*values), name


def test_a_batch_holds_what_the_beton_says_of_each_row(small):
    loader = open_loader(small, kind="torch", preprocessing=SMALL)
    rows = np.array([7, 3, 3, 49, 0])
    stored = np.array([0, 2, 1, 0, 2])
    (batch,) = loader.batches(rows, target_view_n=stored, batch_size=8)
    assert batch.images.shape == (5, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.rows, rows)
    np.testing.assert_array_equal(batch.label, small.columns["label"][rows])
    np.testing.assert_array_equal(batch.weight, small.columns["weight"][rows].astype(np.float32))
    np.testing.assert_array_equal(batch.kd_weight, small.columns["kd_weight"][rows].astype(np.float32))
    np.testing.assert_array_equal(batch.target, small.targets(rows)[np.arange(5), stored])
    assert (batch.label.dtype, batch.weight.dtype, batch.target.dtype) == (torch.int64, torch.float32, torch.float16)
    assert (loader.kind, loader.reason, loader.count) == ("torch", "asked for", 50)


def test_padded_views_are_cut_out_of_the_zero_padded_image(small, pixels):
    rows = np.random.default_rng(0).permutation(50)
    view_n = np.arange(50) % 4
    loader = open_loader(small, kind="torch", recipe=PADDED, preprocessing=SMALL)
    images = torch.cat([batch.images for batch in loader.batches(rows, view_n=view_n, batch_size=8)])
    sides = np.full(50, 16, np.int32)
    plan = plan_views(PADDED, SMALL, small.columns["view_id"][rows], view_n, sides, sides)
    assert plan.flip_n.any()
    assert plan.shift_n2.any()
    for position, row in enumerate(rows):
        padded = np.pad(pixels[row], ((2, 2), (2, 2), (0, 0)))
        dx, dy = plan.shift_n2[position]
        crop = padded[2 - dy : 18 - dy, 2 - dx : 18 - dx]
        wanted = crop[:, ::-1] if plan.flip_n[position] else crop
        np.testing.assert_array_equal(images[position].permute(1, 2, 0), wanted)


def test_batches_come_in_the_order_asked_and_the_last_may_be_short(small):
    loader = open_loader(small, kind="torch", preprocessing=SMALL)
    rows = np.array([5, 1, 2, 9, 8, 5, 5])
    assert [batch.rows.tolist() for batch in loader.batches(rows, batch_size=3)] == [[5, 1, 2], [9, 8, 5], [5]]
    assert [len(batch.rows) for batch in loader.batches(rows, batch_size=3, drop_last=True)] == [3, 3]
    assert [len(batch.rows) for batch in loader.batches(rows, batch_size=100)] == [7]
    assert list(loader.batches(rows, batch_size=100, drop_last=True)) == []
    assert list(loader.batches(rows[:0], batch_size=3)) == []


def test_a_pass_can_be_dropped_half_way_and_batches_stay_valid(small):
    loader = open_loader(small, kind="torch", recipe=PADDED, preprocessing=SMALL)
    kept = []
    for batch in loader.batches(np.arange(50), view_n=1, batch_size=7):
        kept.append((batch, batch.images.clone()))
        if len(kept) == 3:
            break
    assert len(list(loader.batches(np.arange(50), batch_size=7))) == 8
    for batch, images in kept:
        assert torch.equal(batch.images, images)


@pytest.mark.parametrize("recipe", [ViewRecipe(), PADDED, RESIZED])
def test_a_source_shows_the_same_views_as_its_beton(mixed, encoded, recipe):
    images = [Encoded(data) for data in encoded]
    images[3] = Pixels(mixed.pixels(3))
    source = ListSource(images)
    ids = mixed.columns["view_id"]
    rows, view_n = np.arange(20)[::-1], np.arange(20) % 3
    of_source = open_loader(source, recipe=recipe, preprocessing=LARGE, view_id_N=ids)
    assert (of_source.kind, of_source.reason) == ("torch", "FFCV reads betons only")
    of_beton = open_loader(mixed, kind="torch", recipe=recipe, preprocessing=LARGE)
    for batch, other in zip(
        of_source.batches(rows, view_n=view_n, batch_size=6),
        of_beton.batches(rows, view_n=view_n, batch_size=6),
        strict=True,
    ):
        assert torch.equal(batch.images, other.images)
        np.testing.assert_array_equal(batch.label, source.labels_N[batch.rows])
        assert batch.target is None
        assert torch.equal(batch.weight, torch.ones(len(batch.rows)))


@pytest.mark.parametrize("preprocessing", [SMALL, LARGE])
@pytest.mark.parametrize("stored", ["rgb", "grey", "grey with a channel"])
def test_a_source_of_pixels_is_drawn_in_blocks(tmp_path, pixels, stored, preprocessing):
    arrays = {"rgb": pixels, "grey": pixels[..., 0], "grey with a channel": pixels[..., :1]}[stored]
    rgb = pixels if stored == "rgb" else pixels[..., :1].repeat(3, axis=3)
    beton = make_beton(tmp_path / "a.beton", [raw_image(image) for image in rgb])
    source = ListSource([Pixels(array) for array in arrays])
    options = {"recipe": PADDED, "preprocessing": preprocessing, "kind": "torch"}
    of_source = open_loader(source, view_id_N=beton.columns["view_id"], workers=2, **options)
    asked = {"rows_n": np.arange(50), "view_n": np.arange(50) % 3, "batch_size": 20}
    for batch, other in zip(of_source.batches(**asked), open_loader(beton, **options).batches(**asked), strict=True):
        assert torch.equal(batch.images, other.images)


def drawn_alone(beton, recipe, preprocessing, rows, view_n):
    """Each view by itself, from the definition."""
    size = preprocessing.image_px
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for position, row in enumerate(rows):
        sides = beton.widths_N[[row]], beton.heights_N[[row]]
        plan = plan_views(recipe, preprocessing, beton.columns["view_id"][[row]], view_n[position], *sides)
        draw_view(beton.pixels(row), plan, 0, preprocessing.interpolation, images[position])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("recipe", [PADDED, RESIZED])
@pytest.mark.parametrize(("name", "preprocessing"), [("small", SMALL), ("small", LARGE), ("mixed", LARGE)])
@pytest.mark.parametrize("batch_size", [12, 7])
def test_all_views_of_an_image_are_those_drawn_alone_and_decoded_once(
    request, monkeypatch, name, preprocessing, recipe, batch_size
):
    beton = request.getfixturevalue(name)
    rows, view_n = np.array([3, 0, 5, 0, 4, 4]).repeat(3), np.tile([0, 1, 2], 6)
    wanted = drawn_alone(beton, recipe, preprocessing, rows.tolist(), view_n)
    source = ListSource([Pixels(beton.pixels(row)) for row in range(beton.count)])
    decoded = []
    pixels, decode = Beton.pixels, torch_loader.decode_rgb
    monkeypatch.setattr(Beton, "pixels", lambda self, row: decoded.append(row) or pixels(self, row))
    monkeypatch.setattr(torch_loader, "decode_rgb", lambda image: decoded.append(0) or decode(image))
    ids = beton.columns["view_id"]
    for loader in (
        open_loader(beton, kind="torch", recipe=recipe, preprocessing=preprocessing),
        open_loader(source, recipe=recipe, preprocessing=preprocessing, view_id_N=ids),
    ):
        decoded.clear()
        batches = list(loader.batches(rows, view_n=view_n, batch_size=batch_size))
        assert torch.equal(torch.cat([batch.images for batch in batches]), wanted)
        # A group that a batch's end divides is read for either batch; equal neighbours are one group.
        groups = sum(int((np.diff(batch.rows) != 0).sum()) + 1 for batch in batches)
        assert len(decoded) in (0, groups)
        assert decoded or name == "small"


def test_the_mean_view_is_the_mean_of_the_stored_ones(small):
    rows, stored = np.array([7, 3, 3, 49]), np.array([MEAN_VIEW, 2, MEAN_VIEW, 0])
    (batch,) = open_loader(small, kind="torch", preprocessing=SMALL).batches(rows, target_view_n=stored, batch_size=4)
    targets = small.targets(rows)
    for position in (1, 3):
        np.testing.assert_array_equal(batch.target[position], targets[position, stored[position]])
    for position in (0, 2):
        mean = targets[position].astype(np.float32).sum(axis=0) / np.float32(3)
        np.testing.assert_array_equal(batch.target[position], mean.astype(np.float16))


def test_an_unreadable_image_stops_the_pass_with_its_key_and_reason(encoded):
    cut = Encoded(encoded[2][:400])
    for broken, reason in [(cut, "cannot be decoded"), (ImageProblem("no such file"), "no such file")]:
        loader = open_loader(ListSource([Encoded(encoded[0]), Encoded(encoded[1]), broken]), preprocessing=LARGE)
        batches = loader.batches(np.arange(3), batch_size=2)
        assert len(next(batches).rows) == 2
        with pytest.raises(InputError, match=f"photos: train/0002.jpg: .*{reason}"):
            next(batches)


def test_a_broken_jpeg_in_a_beton_stops_the_pass_at_its_batch(tmp_path, encoded):
    images = [jpeg_image(data) for data in encoded[:5]]
    images[4] = jpeg_image(encoded[4][: len(encoded[4]) // 2], (64, 86))
    beton = make_beton(tmp_path / "a.beton", images)
    batches = open_loader(beton, kind="torch", preprocessing=LARGE).batches(np.arange(5), batch_size=2)
    assert [len(next(batches).rows) for _ in range(2)] == [2, 2]
    with pytest.raises(InputError, match="row 4"):
        next(batches)


def test_worker_processes_give_the_same_batches_and_hand_errors_over(encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_loader, "PROCESS_ROWS", 1)
    images = [jpeg_image(data) for data in encoded]
    images[19] = jpeg_image(encoded[19][:500], (79, 71))
    beton = make_beton(tmp_path / "a.beton", images, views=2)
    rows, view_n = np.tile(np.arange(19), 2), np.arange(38) % 3
    alone = open_loader(beton, kind="torch", recipe=RESIZED, preprocessing=LARGE)
    shared = open_loader(beton, kind="torch", recipe=RESIZED, preprocessing=LARGE, workers=2)
    try:
        for _ in shared.batches(rows, batch_size=3):
            break
        asked = {"view_n": view_n, "target_view_n": view_n % 2, "batch_size": 7}
        assert_same(shared.batches(rows, **asked), alone.batches(rows, **asked))
        with pytest.raises(InputError, match="row 19") as caught:
            list(shared.batches(np.arange(20), batch_size=4))
        assert caught.value.hint
    finally:
        shared.close()


def test_the_global_generators_are_left_alone(small):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    loader = open_loader(small, kind="torch", recipe=PADDED, preprocessing=SMALL)
    list(loader.batches(np.arange(50), view_n=1, batch_size=8))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_what_cannot_be_served_is_refused_before_anything_is_read(small, mixed):
    source = ListSource([Encoded(b"")])
    with pytest.raises(UsageError, match="unknown loader 'fast'"):
        open_loader(small, kind="fast", preprocessing=SMALL)
    with pytest.raises(UsageError, match="cannot be used: FFCV reads betons only"):
        open_loader(source, kind="ffcv", preprocessing=SMALL)
    with pytest.raises(UsageError, match="resized to 8 px and cropped to 16 px"):
        open_loader(small, kind="torch", preprocessing=SMALL.model_copy(update={"resize_px": 8}))
    loader = open_loader(small, kind="torch", recipe=PADDED, preprocessing=SMALL)
    for wrong in (
        {"rows_n": np.array([50])},
        {"rows_n": np.array([-1])},
        {"target_view_n": 3},
        {"target_view_n": -2},
        {"view_n": -1},
    ):
        with pytest.raises(ValueError, match=r"views? |rows "):
            list(loader.batches(**{"rows_n": np.arange(4), "batch_size": 2, **wrong}))
    with pytest.raises(ValueError, match="view ids"):
        list(open_loader(source, recipe=PADDED, preprocessing=SMALL).batches(np.arange(1), view_n=1, batch_size=1))
    with pytest.raises(InputError, match="no integer field"):
        open_loader(with_columns(mixed, {}), kind="torch", preprocessing=LARGE)


def test_a_beton_of_other_makers_needs_a_label_only(mixed):
    foreign = with_columns(mixed, {"klass": mixed.columns["label"]})
    (batch,) = open_loader(foreign, kind="torch", preprocessing=LARGE).batches(np.arange(4), batch_size=4)
    np.testing.assert_array_equal(batch.label, mixed.columns["label"][:4])
    assert torch.equal(batch.kd_weight, torch.ones(4))


def test_normalising_is_torchvisions_bit_for_bit(small, pixels):
    (batch,) = open_loader(small, kind="torch", preprocessing=SMALL).batches(np.arange(50), batch_size=50)
    wanted = transforms.Compose([transforms.ToTensor(), transforms.Normalize(SMALL.mean, SMALL.std)])
    inputs = normalise(batch.images, SMALL, torch.float32)
    assert torch.equal(inputs, torch.stack([wanted(image) for image in pixels]))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(batch.images, SMALL, torch.bfloat16), inputs.to(torch.bfloat16))
    assert batch.images.dtype == torch.uint8


def test_without_ffcv_and_numba_betons_are_read_by_torch(small):
    program = f"""
        import sys
        sys.modules["ffcv"] = sys.modules["numba"] = sys.modules["llvmlite"] = None
        import numpy as np
        from manifests.betons.reader import Beton
        from manifests.errors import UsageError
        from manifests.format.header import Preprocessing
        from trainer.data.loaders import open_loader
        from trainer.data.views import ViewRecipe

        beton = Beton.open({str(small.path)!r})
        sizes = Preprocessing(image_px=12, resize_px=14, mean=[0.5] * 3, std=[0.5] * 3)
        loader = open_loader(beton, recipe=ViewRecipe(name="resized_crop_flip"), preprocessing=sizes)
        print(loader.kind, "/", loader.reason, "/", len(list(loader.batches(np.arange(50), view_n=1, batch_size=20))))
        try:
            open_loader(beton, kind="ffcv", preprocessing=sizes)
        except UsageError as error:
            print(error.message)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.splitlines() == [
        "torch / ffcv is not installed / 3",
        "the ffcv loader cannot be used: ffcv is not installed",
    ]
