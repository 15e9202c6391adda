"""Logits as codes: numbers worked by hand, the bounds of the error, and parts and betons that hold other codes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manifests.errors import InputError, UsageError
from manifests.format.codes import LEVELS, Codes, code_words, encode
from manifests.format.header import DataSet, FileEntry, Header, Labels, Tool
from manifests.format.part_checks import check_part
from manifests.format.parts import numbers_table, read_part, soft_labels_of, soft_labels_table, write_part
from manifests.format.soft_labels import FullLogits
from manifests.format.stored_form import StoredForm, encoded, parse_codec
from manifests.format.top_k import top_k

CODECS = sorted(LEVELS)
ROWS = arrays.arrays(
    np.float16,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-65504, 65504, width=16, allow_subnormal=True),
)


def test_four_bits_by_hand() -> None:
    # From 7 to -8 is 15 steps of 1; halves go to the even code: 7 - 4.5 is 2.5, 7 + 0.5 is 7.5.
    codes = encode(np.array([[-8, 7, 4.5, 4.4, -0.5]]), "int4")
    assert (codes.scale_n.tolist(), codes.offset_n.tolist()) == ([1.0], [7.0])
    assert codes.code_nB.tolist() == [[15 + 16 * 0, 2 + 16 * 3, 8]]
    assert codes.logits().tolist() == [[-8, 7, 5, 4, -1]]
    assert codes.top1_n.tolist() == [1]
    # 1.0 and 7.0 in float16, three bytes and one of filling, little-endian.
    assert codes.words().astype("<i2").tobytes() == bytes([0, 0x3C, 0, 0x47, 15, 50, 8, 0])


def test_eight_bits_by_hand() -> None:
    codes = encode(np.array([[0.0, -255, -100.4], [3, 3, 3]]), "int8")
    assert codes.code_nB.tolist() == [[0, 255, 100], [0, 0, 0]]
    assert codes.logits().tolist() == [[0, -255, -100], [3, 3, 3]]
    assert codes.scale_n.tolist() == [1, 0]
    assert codes.scaled(np.array([2.0, 10])).logits().tolist() == [[0, -510, -200], [30, 30, 30]]
    assert codes[1:].logits().tolist() == [[3, 3, 3]]


@pytest.mark.parametrize("codec", CODECS)
@given(logits_nC=ROWS)
def test_no_logit_moves_by_more_than_half_a_step_and_the_largest_by_nothing(codec, logits_nC) -> None:
    codes = encode(logits_nC, codec)
    # In float64, where the difference is not rounded.
    exact_nC = logits_nC.astype(np.float64)
    step_n = codes.scale_n.astype(np.float64)[:, None]
    decoded_nC = codes.logits().astype(np.float64)
    rounding_nC = np.abs(decoded_nC) * 2.0**-24
    assert (np.abs(decoded_nC - exact_nC) <= step_n / 2 + rounding_nC).all()
    largest_n = exact_nC.argmax(axis=1)
    rows = np.arange(len(exact_nC))
    assert np.array_equal(decoded_nC[rows, largest_n], exact_nC[rows, largest_n])
    # Another class can only tie with it, from within half a step.
    chosen_n = decoded_nC.argmax(axis=1)
    assert (exact_nC[rows, largest_n] - exact_nC[rows, chosen_n] <= step_n[:, 0] / 2).all()
    # The step is the smallest that reaches the least logit.
    span_n = exact_nC.max(axis=1) - exact_nC.min(axis=1)
    smaller_n = np.nextafter(codes.scale_n, np.float16(-1)).astype(np.float64)
    assert (codes.scale_n.astype(np.float64) * LEVELS[codec] >= span_n).all()
    assert ((smaller_n * LEVELS[codec] < span_n) | (span_n == 0)).all()
    constant_n = span_n == 0
    assert np.array_equal(decoded_nC[constant_n], exact_nC[constant_n])


@pytest.mark.parametrize("codec", CODECS)
@given(logits_nC=ROWS)
def test_the_order_of_what_is_a_step_apart_is_kept(codec, logits_nC) -> None:
    codes = encode(logits_nC, codec)
    exact_nC, decoded_nC = np.asarray(logits_nC, np.float64), codes.logits()
    apart_nCC = exact_nC[:, :, None] - exact_nC[:, None, :] > codes.scale_n.astype(np.float64)[:, None, None]
    # Equal at most where float32 cannot tell them apart.
    assert (decoded_nC[:, :, None] >= decoded_nC[:, None, :])[apart_nCC].all()


@pytest.mark.parametrize("codec", CODECS)
@given(logits_nC=ROWS)
def test_words_and_columns_hold_the_same_codes(codec, logits_nC) -> None:
    codes, classes = encode(logits_nC, codec), logits_nC.shape[1]
    form = StoredForm(class_count=classes, codec=codec)
    words_nW = codes.words()
    assert words_nW.shape == (len(codes), form.words)
    assert np.array_equal(form.decode(words_nW.view(np.float16)), codes.logits())
    ids, read = soft_labels_of(soft_labels_table(np.arange(len(codes)), "target", codes), "target", classes)
    assert ids.tolist() == list(range(len(codes)))
    assert np.array_equal(read.logits(), codes.logits())
    assert form.holds(read)


def test_a_part_takes_the_bytes_that_it_should(tmp_path) -> None:
    logits_nC = np.random.default_rng(0).normal(0, 3, (4096, 1000)).astype(np.float16)
    size = {}
    for codec in (None, *CODECS):
        labels = encoded(FullLogits(logits_nC), codec)
        write_part(tmp_path / f"{codec}", soft_labels_table(np.arange(4096), "target", labels), "d")
        size[codec] = (tmp_path / f"{codec}").stat().st_size / 4096
        read = soft_labels_of(read_part(tmp_path / f"{codec}"), "target", 1000)[1]
        assert np.array_equal(read.logits(), labels.logits())
    # sample_id takes 8 bytes, and the ends of rows and Parquet itself a few.
    assert 2000 < size[None] < 2040
    assert 1004 < size["int8"] < 1040
    assert 504 < size["int4"] < 540
    assert [code_words(1000, codec) * 2 for codec in ("int8", "int4")] == [1004, 504]


def test_encoding_is_a_function_of_each_row() -> None:
    logits_nC = np.random.default_rng(1).normal(0, 3, (3000, 37)).astype(np.float16)
    whole = encode(logits_nC, "int4")
    pieces = [encode(logits_nC[start : start + 7], "int4").words() for start in range(0, 3000, 7)]
    assert np.array_equal(np.concatenate(pieces), whole.words())
    assert encoded(whole, "int4") is whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_a_logit_that_is_not_finite_is_refused(value) -> None:
    logits_nC = np.zeros((20_000, 5))
    logits_nC[15_000, 2] = value
    with pytest.raises(InputError, match="row 15000: a logit is not finite in float16"):
        encode(logits_nC, "int8")


def test_the_k_largest_are_not_encoded() -> None:
    with pytest.raises(ValueError, match="all logits"):
        encoded(top_k(np.zeros((1, 5)), np.zeros(1, int), 2), "int8")
    with pytest.raises(UsageError, match="--codec int8 stores all logits of a target, and only the 2 largest"):
        parse_codec("int8", 2)
    with pytest.raises(UsageError, match="unknown --codec 'int3'"):
        parse_codec("int3", None)
    assert parse_codec("float16", 2) is None


def part_of(**changed):
    columns = {**encode(np.eye(4, 6), "int8").columns("target"), **changed}
    return numbers_table(np.arange(4), {name: values for name, values in columns.items() if values is not None})


FORGED = {
    "a scale that is not finite": (part_of(scale=np.full(4, np.inf, np.float16)), "a scale is negative or not finite"),
    "a scale of nan": (part_of(scale=np.full(4, np.nan, np.float16)), "a scale is negative or not finite"),
    "a negative scale": (part_of(scale=np.full(4, -1, np.float16)), "a scale is negative or not finite"),
    "an offset of nan": (part_of(offset=np.full(4, np.nan, np.float16)), "an offset is not finite"),
    "codes of five classes": (part_of(code=np.zeros((4, 5), np.uint8)), "5 bytes of codes for 6 classes"),
    "wide codes": (part_of(code=np.zeros((4, 6), np.uint16)), "no column code with one vector of uint8 per row"),
    "wide scales": (part_of(scale=np.ones(4, np.float32)), "no column scale with one value of halffloat per row"),
    "no offset": (part_of(offset=None), "no column offset"),
    "codes of four bits": (part_of(code=np.zeros((4, 3), np.uint8)), "does not hold 6 logits as int8"),
    "float16": (soft_labels_table(np.arange(4), "target", FullLogits(np.eye(4, 6, dtype=np.float16))), "not hold"),
    "nothing": (pa.table({"sample_id": np.arange(4)}), "no column target"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_codes_are_refused(name) -> None:
    table, why = FORGED[name]
    labels = Labels(transform="raw", parameters={}, views=1, codec="int8")
    data = DataSet(name="d", source="folder", count=4, readable=4, class_names=[*"abcdef"], fingerprint="f")
    header = Header(kind="selection", data=data, labels=labels, tool=Tool(name="t", version="0"))
    entry = FileEntry(path="targets/view-000/part-00000.parquet", rows=4, bytes=1, sha256="")
    check_part(part_of(), entry, header, "targets")
    with pytest.raises(InputError, match=f"^targets.*{why}"):
        check_part(table, entry, header, "targets")


def test_words_of_another_form_are_refused() -> None:
    words_nW = encode(np.eye(3), "int8").words()
    with pytest.raises(ValueError, match="4 words expected"):
        Codes.of_words(words_nW[:, :3], 3, "int8")
    words_nW[1, 0] = np.array(np.inf, np.float16).view(np.int16)
    with pytest.raises(InputError, match="not in the form int8"):
        StoredForm(class_count=3, codec="int8").decode(words_nW)


def test_a_header_with_a_codec_is_of_version_1_5_and_one_without_is_as_before() -> None:
    data = DataSet(name="d", source="folder", count=1, readable=1, class_names=["a"], fingerprint="f")
    made = {"kind": "selection", "data": data, "tool": Tool(name="t", version="0")}
    versions = [
        Header(**made, labels=Labels(transform="raw", parameters={}, views=1, codec=codec)).schema_version
        for codec in (None, "int4")
    ]
    assert versions == ["1.1", "1.5"]
