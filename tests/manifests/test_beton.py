import errno
import hashlib
import io
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from small_beton import COLUMN_NAMES, IMAGES, TARGETS, columns, encoded, jpeg, raw, write

from manifests.betons import format as fmt
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.errors import InputError
from manifests.format.top_k import top_k, words_count
from manifests.images.decode import BetonImage, Encoded, beton_form
from manifests.integrity import beton_problems


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small beton of raw images, JPEGs and targets."""
    return write(tmp_path_factory.mktemp("beton") / "a.beton").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    beton = Beton.open(str(write(tmp_path / "deep" / "a.beton")))
    assert (beton.count, beton.view_count, beton.class_count, beton.page_bytes) == (5, 3, 2, 2 << 20)
    assert list(beton.fields) == ["image", *COLUMN_NAMES, "target"]
    assert beton.modes_N.tolist() == [1, 0, 1, 0, 1]
    assert beton.widths_N.tolist() == [6, 20, 1, 33, 6]
    assert beton.heights_N.tolist() == [4, 12, 1, 9, 4]
    for row, image in enumerate(IMAGES):
        assert np.array_equal(beton.image_bytes(row), image.data)
    expected = columns(5)
    for name in COLUMN_NAMES:
        assert beton.columns[name].dtype == getattr(expected, f"{name}_N").dtype
        assert beton.columns[name].tolist() == getattr(expected, f"{name}_N").tolist()
    assert np.array_equal(beton.targets(np.array([4, 0, 0])), TARGETS[[4, 0, 0]])


def test_a_beton_without_targets_has_no_target_field(tmp_path: Path) -> None:
    beton = Beton.open(write(tmp_path / "a.beton", targets=None))
    assert (beton.view_count, beton.class_count, beton.target_shape) == (0, 0, None)
    assert list(beton.fields) == ["image", *COLUMN_NAMES]
    with pytest.raises(ValueError, match="has no targets"):
        beton.targets(np.array([0]))


def test_sizes_of_scored_images_are_kept_where_they_are_others(tmp_path: Path) -> None:
    scored_N2 = np.array([[12, 8], [0, 0], [1, 1], [70_000, 9], [6, 4]])
    write_beton(tmp_path / "a.beton", IMAGES, replace(columns(5), scored_size_N2=scored_N2))
    beton = Beton.open(tmp_path / "a.beton")
    assert list(beton.fields) == ["image", *COLUMN_NAMES, "scored_width", "scored_height"]
    assert np.array_equal(beton.scored_size_N2, scored_N2)
    # Of the second nothing is known: it has its own size.
    assert beton.drawn_sizes(np.array([1, 0, 3])).tolist() == [[20, 12], [12, 8], [70_000, 9]]
    plain = Beton.open(write(tmp_path / "b.beton"))
    assert plain.scored_size_N2 is None
    assert plain.drawn_sizes(np.array([0, 1])).tolist() == [[6, 4], [20, 12]]
    for wrong in (-1, 1 << 31):
        scored_N2[2, 1] = wrong
        write_beton(tmp_path / "c.beton", IMAGES, replace(columns(5), scored_size_N2=scored_N2))
        with pytest.raises(InputError, match="scored_height is not the size of an image"):
            Beton.open(tmp_path / "c.beton")


def test_words_of_the_largest_logits_come_back_bit_for_bit(tmp_path: Path) -> None:
    logits_NVC = np.random.default_rng(0).normal(0, 3, (5, 3, 9))
    words_NVW = np.stack([top_k(logits_VC, np.full(3, row), 2).words() for row, logits_VC in enumerate(logits_NVC)])
    write_beton(tmp_path / "a.beton", IMAGES, columns(5), targets=words_NVW, target_shape=(3, words_count(2)))
    beton = Beton.open(tmp_path / "a.beton")
    assert (beton.view_count, beton.class_count) == (3, words_count(2))
    found = beton.targets(np.array([4, 0]))
    assert found.dtype == np.float16
    assert found.view(np.int16).tolist() == words_NVW[[4, 0]].tolist()


def test_pixels_are_those_of_pillow_for_every_kind_of_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [jpeg(), jpeg(progressive=True), jpeg(mode="L"), jpeg(mode="CMYK"), jpeg(exif=exif), jpeg(1, 1)]
    beton = Beton.open(write(tmp_path / "a.beton", [beton_form(Encoded(data)) for data in files], None))
    assert beton.modes_N.tolist() == [0, 0, 0, 1, 1, 0]
    for row, data in enumerate(files):
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(beton.pixels(row), np.asarray(expected))


def test_rows_of_one_size_are_gathered_at_once_in_any_order(tmp_path: Path) -> None:
    beton = Beton.open(write(tmp_path / "a.beton"))
    block = beton.raw_block(np.array([4, 0, 4]))
    assert block is not None
    assert np.array_equal(block, np.stack([beton.pixels(4), beton.pixels(0), beton.pixels(4)]))
    for rows in ([0, 2], [0, 1], [1], []):
        assert beton.raw_block(np.array(rows, np.int64)) is None


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name).read_bytes() for name in ("a.beton", "b.beton"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_a_copy_region_by_region_has_the_same_bytes(tmp_path: Path) -> None:
    beton = Beton.open(write(tmp_path / "a.beton"))
    images = (beton.image(row) for row in range(beton.count))
    targets = beton.targets(np.arange(beton.count))
    write_beton(tmp_path / "b.beton", images, columns(5), targets=targets, target_shape=beton.target_shape)
    assert (tmp_path / "b.beton").read_bytes() == beton.path.read_bytes()


def test_nothing_follows_the_allocation_table_and_gaps_are_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [encoded(9), encoded((2 << 20) - 3000), encoded(9)], None)
    beton = Beton.open(path)
    table = np.frombuffer(path.read_bytes(), fmt.ALLOCATION, offset=path.stat().st_size - 3 * 24)
    assert table["sample_id"].tolist() == [0, 1, 2]
    assert table["ptr"].tolist() == beton.image_pointer_N.tolist()
    gap = path.read_bytes()[beton.image_pointer_N[0] + 9 : 2 << 20]
    assert len(gap) > 2_000_000
    assert not any(gap)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3 << 20), min_size=1, max_size=8))
@example([3 << 19, 3 << 20, 1])
def test_no_sample_ever_lies_on_two_pages(scratch: Path, sizes: list[int]) -> None:
    targets = np.zeros((len(sizes), 1, 5), np.float16)
    beton = Beton.open(write(scratch / "pages.beton", [encoded(size) for size in sizes], targets))
    assert beton.page_bytes == (2 << 20 if max(sizes) + 10 <= 2 << 20 else 4 << 20)
    assert beton.target_pointer_N is not None
    first, last = beton.image_pointer_N, beton.target_pointer_N + 9
    assert np.array_equal(first // beton.page_bytes, last // beton.page_bytes)
    assert not [problem for problem in beton_problems(beton) if "JPEG" not in problem]


def test_the_smallest_page_that_holds_the_largest_sample_is_taken(tmp_path: Path) -> None:
    for size, page in ((2 << 20, 2 << 20), ((2 << 20) + 1, 4 << 20), ((8 << 20) + 1, 16 << 20)):
        beton = Beton.open(write(tmp_path / "a.beton", [encoded(1), encoded(size), encoded(1)], None))
        assert beton.page_bytes == page


def first_then_fail(error: BaseException) -> Iterator[BetonImage]:
    yield IMAGES[0]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), InputError("stop")])
def test_an_exception_among_the_images_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    before = write(tmp_path / "a.beton").read_bytes()
    with pytest.raises(type(error)):
        write_beton(tmp_path / "a.beton", first_then_fail(error), columns(5))
    assert (tmp_path / "a.beton").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("images", "targets"),
    [(4, None), (6, None), (0, None), (5, 4), (5, 6), (4, 5), (6, 5), (4, 4), (6, 6), (5, 0)],
)
def test_a_wrong_number_of_samples_is_a_value_error_and_leaves_nothing(
    tmp_path: Path, images: int, targets: int | None
) -> None:
    given_targets = None if targets is None else np.zeros((targets, 1, 2), np.float16)
    shape = None if targets is None else (1, 2)
    with pytest.raises(ValueError, match=r"rows|differ in number"):
        write_beton(tmp_path / "a.beton", [raw(2, 2)] * images, columns(5), targets=given_targets, target_shape=shape)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("targets", "shape"),
    [
        (np.zeros((5, 3, 2), np.float32), (3, 2)),
        (np.zeros((5, 3, 2), np.uint16), (3, 2)),
        (np.zeros((5, 2, 3), np.float16), (3, 2)),
        (np.zeros((5, 6), np.float16), (3, 2)),
        (np.zeros((5, 3, 2), np.float16), None),
        (None, (3, 2)),
    ],
)
def test_targets_of_another_form_are_a_value_error(tmp_path: Path, targets: Any, shape: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match="target"):
        write_beton(tmp_path / "a.beton", IMAGES, columns(5), targets=targets, target_shape=shape)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COLUMN_NAMES)
def test_columns_of_unequal_length_are_a_value_error(name: str) -> None:
    values = {f"{other}_N": getattr(columns(5), f"{other}_N") for other in COLUMN_NAMES}
    values[f"{name}_N"] = values[f"{name}_N"][:1]
    with pytest.raises(ValueError, match="one length"):
        BetonColumns(**values)


def test_no_sample_at_all_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no samples to write"):
        write_beton(tmp_path / "a.beton", [], columns(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("width", "height"), [(65_536, 1), (1, 65_536), (70_000, 70_000)])
def test_an_image_wider_or_higher_than_the_format_allows_is_an_input_error(
    tmp_path: Path, width: int, height: int
) -> None:
    data = np.broadcast_to(np.zeros(1, np.uint8), (width * height * 3,))
    images = [raw(2, 2), BetonImage(mode=1, data=data, width=width, height=height)]
    with pytest.raises(
        InputError, match=f"row 1 is {width}x{height} px; a beton holds images of up to 65,535"
    ) as error:
        write_beton(tmp_path / "a.beton", images, columns(2))
    assert error.value.hint == "shrink larger images with --max-side"
    assert list(tmp_path.iterdir()) == []


def test_the_largest_side_the_format_allows_is_written(tmp_path: Path) -> None:
    beton = Beton.open(write(tmp_path / "a.beton", [raw(1, 65_535), raw(65_535, 1)], None))
    assert (beton.widths_N.tolist(), beton.heights_N.tolist()) == ([65_535, 1], [1, 65_535])


def test_an_image_that_fills_more_than_the_largest_page_is_an_input_error(tmp_path: Path) -> None:
    data = np.broadcast_to(np.zeros(1, np.uint8), (30_000 * 30_000 * 3,))
    with pytest.raises(InputError, match=r"row 0 takes 2,700,000,000 bytes.*2 GiB"):
        write_beton(tmp_path / "a.beton", [BetonImage(mode=1, data=data, width=30_000, height=30_000)], columns(1))


@pytest.mark.parametrize(
    ("mode", "size", "width", "height"), [(1, 11, 2, 2), (1, 0, 0, 2), (0, 0, 2, 2), (0, 9, 0, 2), (2, 12, 2, 2)]
)
def test_what_is_no_image_is_a_value_error(tmp_path: Path, mode: int, size: int, width: int, height: int) -> None:
    image = BetonImage(mode=mode, data=np.zeros(size, np.uint8), width=width, height=height)
    with pytest.raises(ValueError, match="row 0"):
        write_beton(tmp_path / "a.beton", [image], columns(1))


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from manifests.betons.reader import Beton, BetonColumns, write_beton
from manifests.images.decode import BetonImage

def images():
    small = BetonImage(mode=1, data=np.full(30_000, 7, np.uint8), width=100, height=100)
    yield from [small] * 500
    yield BetonImage(mode=1, data=np.full(8000 * 6000 * 3, 9, np.uint8), width=8000, height=6000)
    yield from [small] * 500

row_N = np.arange(1001)
columns = BetonColumns(label_N=row_N, sample_id_N=row_N, view_id_N=row_N.astype(np.uint64),
                       weight_N=np.ones(1001), kd_weight_N=np.ones(1001))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_beton(Path(sys.argv[1]), images(), columns)
beton = Beton.open(sys.argv[1])
assert beton.pixels(0).sum() == 30_000 * 7 and beton.widths_N[500] == 8000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_one_huge_image_among_thumbnails_costs_its_own_size_in_memory(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "a.beton"], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(run.stdout) < 8000 * 6000 * 3 + (12 << 20)


def test_a_full_disk_leaves_the_old_beton_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        before = write(folder / "a.beton").read_bytes()
        with pytest.raises(OSError, match="No space left") as caught:
            write_beton(folder / "a.beton", [raw(100, 100)] * 100, columns(100))
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in folder.iterdir()] == ["a.beton"]
        assert (folder / "a.beton").read_bytes() == before
    finally:
        subprocess.run(["umount", folder], check=True)


def test_columns_are_ordinary_arrays_that_may_be_changed(tmp_path: Path) -> None:
    beton = Beton.open(write(tmp_path / "a.beton"))
    for name, values in beton.columns.items():
        assert values.flags.c_contiguous, name
        assert values.flags.aligned, name
        values[:] = 1
    assert Beton.open(beton.path).columns["label"].tolist() == [0, 1, 2, 0, 1]


def test_images_may_be_any_iterable(tmp_path: Path) -> None:
    kinds: list[Iterable[BetonImage]] = [IMAGES, tuple(IMAGES), iter(IMAGES), (image for image in IMAGES)]
    written = set()
    for kind in kinds:
        write_beton(tmp_path / "a.beton", kind, columns(5))
        written.add((tmp_path / "a.beton").read_bytes())
    assert len(written) == 1
