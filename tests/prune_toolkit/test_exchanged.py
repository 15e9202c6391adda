"""Classes that a teacher calls by each other's names."""

import numpy as np
import pytest

from prune_toolkit.scoring.exchanged import Confusion, exchanged_classes, exchanged_warning, fitting_order

NAMES = ["ankle-boot", "Bag", "coat", "dress"]


def table(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_confusions_are_counted_part_by_part() -> None:
    confusion = Confusion(3)
    confusion.add(np.array([[3.0, 1, 2], [0, 5, 1]]), np.array([0, 2]))
    confusion.add(np.array([[0.0, 1, 2], [3, 1, 2]]), np.array([2, 0]))
    assert confusion.count_CC.tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_two_exchanged_classes_are_named_with_what_the_other_order_gains() -> None:
    count_CC = table([1, 9, 0, 0], [8, 2, 0, 0], [0, 0, 9, 1], [0, 0, 2, 8])
    assert exchanged_classes(count_CC) == [(0, 1), (1, 0)]
    assert exchanged_warning(count_CC, NAMES) == (
        "outputs of 2 classes look exchanged: ankle-boot is called Bag, Bag is called ankle-boot; in the other order "
        "top-1 is 85.00 %, not 50.00 %: "
        "printf '%s\\n' Bag ankle-boot coat dress > outputs.txt, then --outputs outputs.txt"
    )


def test_a_ring_of_classes_is_found() -> None:
    count_CC = table([0, 9, 1, 0], [0, 1, 9, 0], [9, 0, 1, 0], [0, 0, 0, 10])
    assert exchanged_classes(count_CC) == [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize(
    "count_CC",
    [
        table([9, 1, 0, 0], [1, 9, 0, 0], [0, 0, 9, 1], [0, 0, 1, 9]),
        # A weak teacher calls everything a coat, and coats dresses.
        table([1, 0, 9, 0], [0, 1, 9, 0], [0, 0, 1, 9], [0, 0, 9, 1]),
        # Similar classes: less than half of either has the name of the other.
        table([6, 4, 0, 0], [4, 6, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]),
        table([5, 5, 0, 0], [5, 5, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]),
        # Bags are called boots, boots are called boots.
        table([9, 1, 0, 0], [9, 1, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]),
        # Two samples are not enough.
        table([0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 10, 0], [0, 0, 0, 10]),
        np.zeros((4, 4), np.int64),
        np.zeros((0, 0), np.int64),
    ],
)
def test_other_confusions_are_no_exchange(count_CC: np.ndarray) -> None:
    assert exchanged_warning(count_CC, NAMES) is None


def test_random_answers_of_many_classes_are_no_exchange() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        confusion = Confusion(100)
        confusion.add(rng.normal(size=(1000, 100)), rng.integers(0, 100, 1000))
        assert exchanged_warning(confusion.count_CC, [str(row) for row in range(100)]) is None


def weak_teacher(order: np.ndarray, right: float, per_class: int, seed: int = 0) -> np.ndarray:
    """Answers of a teacher that is right on a share of the samples and guesses the others, its outputs in an order."""
    rng, classes = np.random.default_rng(seed), len(order)
    confusion = Confusion(classes)
    label_N = np.repeat(np.arange(classes), per_class)
    said_N = np.where(rng.random(len(label_N)) < right, label_N, rng.integers(0, classes, len(label_N)))
    confusion.add(np.eye(classes)[order[said_N]], label_N)
    return confusion.count_CC


def test_a_weak_teacher_in_numeric_order_of_folders_is_found() -> None:
    """The outputs are 0, 1, 2, ...; the folders 0, 1, 10, 11, ...: output k is taken for the k-th folder."""
    names = sorted(map(str, range(100)))
    numbers = np.array([int(name) for name in names])
    count_CC = weak_teacher(numbers, right=0.4, per_class=30)
    assert exchanged_classes(count_CC) == []
    warning = exchanged_warning(count_CC, names)
    assert warning is not None
    assert "another order of the outputs fits far better: " in warning
    assert warning.endswith("write the class names in numeric order into FILE, one per line, then --outputs FILE")
    assert warning is not None
    mapped = exchanged_warning(count_CC, names, in_order=False)
    assert mapped is not None
    assert mapped.endswith("name the outputs in the teacher's order, one per line, with --outputs FILE")


def test_the_order_that_fits_is_that_of_the_outputs_and_judged_by_other_samples() -> None:
    order = np.random.default_rng(1).permutation(20)
    found = fitting_order(weak_teacher(order, right=0.45, per_class=200))
    assert found is not None
    answer_C, there, here = found
    assert answer_C.tolist() == order.tolist()
    assert there == pytest.approx(0.45 + 0.55 / 20, abs=0.03)
    assert here < 0.1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("right", "per_class"), [(0.0, 10), (0.0, 3), (0.1, 30), (0.6, 10)])
def test_no_order_is_found_where_the_classes_are_in_order(right: float, per_class: int, seed: int) -> None:
    assert fitting_order(weak_teacher(np.arange(100), right, per_class, seed)) is None
