"""Classes that a teacher calls by each other's names."""

import numpy as np
import pytest

from prune_toolkit.scoring.exchanged import Confusion, exchanged_classes, exchanged_warning

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
        "top-1 is 85.00 %, not 50.00 %: give the class names in the order of the teacher's outputs with --classes"
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
