"""Labels of different views per sample: their bits, and betons that hold as many targets as each sample has."""

from dataclasses import replace

import numpy as np
import pytest
from small_beton import IMAGES, columns

from manifests.betons import format as fmt
from manifests.betons.labelled_views import bits_of, bits_of_views, bits_problem, labels_each, view_of_slot
from manifests.betons.reader import Beton, write_beton
from manifests.errors import InputError
from manifests.format.header import Labels, ViewBudget
from manifests.format.stored_form import labelled_problem

FLAGS = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
BITS = np.array([0b1011, 0b1001, 0b1111, 0b0011, 0b0101], np.uint64)
VIEWS = [[0, 1, 3], [0, 3], [0, 1, 2, 3], [0, 1], [0, 2]]
BUDGET = ViewBudget(rule="sure", mean="2.6", first_views=4, temperature=1, labels=13, least=2, most=4)
LABELS = Labels(transform="raw", parameters={}, views=4, policy="replay", budget=BUDGET)


def test_bits_by_hand() -> None:
    assert np.array_equal(bits_of(FLAGS), BITS)
    assert np.array_equal(bits_of_views([np.flatnonzero(FLAGS[:, view]) for view in range(4)], 5), BITS)
    assert labels_each(BITS).tolist() == [3, 2, 4, 2, 2]
    for row, views in enumerate(VIEWS):
        found = view_of_slot(np.repeat(BITS[row : row + 1], len(views)), np.arange(len(views)))
        assert found.tolist() == views


def test_64_views_fit() -> None:
    flags_nV = np.random.default_rng(0).random((30, 64)) < 0.3
    flags_nV[:, [0, 63]] = True
    bits_n = bits_of(flags_nV)
    assert bits_problem(bits_n, 64) is None
    for row in range(30):
        views = np.flatnonzero(flags_nV[row])
        assert np.array_equal(view_of_slot(np.repeat(bits_n[row], len(views)), np.arange(len(views))), views)


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        (0b11011, "a label of a view that is not from 0 to 3"),
        (0b1110, "no label of view 0"),
        (1, "fewer than 2 labels"),
    ],
)
def test_bits_that_cannot_be_are_named(bits: int, told: str) -> None:
    assert bits_problem(np.array([3, bits], np.uint64), 4) == f"row 1 has {told}"
    assert bits_problem(BITS, 4) is None


@pytest.fixture
def beton(tmp_path) -> Beton:
    """Five images with 3, 2, 4, 2 and 2 targets of three words."""
    targets = [
        np.arange(3 * len(views), dtype=np.float16).reshape(-1, 3) + 100 * row for row, views in enumerate(VIEWS)
    ]
    named = replace(columns(5), labelled_views_N=BITS)
    write_beton(tmp_path / "x.beton", IMAGES, named, targets=targets, target_shape=(4, 3))
    return Beton.open(tmp_path / "x.beton")


def test_a_beton_holds_the_targets_of_each_sample_and_no_more(beton: Beton) -> None:
    assert (beton.target_shape, beton.label_count_N.tolist()) == ((4, 3), [3, 2, 4, 2, 2])
    assert np.array_equal(beton.labelled_views_N, BITS)
    assert beton.allocations["size"][1::2].tolist() == [18, 12, 24, 12, 12]
    found_nSW = beton.targets(np.array([4, 0]))
    assert found_nSW[0].tolist() == [[400, 401, 402], [403, 404, 405], [0] * 3, [0] * 3]
    assert found_nSW[1, :3].ravel().tolist() == list(range(9))
    assert labelled_problem(LABELS, beton) is None


def test_a_target_of_another_length_than_its_views_is_not_written(tmp_path) -> None:
    named = replace(columns(5), labelled_views_N=BITS)
    wrong = [np.zeros((4, 3), np.float16)] * 5
    with pytest.raises(ValueError, match=r"row 0: target of float16\(4, 3\), float16 or int16\(3, 3\) expected"):
        write_beton(tmp_path / "x.beton", IMAGES, named, targets=wrong, target_shape=(4, 3))


def forged(beton: Beton, row: int, bits: int) -> Beton:
    """The beton with other labelled views of one row."""
    fields = list(beton.fields.values())
    dtype, place = fmt.metadata_dtype(fields), [entry.name for entry in fields].index("labelled_views")
    data = bytearray(beton.path.read_bytes())
    start = fmt.HEADER.itemsize + len(fields) * fmt.FIELD.itemsize
    metadata = np.frombuffer(data, dtype, beton.count, start)
    assert np.array_equal(metadata[f"f{place}"], beton.labelled_views_N.astype(np.int64))
    metadata[f"f{place}"][row] = bits
    beton.path.write_bytes(data)
    return Beton.open(beton.path)


@pytest.mark.parametrize(
    ("row", "bits", "told"),
    [
        (0, 0b1111, "the region of a target has the wrong size"),
        (0, 0b1010, "row 0 has no label of view 0"),
        (2, 1, "row 2 has fewer than 2 labels"),
    ],
)
def test_forged_numbers_of_labels_are_refused(beton: Beton, row: int, bits: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        forged(beton, row, bits)


def test_views_that_the_header_does_not_have_are_refused(beton: Beton) -> None:
    other = forged(beton, 0, 0b10011)
    assert labelled_problem(LABELS, other) == "cannot be used: row 0 has a label of a view that is not from 0 to 3"
    plain = LABELS.model_copy(update={"budget": None})
    told = "has targets of different views of its samples, unlike its header"
    assert labelled_problem(plain, beton) == told
