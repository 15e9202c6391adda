"""What commands find part by part, with little in memory, is what they would find in whole tables."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_manifests import make
from scipy.stats import rankdata

from manifests.compare.diff import centred_ranks
from manifests.errors import InputError
from manifests.format.part_checks import in_order
from manifests.images.identity import fingerprint
from manifests.manifest import Manifest
from manifests.tables.rows import ascends, places_in_order

NAMES = st.text("aà😀\ufffd/z", max_size=3)


def in_chunks(texts: list[str], cuts: list[int]) -> pa.ChunkedArray:
    """Texts as a column of several chunks, some of which may be empty."""
    ends = sorted(min(cut, len(texts)) for cut in cuts)
    chunks = [texts[start:end] for start, end in zip([0, *ends], [*ends, len(texts)], strict=True)]
    return pa.chunked_array(chunks, pa.string())


@given(st.sets(NAMES), st.sets(NAMES), st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_places_of_ascending_keys_are_those_of_a_dictionary(
    ours: set[str], theirs: set[str], our_cuts: list[int], their_cuts: list[int]
) -> None:
    wanted, among = (sorted(names, key=str.encode) for names in (ours, theirs))
    row_of = {name: row for row, name in enumerate(among)}
    found = places_in_order(in_chunks(wanted, our_cuts), in_chunks(among, their_cuts))
    assert found.dtype == np.int64
    assert found.tolist() == [row_of.get(name, -1) for name in wanted]


@given(st.lists(NAMES), st.lists(st.integers(0, 9)))
def test_texts_ascend_by_their_bytes(texts: list[str], cuts: list[int]) -> None:
    assert ascends(in_chunks(texts, cuts)) == (sorted(texts, key=str.encode) == texts)


def test_a_null_does_not_ascend() -> None:
    assert not ascends(pa.chunked_array([["a", None]]))


@given(arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, np.inf])))
def test_ranks_are_those_of_scipy(value_n: np.ndarray) -> None:
    expected_n = rankdata(value_n) - (len(value_n) + 1) / 2
    np.testing.assert_array_equal(centred_ranks(value_n), expected_n)


@given(st.lists(NAMES, max_size=30))
def test_a_fingerprint_is_that_of_sorted_digests(keys: list[str]) -> None:
    rows = [hashlib.sha256(f"{key}\0class\0".encode() + b"\0" * 16).digest()[:16] for key in keys]
    expected = hashlib.sha256(b"".join(sorted(rows))).hexdigest()
    assert fingerprint(keys, ["class"] * len(keys), [b"\0" * 16] * len(keys)) == expected


def samples(first_id: int, *keys: str) -> pa.Table:
    """A part with the columns that decide its order."""
    return pa.table({"sample_id": pa.array(range(first_id, first_id + len(keys))), "key": pa.array(keys, pa.string())})


def test_parts_in_order_pass_as_they_are() -> None:
    parts = [samples(0, "a", "b"), samples(2), samples(2, "c")]
    assert list(in_order(parts, "m")) == parts


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([samples(0, "a", "c"), samples(2, "b")], "'c' comes before 'b'"),
        ([samples(0, "a"), samples(1), samples(1, "a")], "'a' comes before 'a'"),
        ([samples(0, "a", "b"), samples(3, "c")], "sample_ids"),
        ([samples(1, "a")], "sample_ids"),
    ],
)
def test_a_part_that_does_not_follow_the_one_before_is_refused(parts: list[pa.Table], text: str) -> None:
    with pytest.raises(InputError, match=text):
        list(in_order(parts, "m"))


def test_some_columns_of_samples_are_read_and_all_checked(tmp_path: Path) -> None:
    manifest = make(tmp_path / "m", ["a", "b"], [0, 1])
    table = manifest.samples(["label"], check_all=True)
    assert table.to_pydict() == {"label": [0, 1]}
    part = tmp_path / "m" / manifest.files("samples")[0].path
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match="altered"):
        Manifest.open(tmp_path / "m").samples(["label"], check_all=True)


def test_each_score_is_a_column_of_the_table_of_its_set(tmp_path: Path) -> None:
    manifest = make(tmp_path / "m", ["a", "b"], [0, 1], sets={"mine": {"x": [1, 2], "y": [3, 4]}})
    found = [table.to_pydict() for table in manifest.each_score("mine", ["y", "x"])]
    assert found == [{"sample_id": [0, 1], "y": [3, 4]}, {"sample_id": [0, 1], "x": [1, 2]}]
