import contextlib
import io
import random
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from manifests.images.decode import Encoded, ImageProblem, Pixels, beton_form, decode_rgb, shrunk_sizes
from manifests.images.jpeg import exif_orientation, jpeg_info

MODES = {
    "JPEG": "1 L RGB CMYK YCbCr",
    "PNG": "1 L LA P RGB RGBA",
    "WEBP": "L RGB RGBA",
    "TIFF": "1 L LA P RGB RGBA CMYK YCbCr",
    "BMP": "1 L P RGB RGBA",
    "GIF": "1 L P RGB",
    "PPM": "1 L RGB",
}
RAMP = (np.arange(12 * 20 * 3) % 251).astype(np.uint8).reshape(12, 20, 3)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    """A photograph-like picture: JPEG of it differs by little from its pixels."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x * 2 + y) % 256]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def jpeg(width: int = 40, height: int = 24, **options: object) -> bytes:
    return encode(smooth(width, height), "JPEG", **options)


def pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_frame(data: bytes, **fields: int) -> bytes:
    """The same JPEG whose frame header tells another precision, height, width or kind."""
    start = data.index(b"\xff\xc0\x00\x11")
    frame = bytearray(data)
    frame[start + 1] = fields.get("sof", 0xC0)
    frame[start + 4] = fields.get("precision", 8)
    height, width = struct.unpack_from(">HH", data, start + 5)
    struct.pack_into(">HH", frame, start + 5, fields.get("height", height), fields.get("width", width))
    return bytes(frame)


def test_a_baseline_jpeg_tells_its_size_sampling_and_end() -> None:
    info = jpeg_info(jpeg(40, 24, subsampling=1))
    assert info is not None
    assert (info.width, info.height, info.sof, info.precision, info.components) == (40, 24, 0xC0, 8, 3)
    assert info.sampling == ((2, 1), (1, 1), (1, 1))
    assert info.exif_orientation == 1
    assert info.whole


def test_a_progressive_grey_jpeg_is_sof2_with_one_component() -> None:
    info = jpeg_info(encode(smooth(17, 9).convert("L"), "JPEG", progressive=True))
    assert info is not None
    assert (info.width, info.height, info.sof, info.components, info.whole) == (17, 9, 0xC2, 1, True)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n", b"\0" * 99])
def test_what_has_no_frame_header_is_no_jpeg(data: bytes) -> None:
    assert jpeg_info(data) is None


def test_a_jpeg_without_its_end_marker_is_not_whole() -> None:
    info = jpeg_info(jpeg()[:-2])
    assert info is not None
    assert not info.whole


def test_bytes_after_the_end_marker_do_not_matter() -> None:
    info = jpeg_info(jpeg() + b"camera thumbnail \xff\xd8\xff")
    assert info is not None
    assert info.whole


def test_bytes_between_segments_make_a_jpeg_not_whole() -> None:
    data = jpeg()
    start = data.index(b"\xff\xdb")
    info = jpeg_info(data[:start] + b"stray" + data[start:])
    assert info is not None
    assert not info.whole


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_upright_as_pillow_turns_it(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(RAMP), kind, exif=oriented(orientation), **options)
    pixels = decode_rgb(Encoded(data))
    np.testing.assert_array_equal(pixels, pillow(data))
    assert pixels.shape == ((20, 12, 3) if orientation >= 5 else (12, 20, 3))
    if kind == "JPEG":
        info = jpeg_info(data)
        assert info is not None
        assert (info.exif_orientation, info.width, info.height) == (orientation, 20, 12)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(byte_order: str) -> None:
    magic = b"II*\0" if byte_order == "<" else b"MM\0*"
    exif = magic + struct.pack(byte_order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    info = jpeg_info(jpeg(exif=b"Exif\0\0" + exif))
    assert info is not None
    assert info.exif_orientation == 6


def exif_entry(kind: int, count: int, value: bytes, *, order: str = "<", start: int = 8) -> bytes:
    """An EXIF block with an orientation as its one entry."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IHHHI", start, 1, 0x0112, kind, count) + value.ljust(4, b"\0")


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (exif_entry(3, 1, b"\6"), 6),
        (exif_entry(4, 1, b"\6"), 6),
        (exif_entry(3, 1, b"\0\6", order=">"), 6),
        # Not as the standard has it, but Pillow's exif_transpose turns such an image too.
        (exif_entry(8, 1, b"\6"), 6),
        (exif_entry(3, 2, b"\6\0\6"), 6),
        # Anything else is not an orientation, and no reason to turn an image.
        (exif_entry(1, 1, b"\6"), 1),
        (exif_entry(2, 2, b"6\0"), 1),
        (exif_entry(11, 1, struct.pack("<f", 6.0)), 1),
        (exif_entry(5, 1, b"\6"), 1),
        (exif_entry(99, 1, b"\6"), 1),
        (exif_entry(3, 1, b"\6", start=9), 1),
        (exif_entry(3, 1, b"\6", start=2**32 - 1), 1),
        (exif_entry(3, 1, b"\6")[:-3], 1),
        (b"II+\0" + exif_entry(3, 1, b"\6")[4:], 1),
        (b"XX*\0" + exif_entry(3, 1, b"\6")[4:], 1),
        (b"II*\0", 1),
        (b"II", 1),
        (b"", 1),
    ],
)
def test_only_an_orientation_that_can_be_read_turns_an_image(exif: bytes, orientation: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exif_orientation(exif) == exif_orientation(b"Exif\0\0" + exif) == orientation
        info = jpeg_info(jpeg(exif=b"Exif\0\0" + exif))
    assert info is not None
    assert info.exif_orientation == orientation


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0", b"Exif\0\0"]))
def test_arbitrary_exif_is_an_orientation(tail: bytes, head: bytes) -> None:
    assert 1 <= exif_orientation(head + tail) <= 8


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_out_of_range_is_upright(orientation: int) -> None:
    data = jpeg(exif=oriented(orientation))
    np.testing.assert_array_equal(decode_rgb(Encoded(data)), pillow(data))
    assert beton_form(Encoded(data)).mode == 0


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind].split()])
def test_every_mode_becomes_rgb_as_pillow_makes_it(kind: str, mode: str) -> None:
    data = encode(smooth(23, 11).convert(mode), kind)
    pixels = decode_rgb(Encoded(data))
    np.testing.assert_array_equal(pixels, pillow(data))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_palette_with_transparency_is_read_without_a_warning() -> None:
    data = encode(smooth(16, 16).quantize(8), "PNG", transparency=bytes([0, 128, 255]))
    with pytest.warns(UserWarning, match="Transparency"):
        expected = pillow(data)
    np.testing.assert_array_equal(decode_rgb(Encoded(data)), expected)


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    grey = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    expected = np.array([[0, 0, 1], [128, 254, 255]], np.uint8)[:, :, None].repeat(3, axis=2)
    png = encode(Image.fromarray(grey), "PNG")
    tiff = encode(Image.fromarray(grey), "TIFF")
    pgm = b"P5 3 2 65535\n" + grey.astype(">u2").tobytes()
    for data in (png, tiff, pgm):
        np.testing.assert_array_equal(decode_rgb(Encoded(data)), expected)


def test_pixels_of_32_bits_are_a_problem() -> None:
    data = encode(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF")
    with pytest.raises(ImageProblem, match="32 bits"):
        decode_rgb(Encoded(data))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert (decode_rgb(Encoded(data))[:, :, 0] >= 250).all()


def test_pixels_become_rgb_in_a_fresh_array() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(Pixels(grey)), expected)
    np.testing.assert_array_equal(decode_rgb(Pixels(grey[:, :, None])), expected)
    colour = np.zeros((4, 4, 3), np.uint8)
    decoded = decode_rgb(Pixels(colour))
    decoded[:] = 9
    assert colour.max() == 0


def test_every_cut_of_a_jpeg_is_a_problem() -> None:
    data = jpeg()
    for size in range(len(data)):
        with pytest.raises(ImageProblem):
            decode_rgb(Encoded(data[:size]))
        with pytest.raises(ImageProblem):
            beton_form(Encoded(data[:size]))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_a_cut_file_is_a_problem_unless_all_its_pixels_are_there(kind: str) -> None:
    data = encode(smooth(23, 11), kind)
    whole = decode_rgb(Encoded(data))
    problems = 0
    for size in range(len(data)):
        try:
            np.testing.assert_array_equal(decode_rgb(Encoded(data[:size])), whole)
        except ImageProblem:
            problems += 1
    assert problems > len(data) * 0.8


def test_the_reason_is_one_line_without_addresses() -> None:
    for data in (b"", b"not an image", jpeg()[:300], encode(smooth(9, 9), "WEBP")[:40], b"GIF89a", b"BM"):
        with pytest.raises(ImageProblem) as caught:
            decode_rgb(Encoded(data))
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)
        assert 5 < len(str(caught.value)) <= 200


def test_an_image_too_large_is_a_problem_before_memory_is_taken() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = bytearray(encode(smooth(9, 9), "PNG"))
    png[16:29] = header
    png[29:33] = zlib.crc32(b"IHDR" + header).to_bytes(4)
    huge_jpeg = with_frame(jpeg(), width=65_500, height=65_500)
    for data in (bytes(png), huge_jpeg):
        with pytest.raises(ImageProblem, match="megapixels"):
            decode_rgb(Encoded(data))
        with pytest.raises(ImageProblem, match="megapixels"):
            beton_form(Encoded(data), max_side=64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP"])
def test_the_process_wide_size_limit_of_pillow_neither_warns_nor_fails(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(smooth(40, 24), kind)
    expected = pillow(data)
    for limit in (700,) if kind in ("TIFF", "WEBP") else (700, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(decode_rgb(Encoded(data)), expected)


def test_broken_metadata_of_a_whole_image_is_silent_in_many_threads() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 40, 0x011A, 5, 1) + b"\xff\xff\xff\x7f"
    data = jpeg(exif=exif)
    with pytest.warns(UserWarning, match="Truncated File Read"):
        expected = pillow(data)
    with ThreadPoolExecutor(8) as pool:
        for pixels in pool.map(decode_rgb, [Encoded(data)] * 200):
            np.testing.assert_array_equal(pixels, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_rgb(Encoded(data))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xc0\0\x11\x08"]))
def test_arbitrary_bytes_never_break_the_marker_parser(tail: bytes, head: bytes) -> None:
    info = jpeg_info(head + tail)
    assert info is None or 1 <= info.exif_orientation <= 8


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_is_pixels_or_a_problem_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]))
    options = {"exif": oriented(6)} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    damaged = bytearray(encode(smooth(16, 12), kind, **options))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    for function in (decode_rgb, beton_form):
        with contextlib.suppress(ImageProblem):
            function(Encoded(bytes(damaged)))


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.booleans(), st.sampled_from([0, 1, 2]), st.sampled_from(["L", "RGB"]))
def test_the_frame_header_says_what_pillow_reads(
    width: int, height: int, progressive: bool, subsampling: int, mode: str
) -> None:
    data = encode(smooth(width, height).convert(mode), "JPEG", progressive=progressive, subsampling=subsampling)
    info = jpeg_info(data)
    assert info is not None
    assert (info.width, info.height) == Image.open(io.BytesIO(data)).size == (width, height)
    assert info.components == len(mode)
    assert info.sof == (0xC2 if progressive else 0xC0)
    assert info.whole


def test_a_hostile_run_of_markers_is_given_up_quickly() -> None:
    started = time.process_time()
    assert sum(1 for _ in range(2_000_000)) == 2_000_000
    counted = time.process_time()
    assert jpeg_info(b"\xff\xd8" + b"\xff\xe0\0\x02" * 2_000_000) is None
    assert jpeg_info(b"\xff\xd8" + b"\xff" * 2_000_000) is None
    assert time.process_time() - counted < 10 * (counted - started)


def test_a_plain_jpeg_is_copied_byte_for_byte() -> None:
    for data in (jpeg(), jpeg(progressive=True), jpeg(subsampling=0), encode(smooth(9, 5).convert("L"), "JPEG")):
        form = beton_form(Encoded(data), max_side=40)
        assert form.mode == 0
        assert form.data.tobytes() == data
        info = jpeg_info(data)
        assert info is not None
        assert (form.width, form.height) == (info.width, info.height)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(exif=oriented(6)),
        encode(smooth(40, 24).convert("CMYK"), "JPEG"),
        encode(smooth(40, 24), "PNG"),
        jpeg().replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
    ],
    ids=["rotated", "cmyk", "png", "stray bytes"],
)
def test_what_a_beton_decoder_would_misread_is_stored_raw(data: bytes) -> None:
    form = beton_form(Encoded(data))
    expected = pillow(data)
    assert form.mode == 1
    assert (form.height, form.width) == expected.shape[:2]
    np.testing.assert_array_equal(form.data.reshape(expected.shape), expected)


@pytest.mark.parametrize("fields", [{"precision": 12}, {"sof": 0xC3}, {"sof": 0xC9}, {"height": 0}])
def test_frames_outside_the_common_kinds_are_not_copied(fields: dict[str, int]) -> None:
    with contextlib.suppress(ImageProblem):
        assert beton_form(Encoded(with_frame(jpeg(), **fields))).mode == 1


def test_a_jpeg_longer_than_max_side_is_shrunk_by_lanczos_and_stored_raw() -> None:
    data = jpeg(100, 50)
    form = beton_form(Encoded(data), max_side=40)
    expected = Image.open(io.BytesIO(data)).resize((40, 20), Image.Resampling.LANCZOS)
    assert (form.mode, form.width, form.height) == (1, 40, 20)
    np.testing.assert_array_equal(form.data.reshape(20, 40, 3), np.asarray(expected))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 200))
@settings(max_examples=40, deadline=None)
def test_sizes_of_shrunk_images_are_told_without_the_images(width: int, height: int, max_side: int) -> None:
    form = beton_form(Pixels(np.zeros((height, width), np.uint8)), max_side=max_side)
    assert shrunk_sizes([[width, height], [8, 8]], max_side).tolist() == [[form.width, form.height], [8, 8]]


def test_shrinking_keeps_at_least_one_pixel_a_side() -> None:
    form = beton_form(Pixels(np.zeros((300, 1), np.uint8)), max_side=10)
    assert (form.width, form.height, form.mode) == (1, 10, 1)


def test_pixels_within_max_side_are_stored_as_they_are() -> None:
    form = beton_form(Pixels(RAMP), max_side=20)
    assert form.mode == 1
    np.testing.assert_array_equal(form.data.reshape(12, 20, 3), RAMP)


def test_real_photographs_are_whole_copied_and_decode_as_pillow_decodes_them(shared_data: Path) -> None:
    files = sorted((shared_data / "imagefolder_clothing").rglob("*.jpg"))
    for path in random.Random(0).sample(files, 40):
        data = path.read_bytes()
        form = beton_form(Encoded(data))
        assert form.mode == 0
        assert form.data.tobytes() == data
        np.testing.assert_array_equal(decode_rgb(Encoded(data)), pillow(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_large_images_are_converted_in_bands_to_the_same_pixels(mode: str) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (1201, 1300, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "TIFF")
    with Image.open(io.BytesIO(stream.getvalue())) as whole:
        expected = np.asarray(whole.convert("RGB"))
    assert np.array_equal(decode_rgb(Encoded(stream.getvalue())), expected)
