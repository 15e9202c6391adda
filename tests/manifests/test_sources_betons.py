import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from manifests.betons import format as fmt
from manifests.betons.reader import BetonColumns, write_beton
from manifests.errors import InputError
from manifests.format.header import DataSet, Header, Tool
from manifests.format.header_file import write_header
from manifests.images.decode import Encoded, Pixels, RawImage, beton_form, decode_rgb
from manifests.sources import open_source

STOCK_WRITER = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

class Rows:
    def __len__(self):
        return 6
    def __getitem__(self, row):
        return np.full((4 + row, 5, 3), 40 * row, np.uint8), row % 2, 7

for mode in ("raw", "jpg"):
    fields = {"picture": RGBImageField(write_mode=mode), "kind": IntField(), "more": IntField()}
    DatasetWriter(sys.argv[1] + mode + ".beton", fields, num_workers=1).from_indexed_dataset(Rows())
"""


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def write(path: Path, images: list[RawImage], labels: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_N = np.arange(len(labels))
    columns = BetonColumns(
        label_N=np.array(labels, np.int64),
        sample_id_N=rows_N + 500,
        view_id_N=rows_N.astype(np.uint64) + np.uint64(1 << 63),
        weight_N=np.ones(len(labels)),
        kd_weight_N=np.ones(len(labels)),
    )
    write_beton(path, [beton_form(image) for image in images], columns)
    return path


def pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)


def test_jpeg_regions_are_encoded_and_raw_regions_are_pixels(tmp_path: Path) -> None:
    data = jpeg(1)
    path = write(tmp_path / "flowers" / "train.beton", [Encoded(data), Pixels(pixels(2)), Pixels(pixels(3))], [0, 2, 1])
    source = open_source(str(path))
    assert (source.kind, source.name, source.split) == ("beton", "flowers", None)
    assert list(source.keys) == ["row/00000000", "row/00000001", "row/00000002"]
    assert source.labels_N.tolist() == [0, 2, 1]
    assert source.labels_N.dtype == np.int32
    assert source.class_names == ("0", "1", "2")
    last, first = source.read([2, 0])
    assert first == Encoded(data)
    assert isinstance(last, Pixels)
    np.testing.assert_array_equal(last.array, pixels(3))


def test_class_names_come_from_the_manifest_it_lies_in_or_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "train.beton", [Pixels(pixels(0)), Pixels(pixels(1))], [0, 1])
    (tmp_path / "names.json").write_text(json.dumps(["x", "y"]))
    assert open_source(str(path)).class_names == ("x", "y")
    data = DataSet(name="d", source="folder", count=2, readable=2, class_names=["cat", "dog"], fingerprint="0" * 64)
    write_header(tmp_path, Header(kind="index", data=data, tool=Tool(name="prune-toolkit", version="0")))
    assert open_source(str(path)).class_names == ("cat", "dog")
    (tmp_path / "mine.txt").write_text("a\nb\nc")
    assert open_source(str(path), classes=tmp_path / "mine.txt").class_names == ("a", "b", "c")


def test_a_beton_has_no_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [Pixels(pixels(0)), Pixels(pixels(1))], [0, 1])
    with pytest.raises(InputError, match="has no splits"):
        open_source(str(path), split="test")


def test_labels_outside_the_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [Pixels(pixels(0)), Pixels(pixels(1))], [0, 5])
    (tmp_path / "names.json").write_text(json.dumps(["x", "y"]))
    with pytest.raises(InputError, match=r"row/00000001 has label 5, outside 0\.\.1"):
        open_source(str(path))


def test_a_beton_without_integers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [Pixels(pixels(0)), Pixels(pixels(1))], [0, 1])
    content = bytearray(path.read_bytes())
    label = fmt.HEADER.itemsize + fmt.FIELD.itemsize + fmt.FIELD.fields["type_id"][1]  # type: ignore[index]
    content[label] = fmt.FLOAT
    path.write_bytes(content)
    with pytest.raises(InputError, match="the field 'label' holds decimals such as"):
        open_source(str(path))


def test_a_cut_beton_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [Pixels(pixels(0)), Pixels(pixels(1))], [0, 1])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError):
        open_source(str(path))


def test_betons_of_ffcvs_own_writer_with_other_field_names_are_read(tmp_path: Path) -> None:
    if importlib.util.find_spec("ffcv") is None:
        pytest.skip("FFCV is not installed")
    command = [sys.executable, "-c", STOCK_WRITER, f"{tmp_path}/"]
    subprocess.run(command, check=True, timeout=240, capture_output=True)
    for mode, kind, tolerance in (("raw", Pixels, 0), ("jpg", Encoded, 2)):
        with pytest.raises(InputError, match="not clear which field holds the labels") as caught:
            open_source(str(tmp_path / f"{mode}.beton"))
        assert "kind, more" in str(caught.value.hint)
        source = open_source(str(tmp_path / f"{mode}.beton"), label="kind")
        assert source.labels_N.tolist() == [0, 1, 0, 1, 0, 1]
        for row, image in enumerate(source.read(range(6))):
            assert isinstance(image, kind)
            decoded = decode_rgb(image)
            assert decoded.shape == (4 + row, 5, 3)
            np.testing.assert_allclose(decoded, 40 * row, atol=tolerance)
