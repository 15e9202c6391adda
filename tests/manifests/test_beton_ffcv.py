"""Betons against real FFCV, both ways: it reads what we write, we read what it writes."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.images.decode import BetonImage, Encoded, Pixels, beton_form
from manifests.images.identity import mix64
from manifests.integrity import beton_problems

THUMBNAIL, PAGE_BYTES = 28, 2 << 20
caches = pytest.mark.parametrize("os_cache", [True, False])


def columns(count: int) -> BetonColumns:
    """View ids with the highest bit set and clear, weights that no float32 holds."""
    row_N = np.arange(count)
    return BetonColumns(
        label_N=row_N % 7,
        sample_id_N=row_N * 3 + 10**12,
        view_id_N=mix64(row_N) | np.where(row_N % 2, np.uint64(1 << 63), np.uint64(0)),
        weight_N=1 / (row_N + 3),
        kd_weight_N=np.linspace(-1, 1, count),
    )


def every_kind_of_float16(count: int, views: int, classes: int) -> NDArray[np.float16]:
    bits = mix64(np.arange(count * views * classes)).astype(np.uint16)
    return bits.view(np.float16).reshape(count, views, classes)


def raw(shape: tuple[int, int], seed: int) -> BetonImage:
    return beton_form(Pixels(np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth, as photographs are."""
    y, x = np.mgrid[0:height, 0:width] + seed
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + 2 * y) % 256 / 2]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(picture(30, 20), exif=exif)


def regions(ffcv: Any, beton: Beton, *, os_cache: bool, batches: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Regions and decoded JPEGs as FFCV's memory manager and decoder see them."""
    out = beton.path.with_suffix(f".{os_cache}.npz")
    arguments = {"path": str(beton.path), "os_cache": os_cache, "batches": batches, "out": str(out)}
    assert ffcv.ask("regions", **arguments) == {"page_size": beton.page_bytes}
    with np.load(out) as found:
        return dict(found)


def loaded(ffcv: Any, beton: Beton, *, os_cache: bool, order: str, image: bool = True) -> Mapping[str, Any]:
    """One epoch of a stock Loader."""
    out = beton.path.with_suffix(".npz")
    arguments = {"path": str(beton.path), "os_cache": os_cache, "order": order, "image": image, "out": str(out)}
    ffcv.ask("load", batch_size=64, **arguments)
    with np.load(out) as found:
        return dict(found)


def assert_same_columns(found: Mapping[str, Any], expected: BetonColumns, row_n: NDArray[np.int64]) -> None:
    for name in ("label", "sample_id", "view_id", "weight", "kd_weight"):
        values = getattr(expected, f"{name}_N")[row_n]
        assert found[name].dtype == (np.float64 if "weight" in name else np.int64)
        assert found[name][:, 0].tobytes() == values.tobytes(), name


@pytest.mark.parametrize(
    ("os_cache", "order"), [(True, "SEQUENTIAL"), (False, "QUASI_RANDOM")], ids=["os cache", "process cache"]
)
def test_raw_images_numbers_and_targets_come_back_bit_for_bit(
    tmp_path: Path, ffcv: Any, os_cache: bool, order: str
) -> None:
    count = 2000
    side = (THUMBNAIL, THUMBNAIL)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *side, 3), np.uint8)
    targets = every_kind_of_float16(count, 1, 100)
    facts = columns(count)
    images = (beton_form(Pixels(array)) for array in pixels)
    write_beton(tmp_path / "a.beton", images, facts, targets=targets, target_shape=(1, 100))
    beton = Beton.open(tmp_path / "a.beton")
    assert beton.image_pointer_N[-1] > 2 * PAGE_BYTES
    found = loaded(ffcv, beton, os_cache=os_cache, order=order)
    row_n = (found["sample_id"][:, 0] - 10**12) // 3
    assert sorted(row_n.tolist()) == list(range(count))
    assert (row_n.tolist() == list(range(count))) == (order == "SEQUENTIAL")
    assert np.array_equal(found["image"], pixels[row_n])
    assert found["target"].dtype == np.int16
    assert np.array_equal(found["target"], targets[row_n].view(np.int16))
    assert_same_columns(found, facts, row_n)


def test_jpegs_of_one_size_come_back_through_the_stock_loader_with_three_views(tmp_path: Path, ffcv: Any) -> None:
    count = 150
    images = [beton_form(Encoded(jpeg(picture(48, 32, seed)))) for seed in range(count)]
    targets = every_kind_of_float16(count, 3, 10)
    facts = columns(count)
    write_beton(tmp_path / "a.beton", images, facts, targets=targets, target_shape=(3, 10))
    beton = Beton.open(tmp_path / "a.beton")
    found = loaded(ffcv, beton, os_cache=False, order="RANDOM")
    row_n = (found["sample_id"][:, 0] - 10**12) // 3
    assert sorted(row_n.tolist()) == list(range(count))
    assert np.array_equal(found["target"], targets[row_n].view(np.int16))
    assert_same_columns(found, facts, row_n)
    ours = np.stack([beton.pixels(row) for row in row_n.tolist()])
    difference = np.abs(found["image"].astype(int) - ours)
    assert difference.mean() < 1.5
    assert difference.max() <= 12


def test_a_page_size_that_grew_leaves_no_sample_on_two_pages(tmp_path: Path, ffcv: Any) -> None:
    """Samples before the large one were placed by the smaller pages."""
    sizes = [(60, 100)] * 300 + [(1000, 1200)] + [(60, 100)] * 100 + [(1500, 1200)] + [(60, 100)] * 150
    images = [raw(size, seed) for seed, size in enumerate(sizes)]
    targets = every_kind_of_float16(len(sizes), 1, 10)
    write_beton(tmp_path / "a.beton", images, columns(len(sizes)), targets=targets, target_shape=(1, 10))
    beton = Beton.open(tmp_path / "a.beton")
    assert beton.page_bytes == 8 << 20
    assert beton.path.stat().st_size > 2 * beton.page_bytes
    assert list(beton_problems(beton)) == []
    found = loaded(ffcv, beton, os_cache=False, order="QUASI_RANDOM", image=False)
    row_n = (found["sample_id"][:, 0] - 10**12) // 3
    assert row_n.tolist() != list(range(len(sizes)))
    assert sorted(row_n.tolist()) == list(range(len(sizes)))
    assert np.array_equal(found["target"], targets[row_n].view(np.int16))
    batches = np.array_split(np.random.default_rng(1).permutation(len(sizes)), 9)
    for os_cache in (True, False):
        seen = regions(ffcv, beton, os_cache=os_cache, batches=[batch.tolist() for batch in batches])
        assert all(np.array_equal(seen[f"image{row}"], image.data) for row, image in enumerate(images))
        assert all(seen[f"target{row}"].tobytes() == targets[row].tobytes() for row in range(len(sizes)))


@caches
@pytest.mark.parametrize("size", [(1, 1), (700, 900)])
def test_a_single_sample_of_one_pixel_or_of_many_is_read(
    tmp_path: Path, ffcv: Any, os_cache: bool, size: tuple[int, int]
) -> None:
    image = raw(size, 5)
    write_beton(tmp_path / "a.beton", [image], columns(1))
    seen = regions(ffcv, Beton.open(tmp_path / "a.beton"), os_cache=os_cache, batches=[[0]])
    assert seen["image0"].tolist() == image.data.tolist()


def encoded(size_bytes: int) -> BetonImage:
    """A region of any size, which only JPEGs have; nothing here decodes it."""
    data = np.resize(np.arange(251, dtype=np.uint8), size_bytes)
    return BetonImage(mode=0, data=data, width=1, height=1)


def test_samples_end_at_the_last_byte_of_a_page_and_start_at_its_first(tmp_path: Path, ffcv: Any) -> None:
    target_bytes = 4
    write_beton(
        tmp_path / "probe.beton", [encoded(1)] * 4, columns(4), targets=np.zeros((4, 1, 2), "f2"), target_shape=(1, 2)
    )
    start = int(Beton.open(tmp_path / "probe.beton").image_pointer_N[0])
    room = PAGE_BYTES - start - target_bytes
    cases = {
        "the first fills its page": ([room, 9, 9, 9], [PAGE_BYTES, PAGE_BYTES + 13]),
        "one byte is left": ([room - 1, 9, 9, 9], [PAGE_BYTES, PAGE_BYTES + 13]),
        "the second fills the page": ([room - 13, 9, 9, 9], [PAGE_BYTES - 13, PAGE_BYTES]),
        "one is as large as a page": ([9, PAGE_BYTES - target_bytes, 9, 9], [PAGE_BYTES, 2 * PAGE_BYTES]),
        "one is larger than a page": ([9, PAGE_BYTES, 9, 9], [start + 13, start + 13 + PAGE_BYTES + target_bytes]),
    }
    targets = every_kind_of_float16(4, 1, 2)
    for number, (name, (sizes, pointers)) in enumerate(cases.items()):
        images = [encoded(size) for size in sizes]
        path = tmp_path / f"{number}.beton"
        write_beton(path, images, columns(4), targets=targets, target_shape=(1, 2))
        beton = Beton.open(path)
        assert beton.image_pointer_N[1:3].tolist() == pointers, name
        seen = regions(ffcv, beton, os_cache=False, batches=[[3], [1], [0], [2]])
        assert all(np.array_equal(seen[f"image{row}"], image.data) for row, image in enumerate(images)), name
        assert all(seen[f"target{row}"].tobytes() == targets[row].tobytes() for row in range(4)), name


JPEGS = {
    "baseline": jpeg(picture(64, 48)),
    "4:4:4": jpeg(picture(33, 17), subsampling=0, quality=95),
    "4:2:2": jpeg(picture(33, 17), subsampling=1),
    "grey": jpeg(picture(40, 30).convert("L")),
    "progressive": jpeg(picture(64, 48), progressive=True),
    "progressive grey": jpeg(picture(20, 50).convert("L"), progressive=True),
    "one pixel": jpeg(picture(1, 1)),
    "one grey pixel": jpeg(picture(1, 1).convert("L")),
    "upright by EXIF": rotated(1),
    "with comment": jpeg(picture(9, 9), comment=b"\xff\xd8\xff\xd9"),
}
NOT_FOR_TURBOJPEG = {
    "CMYK": jpeg(picture(40, 30).convert("CMYK")),
    "turned by EXIF": rotated(6),
    "mirrored by EXIF": rotated(5),
}


@caches
def test_jpegs_of_every_kind_look_alike_to_ffcv_and_to_our_reader(tmp_path: Path, ffcv: Any, os_cache: bool) -> None:
    names = [*JPEGS, *NOT_FOR_TURBOJPEG]
    sources = {**JPEGS, **NOT_FOR_TURBOJPEG}
    images = [beton_form(Encoded(sources[name])) for name in names]
    write_beton(tmp_path / "a.beton", images, columns(len(images)))
    beton = Beton.open(tmp_path / "a.beton")
    assert list(beton_problems(beton)) == []
    seen = regions(ffcv, beton, os_cache=os_cache, batches=[[row] for row in range(beton.count)][::-1])
    for row, name in enumerate(names):
        ours = beton.pixels(row)
        if name in NOT_FOR_TURBOJPEG:
            assert seen[f"image{row}"].tobytes() == ours.tobytes(), name
            continue
        assert seen[f"image{row}"].tobytes() == sources[name], name
        assert seen[f"code{row}"] == 0, name
        assert np.array_equal(ours, np.asarray(Image.open(io.BytesIO(sources[name])).convert("RGB"))), name
        difference = np.abs(seen[f"pixels{row}"].astype(int) - ours)
        assert difference.mean() < 1.5, name
        assert difference.max() <= 12, name


def test_real_photographs_come_back_as_their_files(tmp_path: Path, ffcv: Any, shared_data: Path) -> None:
    files = sorted((shared_data / "imagefolder_clothing").rglob("*.jp*g"))[::40][:50]
    assert len(files) > 20
    write_beton(tmp_path / "a.beton", (beton_form(Encoded(file.read_bytes())) for file in files), columns(len(files)))
    beton = Beton.open(tmp_path / "a.beton")
    assert list(beton_problems(beton)) == []
    seen = regions(ffcv, beton, os_cache=False, batches=np.arange(len(files)).reshape(-1, 1)[::-1].tolist())
    for row, file in enumerate(files):
        if beton.modes_N[row] == 0:
            assert seen[f"image{row}"].tobytes() == file.read_bytes()
            difference = np.abs(seen[f"pixels{row}"].astype(int) - np.asarray(Image.open(file).convert("RGB")))
            assert difference.mean() < 1.5, file
        else:
            assert seen[f"image{row}"].tobytes() == beton.pixels(row).tobytes()


def test_pruning_a_beton_copies_its_regions_byte_for_byte(tmp_path: Path, ffcv: Any) -> None:
    images = [beton_form(Encoded(jpeg(picture(30 + row, 20, row)))) for row in range(6)] + [raw((4, 4), 1)]
    write_beton(tmp_path / "a.beton", images, columns(7))
    whole = Beton.open(tmp_path / "a.beton")
    kept = [6, 0, 3]
    write_beton(tmp_path / "b.beton", (whole.image(row) for row in kept), columns(3))
    seen = regions(ffcv, Beton.open(tmp_path / "b.beton"), os_cache=True, batches=[[0, 1, 2]])
    assert all(np.array_equal(seen[f"image{new}"], images[old].data) for new, old in enumerate(kept))


def written_by_ffcv(ffcv: Any, name: str) -> tuple[Beton, list[dict[str, Any]]]:
    """A beton of FFCV's own writer, and the samples it was given."""
    ffcv.ask("format")
    generators = [np.random.default_rng(row) for row in range(5)]
    samples = [
        {
            "pixels": generator.integers(0, 256, (5 + row, 9 - row, 3), dtype=np.uint8),
            "smooth": np.kron(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8)),
            "label": row % 3,
            "number": row / 7,
            "view_id": int(generator.integers(-(2**63), 2**63 - 1)) % 2**64,
            "vector": generator.normal(size=4),
            "target": generator.integers(-(2**15), 2**15, (2, 3)).astype(np.int16),
        }
        for row, generator in enumerate(generators)
    ]
    return Beton.open(ffcv.folder / f"{name}.beton"), samples


def test_a_stock_beton_of_ffcv_is_read(ffcv: Any) -> None:
    beton, samples = written_by_ffcv(ffcv, "stock")
    assert beton.page_bytes == 8 << 20
    assert list(beton.fields) == ["image", "label"]
    assert beton.columns["label"].tolist() == [sample["label"] for sample in samples]
    assert beton.target_shape is None
    for row, sample in enumerate(samples):
        assert np.array_equal(beton.pixels(row), sample["pixels"])
    assert list(beton_problems(beton)) == []


def test_a_beton_of_ffcv_with_other_names_and_more_fields_is_read(ffcv: Any) -> None:
    beton, samples = written_by_ffcv(ffcv, "named")
    assert list(beton.fields) == ["class", "meta", "picture", "blob", "vector", "tensor", "score"]
    assert beton.columns["class"].tolist() == [sample["label"] for sample in samples]
    assert beton.columns["score"].tolist() == [sample["number"] for sample in samples]
    assert (beton.modes_N == 0).all()
    for row, sample in enumerate(samples):
        difference = np.abs(beton.pixels(row).astype(int) - sample["smooth"])
        assert difference.mean() < 6
    assert list(beton_problems(beton)) == []


def test_our_fields_written_by_ffcv_are_read_with_their_targets(ffcv: Any) -> None:
    beton, samples = written_by_ffcv(ffcv, "ours")
    assert (beton.view_count, beton.class_count) == (2, 3)
    assert beton.columns["view_id"].tolist() == [sample["view_id"] for sample in samples]
    stored = beton.targets(np.arange(5))
    assert stored.view(np.int16).tolist() == [sample["target"].tolist() for sample in samples]
    for first, second in itertools.pairwise(beton.image_pointer_N.tolist()):
        assert first < second
