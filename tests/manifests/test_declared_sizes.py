"""Files that declare more than they hold, or are no files: refused before memory is taken, and without waiting."""

import gzip
import io
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.images import decode
from manifests.images.decode import Encoded, ImageProblem, decode_rgb
from manifests.sources import ReadOptions, idx
from manifests.sources.idx import read_idx
from manifests.sources.list_file import read_list
from manifests.sources.names import read_class_names
from manifests.sources.open import read_source


def with_size(data: bytes, side: int) -> bytes:
    """A baseline or progressive JPEG that declares another size."""
    at = next(data.index(bytes((0xFF, sof))) for sof in (0xC0, 0xC2) if bytes((0xFF, sof)) in data)
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_short_jpeg_of_400_megapixels_is_refused_before_it_is_decoded(options: dict[str, bool]) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)).save(stream, "JPEG", **options)
    tracemalloc.start()
    with pytest.raises(ImageProblem, match=r"bytes cannot hold 20000x20000 px, which take 2\.8 GB"):
        decode_rgb(Encoded(with_size(stream.getvalue(), 20_000)))
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    with pytest.raises(ImageProblem, match="more than 400 megapixels"):
        decode_rgb(Encoded(with_size(stream.getvalue(), 30_000)))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("quality", [1, 95])
def test_the_emptiest_whole_jpeg_is_decoded(mode: str, options: dict[str, bool], quality: int) -> None:
    stream = io.BytesIO()
    Image.new(mode, (4000, 3000)).save(stream, "JPEG", quality=quality, **options)
    assert decode_rgb(Encoded(stream.getvalue())).shape == (3000, 4000, 3)


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, lock = io.BytesIO(), threading.Lock()
    Image.new("L", (40, 30)).save(stream, "PNG")
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 1000)
    monkeypatch.setattr(decode, "_one_large_image", lambda pid: lock)
    held: list[bool] = []
    monkeypatch.setattr(
        decode, "_to_rgb", lambda picture: held.append(lock.locked()) or np.zeros((30, 40, 3), np.uint8)
    )
    decode_rgb(Encoded(stream.getvalue()))
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 2000)
    decode_rgb(Encoded(stream.getvalue()))
    assert held == [True, False]
    assert not lock.locked()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_the_emptiest_whole_png_is_decoded(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (4000, 3000)).save(stream, "PNG", compress_level=9)
    assert decode_rgb(Encoded(stream.getvalue())).shape == (3000, 4000, 3)


def test_a_packed_idx_file_holds_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "images.gz"
    for count, is_whole in ((1024, True), (1025, False)):
        header = bytes((0, 0, 8, 3)) + struct.pack(">III", count, 32, 32)
        path.write_bytes(gzip.compress(header + bytes(count * 1024)))
        if is_whole:
            assert read_idx(path, 3).shape == (1024, 32, 32)
        else:
            with pytest.raises(InputError, match="at most 1,048,576, or unpack it first"):
                read_idx(path, 3)


def test_an_idx_file_that_ends_early_says_by_how_much(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 7) + b"12345")
    with pytest.raises(InputError, match="it ends 2 bytes too early"):
        read_idx(path, 1)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    for name in ("data.npz", "data.tar", "data.parquet", "classes.txt", "list.csv"):
        os.mkfifo(tmp_path / name)
    for name in ("data.npz", "data.tar", "data.parquet"):
        with pytest.raises(InputError, match="is not a regular file"):
            read_source(str(tmp_path / name), ReadOptions())
    with pytest.raises(InputError, match="is not a regular file"):
        read_class_names(tmp_path / "classes.txt")
    with pytest.raises(InputError, match="is not a regular file"):
        read_list(tmp_path / "list.csv")
