"""Scores of training dynamics by hand and against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_toolkit.scoring.dynamics_scores import Epochs
from prune_toolkit.scoring.score import SCORES


def epochs_of(early=0, grand_count=0, **columns_EN):
    """Recorded epochs from arrays (E, N)."""
    tables = [
        {
            name: np.asarray(values[epoch])
            for name, values in columns_EN.items()
            if name != "grand" or epoch < grand_count
        }
        for epoch in range(len(next(iter(columns_EN.values()))))
    ]
    return Epochs(count=len(tables), read=lambda epoch: dict(tables[epoch]), early=early, grand_count=grand_count)


def test_forgetting_by_hand():
    # Five epochs of six samples, one column each.
    correct = np.array(
        [
            [1, 1, 0, 0, 0, 1],
            [1, 0, 0, 1, 0, 0],
            [1, 1, 0, 1, 0, 1],
            [1, 0, 0, 1, 1, 0],
            [1, 1, 0, 1, 0, 0],
        ],
        bool,
    )
    # Never forgotten; twice; never learned: above all counts; learned late; once; twice.
    assert SCORES["forgetting"](epochs_of(correct=correct)).tolist() == [0, 2, 5, 0, 1, 2]
    assert SCORES["forgetting"].harder == "high"


def test_trap_4_never_learned_samples_are_the_hardest_of_all():
    # Forgotten as often as five epochs allow, and never learned.
    correct = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [1, 0]], bool)
    forgotten, never = SCORES["forgetting"](epochs_of(correct=correct))
    assert 0 < forgotten < never


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 9))
def test_forgetting_is_a_count_of_neighbours(data, count):
    right = data.draw(st.lists(st.lists(st.booleans(), min_size=count, max_size=count), min_size=1, max_size=5))
    found = SCORES["forgetting"](epochs_of(correct=np.array(right).T))
    for value, row in zip(found, right, strict=True):
        text = "".join("+" if one else "-" for one in row)
        forgotten = sum(text[place : place + 2] == "+-" for place in range(count))
        assert value == (forgotten if "+" in text else count)
        assert forgotten < count


def test_aum_is_the_mean_margin():
    margin = np.array([[1, -2], [2, -4], [6, 0]], np.float32)
    assert SCORES["aum"](epochs_of(margin=margin)).tolist() == [3, -2]
    assert SCORES["aum"].harder == "low"


def test_aum_is_not_rounded_along_the_way():
    # In float32 the small margins would be lost against the large one.
    margin = np.float32([[2**24]] + [[1]] * 16)
    assert SCORES["aum"](epochs_of(margin=margin)) == np.float32((2**24 + 16) / 17)


@pytest.mark.parametrize("early", [0, 2])
def test_early_el2n_is_that_of_the_epoch_asked_for(early):
    el2n = np.float32([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    assert np.array_equal(SCORES["el2n_early"](epochs_of(early=early, el2n=el2n)), el2n[early])


def test_the_full_gradient_norm_is_averaged_over_the_epochs_that_have_it():
    grand = np.float32([[1, 2], [3, 6], [100, 100]])
    epochs = epochs_of(grand_count=2, grand=grand, margin=grand)
    assert SCORES["grand_full"](epochs).tolist() == [2, 4]
    assert SCORES["grand_full"].can_use(epochs)
    assert not SCORES["grand_full"].can_use(epochs_of(margin=grand))
    assert SCORES["aum"].can_use(epochs_of(margin=grand))


def test_scores_are_float32_a_sample():
    columns = {name: np.ones((2, 3), np.float32) for name in ("margin", "el2n", "grand")}
    epochs = epochs_of(grand_count=1, correct=np.ones((2, 3), bool), **columns)
    for name in ("forgetting", "aum", "el2n_early", "grand_full"):
        value_N = SCORES[name](epochs)
        assert (value_N.dtype, value_N.shape) == (np.float32, (3,))
