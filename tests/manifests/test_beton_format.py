import struct
from typing import Any

import numpy as np
import pytest

from manifests.betons import format as fmt


def described(dtype: np.dtype[Any]) -> dict[str, Any]:
    assert dtype.fields is not None
    fields = {n: [str(entry[0].base), list(entry[0].shape), entry[1]] for n, entry in dtype.fields.items()}
    return {"size": dtype.itemsize, "fields": fields}


@pytest.fixture(scope="module")
def theirs(ffcv: Any) -> dict[str, Any]:
    """What FFCV says about its own format."""
    answer: dict[str, Any] = ffcv.ask("format")
    return answer


def test_every_dtype_is_that_of_ffcv(theirs: dict[str, Any]) -> None:
    assert theirs["version"] == fmt.VERSION
    assert described(fmt.HEADER) == theirs["header"]
    assert described(fmt.FIELD) == theirs["field"]
    assert described(fmt.ALLOCATION) == theirs["allocation"]
    assert described(fmt.IMAGE_METADATA) == theirs["image"]
    assert described(fmt.BYTES_METADATA) == theirs["bytes"]
    ours = [fmt.METADATA[kind].str for kind in (fmt.INT, fmt.FLOAT, fmt.NDARRAY, fmt.TENSOR)]
    assert ours == theirs["scalars"]


def test_every_type_number_is_that_of_ffcv(theirs: dict[str, Any]) -> None:
    assert theirs["ids"] == {
        str(fmt.FLOAT): "FloatField",
        str(fmt.INT): "IntField",
        str(fmt.IMAGE): "RGBImageField",
        str(fmt.BYTES): "BytesField",
        str(fmt.NDARRAY): "NDArrayField",
        str(fmt.JSON): "JSONField",
        str(fmt.TENSOR): "TorchTensorField",
    }


def test_metadata_rows_are_laid_out_as_ffcv_does(theirs: dict[str, Any]) -> None:
    rows = [
        [fmt.INT, fmt.IMAGE],
        [fmt.IMAGE, fmt.INT, fmt.FLOAT],
        [fmt.IMAGE, fmt.INT, fmt.INT, fmt.INT, fmt.FLOAT, fmt.FLOAT, fmt.NDARRAY],
        [fmt.IMAGE, fmt.BYTES, fmt.JSON, fmt.TENSOR],
        [fmt.IMAGE],
        [fmt.IMAGE, fmt.IMAGE, fmt.NDARRAY],
    ]
    ours = [fmt.metadata_dtype([fmt.Field(str(i), kind) for i, kind in enumerate(row)]) for row in rows]
    assert [described(dtype) for dtype in ours] == theirs["rows"]


FIELDS = {
    "image": fmt.Field("a", fmt.IMAGE),
    "jpeg": fmt.Field("a", fmt.IMAGE),
    "int": fmt.Field("a", fmt.INT),
    "float": fmt.Field("a", fmt.FLOAT),
    "one view": fmt.Field("a", fmt.NDARRAY, (1, 10), "<i2"),
    "three views": fmt.Field("a", fmt.NDARRAY, (3, 1000), "<i2"),
    "vector": fmt.Field("a", fmt.NDARRAY, (512,), "<f4"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_descriptor_has_the_bytes_that_ffcv_writes(theirs: dict[str, Any], name: str) -> None:
    encoded = fmt.encode_field(FIELDS[name])
    assert encoded["arguments"].tobytes().hex() == theirs["arguments"][name]


def test_a_descriptor_is_type_name_and_arguments() -> None:
    encoded = fmt.encode_field(fmt.Field("target", fmt.NDARRAY, (2, 5), "<i2")).tobytes()
    shape = struct.pack("<32Q", 2, 5, *[0] * 30)
    text = b'[["", "<i2"]]'
    expected = bytes([4]) + b"target".ljust(16, b"\0") + shape + struct.pack("<Q", len(text)) + text
    assert encoded == expected.ljust(1 + 16 + 1024, b"\0")


@pytest.mark.parametrize("field", FIELDS.values())
def test_a_descriptor_is_decoded_to_its_field(field: fmt.Field) -> None:
    assert fmt.decode_field(np.atleast_1d(fmt.encode_field(field))[0]) == field


def test_the_size_of_a_region_is_that_of_its_elements_however_large() -> None:
    assert fmt.Field("a", fmt.NDARRAY, (3, 10), "<i2").size_bytes == 60
    assert fmt.Field("a", fmt.NDARRAY, (2**40, 2**40), "<f8").size_bytes == 2**83


@pytest.mark.parametrize("name", ["", "seventeen_letters", "größe", "a\0b"])
def test_a_name_that_ffcv_would_cut_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"ASCII|ascii"):
        fmt.encode_field(fmt.Field(name, fmt.INT))


@pytest.mark.parametrize(
    "text",
    ['[["", "O"]]', '[["", "<i3"]]', '[["", "i4,i4"]]', '[["", null]]', '[["", {"names": []}]]', "[]", "{}", "7",
     '[["", "<i2"], ["", "<i2"]]', '[["", "<i2", [2]]]', "[" * 700, '[["", "V8"]]', "\udcff"],
)  # fmt: skip
def test_a_broken_array_description_is_a_value_error(text: str) -> None:
    row = np.atleast_1d(fmt.encode_field(fmt.Field("a", fmt.NDARRAY, (2,), "<i2")))[0]
    content = text.encode("utf-8", "surrogateescape")
    row["arguments"][256:] = 0
    row["arguments"][256:264] = np.frombuffer(struct.pack("<Q", len(content)), np.uint8)
    row["arguments"][264 : 264 + len(content)] = np.frombuffer(content, np.uint8)
    with pytest.raises(ValueError, match="broken array description"):
        fmt.decode_field(row)


@pytest.mark.parametrize("length", [0, 761, 2**40, 2**64 - 1])
def test_a_description_longer_than_its_place_is_a_value_error(length: int) -> None:
    row = np.atleast_1d(fmt.encode_field(fmt.Field("a", fmt.NDARRAY, (2,), "<i2")))[0]
    row["arguments"][256:264] = np.frombuffer(struct.pack("<Q", length), np.uint8)
    with pytest.raises(ValueError, match="broken array description"):
        fmt.decode_field(row)


def test_a_name_ends_at_its_first_zero_as_ffcv_reads_it() -> None:
    row = np.atleast_1d(fmt.encode_field(fmt.Field("ab", fmt.INT)))[0]
    row["name"][3:] = ord("x")
    assert fmt.decode_field(row).name == "ab"


@pytest.mark.parametrize("kind", [7, 100, 255])
def test_a_custom_field_is_a_value_error(kind: int) -> None:
    row = np.atleast_1d(fmt.encode_field(fmt.Field("mine", fmt.INT)))[0]
    row["type_id"] = kind
    with pytest.raises(ValueError, match=f"'mine' has type {kind}"):
        fmt.decode_field(row)
