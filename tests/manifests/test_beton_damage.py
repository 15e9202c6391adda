"""Truncated, altered and forged betons: an input error every time, never a crash or much memory."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_beton import jpeg, write

from manifests.betons.reader import Beton
from manifests.errors import InputError
from manifests.images.decode import BetonImage, Encoded, beton_form
from manifests.integrity import beton_problems


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small beton of raw images, JPEGs and targets."""
    return write(tmp_path_factory.mktemp("beton") / "a.beton").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def read_everything(beton: Beton) -> None:
    """All that a loader would: InputError at most."""
    for row in range(beton.count):
        beton.image_bytes(row).sum()
        try:
            beton.pixels(row).sum()
        except InputError:
            continue
    beton.raw_block(np.flatnonzero(beton.modes_N == 1))
    if beton.target_shape is not None:
        beton.targets(np.arange(beton.count)).tobytes()
    list(beton_problems(beton))


def test_every_truncation_is_an_input_error(scratch: Path, content: bytes) -> None:
    path = scratch / "cut.beton"
    spread = range(0, len(content), 53)
    table = range(len(content) - 10 * 24 - 1, len(content))
    for size in {0, 1, 23, 24, 25, *spread, *table}:
        path.unlink(missing_ok=True)
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"not a usable beton"):
            Beton.open(path)


def test_bytes_after_the_allocation_table_are_an_input_error(scratch: Path, content: bytes) -> None:
    path = scratch / "long.beton"
    for extra in (b"\0", b"\0" * 24, content[-24:], content):
        path.unlink(missing_ok=True)
        path.write_bytes(content + extra)
        with pytest.raises(InputError, match=f"has {240 + len(extra)} bytes instead of 240"):
            Beton.open(path)


PLACES = st.one_of(
    st.integers(0, 23),
    st.builds(lambda f, b: 24 + f * 1041 + b, st.integers(0, 6), st.integers(0, 40)),
    st.builds(lambda b: 24 + 6 * 1041 + 17 + b, st.integers(0, 300)),
    st.integers(24 + 7 * 1041, 24 + 7 * 1041 + 5 * 80),
    st.integers(-240, -1),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=2))
def test_altered_bytes_give_an_input_error_or_a_beton_that_can_be_read(
    scratch: Path, content: bytes, changes: list[tuple[int, int]]
) -> None:
    altered = bytearray(content)
    for place, value in changes:
        altered[place] = value
    path = scratch / "altered.beton"
    path.unlink(missing_ok=True)
    path.write_bytes(altered)
    try:
        beton = Beton.open(path)
    except InputError:
        return
    read_everything(beton)


def forged(content: bytes, offset: int, kind: str, value: int) -> bytes:
    altered = bytearray(content)
    struct.pack_into(kind, altered, offset % len(content), value)
    return bytes(altered)


POINTER, SIZE = -10 * 24 + 8, -10 * 24 + 16
FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another version": (lambda c: forged(c, 0, "<H", 3), "format version 3, this reader knows 2"),
    "no field": (lambda c: forged(c, 2, "<H", 0), "fields"),
    "fields beyond the file": (lambda c: forged(c, 2, "<H", 65_535), "65535 fields do not fit in"),
    "a page of no size": (lambda c: forged(c, 4, "<I", 0), "page size 0"),
    "a page size that is no power": (lambda c: forged(c, 4, "<I", 3 << 20), "not a power of two"),
    "no sample": (lambda c: forged(c, 8, "<Q", 0), "no sample"),
    "too many samples": (lambda c: forged(c, 8, "<Q", 6), "allocation table"),
    "samples of a petabyte": (lambda c: forged(c, 8, "<Q", 1 << 50), "allocation table"),
    "samples of all memory": (lambda c: forged(c, 8, "<Q", (1 << 64) - 1), "allocation table"),
    "an unfinished file": (lambda c: forged(c, 16, "<Q", 0), "allocation table starts at byte 0"),
    "a table outside": (lambda c: forged(c, 16, "<Q", 1 << 63), "allocation table"),
    "a table at the end": (lambda c: forged(c, 16, "<Q", len(c)), "allocation table"),
    "a region in the header": (lambda c: forged(c, POINTER, "<Q", 3), "outside the data"),
    "a region after the file": (lambda c: forged(c, POINTER, "<Q", 1 << 40), "outside the data"),
    "a region whose end wraps around": (
        lambda c: forged(forged(c, POINTER, "<Q", (1 << 64) - 8), SIZE, "<Q", 16),
        "outside the data",
    ),
    "a region of all memory": (lambda c: forged(c, SIZE, "<Q", (1 << 64) - 1), "outside the data"),
    "regions on each other": (lambda c: forged(c, SIZE, "<Q", 80), "overlap"),
    "a raw image too small": (lambda c: forged(c, SIZE, "<Q", 71), "row 0: the region of a raw image"),
    "a region of no size": (lambda c: forged(c, SIZE, "<Q", 0), "row 0: its image points to no region"),
    "a target too small": (lambda c: forged(c, SIZE + 24, "<Q", 11), "target has the wrong size"),
    "an unknown mode": (lambda c: forged(c, 24 + 7 * 1041, "<B", 2), "unknown mode"),
    "no width": (lambda c: forged(c, 24 + 7 * 1041 + 1, "<H", 0), "no size"),
    "a pointer to nothing": (lambda c: forged(c, 24 + 7 * 1041 + 5, "<Q", 9000), "row 0: its image points to no"),
    "a custom field": (lambda c: forged(c, 24 + 1041, "<B", 255), "'label' has type 255"),
    "two fields of one name": (lambda c: c.replace(b"kd_weight\0", b"weight\0\0\0\0", 1), "two of the same name"),
    "a name that is not ASCII": (lambda c: c.replace(b"label", b"l\xffbel", 1), "ascii"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_beton_is_an_input_error_without_much_memory(scratch: Path, content: bytes, name: str) -> None:
    forge, message = FORGERIES[name]
    path = scratch / f"{name}.beton"
    path.write_bytes(forge(content))
    tracemalloc.start()
    with pytest.raises(InputError, match=f"not a usable beton: .*({message})") as error:
        Beton.open(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert error.value.hint is not None
    assert "write it again" in error.value.hint


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.beton", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot read"):
            Beton.open(path)


def test_a_jpeg_that_cannot_be_decoded_is_an_input_error_that_names_its_row(tmp_path: Path) -> None:
    broken = bytearray(jpeg())
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
    images = [
        beton_form(Encoded(jpeg())),
        BetonImage(mode=0, data=np.frombuffer(broken, np.uint8), width=20, height=12),
    ]
    beton = Beton.open(write(tmp_path / "a.beton", images, None))
    with pytest.raises(InputError, match=r"a\.beton: row 1: cannot be decoded"):
        beton.pixels(1)


def test_a_jpeg_of_another_size_than_its_metadata_is_an_input_error(tmp_path: Path) -> None:
    image = BetonImage(mode=0, data=np.frombuffer(jpeg(20, 12), np.uint8), width=12, height=20)
    beton = Beton.open(write(tmp_path / "a.beton", [image], None))
    with pytest.raises(InputError, match="row 0 is 20x12, its metadata says 12x20"):
        beton.pixels(0)
