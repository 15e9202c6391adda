"""Images of 16 bits: by hand, in every format that has them, and told to those who read them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.errors import InputError
from manifests.images.decode import Encoded, decode_rgb, is_16_bit
from manifests.manifest import Manifest
from manifests.sources import open_source
from manifests.sources.sixteen_bit import sixteen_bit
from prune_toolkit.indexing.reading import tell_reading

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def encoded(pixels: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_the_depth_is_known_without_decoding(form: str) -> None:
    assert is_16_bit(encoded(RAMP, form))
    assert not is_16_bit(encoded((RAMP >> 8).astype(np.uint8), form))
    if form != "JPEG2000":
        pixels = decode_rgb(Encoded(encoded(RAMP, form)))
        np.testing.assert_array_equal(pixels[:, :, 1], RAMP >> 8)


def test_other_bytes_have_no_depth() -> None:
    jpeg = encoded(np.zeros((8, 8, 3), np.uint8), "JPEG")
    for data in (b"", b"text", jpeg, jpeg[:20], encoded(RAMP, "TIFF")[:10], b"\x89PNG"):
        assert not is_16_bit(data)


def pictures(root: Path, **values: np.ndarray) -> Path:
    for name, pixels in values.items():
        path = root / name[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, "PNG"))
    return root


TWELVE_BITS = (RAMP >> 4).astype(np.uint16)
ONE_GREY = (30_000 + (RAMP >> 5)).astype(np.uint16)


def test_images_of_a_small_range_are_told(tmp_path: Path) -> None:
    """12 bits of 16 become 0 to 15 of 255; ONE_GREY becomes 117 to 125."""
    eight = (RAMP >> 8).astype(np.uint8)
    root = pictures(tmp_path / "d", a1=TWELVE_BITS, a2=ONE_GREY, b1=RAMP, b2=eight)
    found = sixteen_bit(open_source(str(root)))
    assert (found.sampled, found.deep, found.flat) == (
        4,
        ("a/a1.png", "a/a2.png", "b/b1.png"),
        ("a/a1.png", "a/a2.png"),
    )
    assert found.conversion == "of 16 bits (3 of 4 sampled), of which the upper 8 are kept"
    assert found.warning is not None
    assert found.warning.startswith(
        "2 of 3 sampled images of 16 bits use less than an eighth of the range, such as a/a1"
    )


def test_half_of_them_are_no_reason_to_warn(tmp_path: Path) -> None:
    found = sixteen_bit(open_source(str(pictures(tmp_path / "d", a1=TWELVE_BITS, b1=RAMP))))
    assert found.warning is None
    eight = (RAMP >> 12).astype(np.uint8)
    found = sixteen_bit(open_source(str(pictures(tmp_path / "e", a1=eight, b1=eight))))
    assert (found.conversion, found.warning) == (None, None)


def test_a_long_data_set_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.sources.sixteen_bit.PLACES", 3)
    monkeypatch.setattr("manifests.sources.sixteen_bit.RUN", 2)
    root = pictures(tmp_path / "d", **{f"{name}{row}": RAMP for name in "ab" for row in range(5)})
    assert sixteen_bit(open_source(str(root))).deep == (
        *("a/a0.png", "a/a1.png", "a/a4.png", "b/b0.png", "b/b3.png", "b/b4.png"),
    )


def test_an_index_says_how_they_were_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prune_toolkit import index

    root = pictures(tmp_path / "dark", a1=TWELVE_BITS, b1=TWELVE_BITS + 1)
    index(root, out=tmp_path / "index")
    told = capsys.readouterr().err
    assert "images: of 16 bits (2 of 2 sampled), of which the upper 8 are kept" in told
    assert "warning: 2 of 2 sampled images of 16 bits use less than an eighth of the range" in told
    read_as = Manifest.open(tmp_path / "index").header.data.read_as
    assert read_as is not None
    assert read_as.images == "of 16 bits (2 of 2 sampled), of which the upper 8 are kept"
    assert any("of 16 bits use less than an eighth" in line for line in read_as.warnings)
    with pytest.raises(InputError, match="use less than an eighth of the range"):
        tell_reading(open_source(str(root)), strict=True)
