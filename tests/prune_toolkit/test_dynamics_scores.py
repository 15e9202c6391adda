"""Scores of training dynamics by hand and against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_toolkit.scoring.dynamics_scores import Epochs
from prune_toolkit.scoring.score import SCORES


def epochs_of(early=0, grand_count=0, window=10, **columns_EN):
    """Recorded epochs from arrays (E, N)."""
    tables = [
        {
            name: np.asarray(values[epoch])
            for name, values in columns_EN.items()
            if name != "grand" or epoch < grand_count
        }
        for epoch in range(len(next(iter(columns_EN.values()))))
    ]
    return Epochs(
        count=len(tables), read=lambda epoch: dict(tables[epoch]), early=early, grand_count=grand_count, window=window
    )


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
    assert SCORES["grand_full"].lacks(epochs) == []
    assert SCORES["grand_full"].lacks(epochs_of(margin=grand)) == ["dynamics: grand"]
    assert SCORES["aum"].lacks(epochs_of(margin=grand)) == []


def test_dual_by_hand():
    # Of the first sample both windows of three epochs have mean .4 and deviation sqrt((.04 + 0 + .04) / 2) = .2; the
    # second one never changes; the third is (0, 1, 0): 1/3 and sqrt(1/3), then (1, 0, 1): 2/3 and the same.
    p_y = np.float64([[0.2, 0.9, 0], [0.4, 0.9, 1], [0.6, 0.9, 0], [0.2, 0.9, 1]])
    found = SCORES["dual"](epochs_of(window=3, p_y=p_y))
    np.testing.assert_allclose(found, [0.12, 0, np.sqrt(1 / 3) / 2], rtol=1e-6, atol=1e-7)
    assert SCORES["dual"].harder == "high"


def test_tdds_of_the_loss_by_hand():
    # Losses 0, 1, 3, 3: changes 1, 2, 0. Windows of three epochs have two: deviations of 1/2 twice, then of 1 twice.
    p_y = np.exp([[0.0], [-1.0], [-3.0], [-3.0]])
    found = SCORES["tdds_loss"](epochs_of(window=3, p_y=p_y))
    np.testing.assert_allclose(found, [0.9 * (0.1 * np.sqrt(0.5) + np.sqrt(2))], rtol=1e-6)
    np.testing.assert_allclose(SCORES["tdds_loss"](epochs_of(window=4, p_y=p_y)), [0.9 * np.sqrt(2)], rtol=1e-6)
    assert SCORES["tdds_loss"].harder == "high"


def published_tdds(change_EN, epochs, length):
    """The published loop over windows, of changes that are made beforehand."""
    total, k = 0.0, 0
    while k < epochs - length + 1:
        window = np.array([change_EN[k + j] for j in range(length - 1)], float)
        total += (
            np.linalg.norm(window - window.sum(0) / (length - 1), axis=0) * 0.9 * (1 - 0.9) ** (epochs - length - k)
        )
        k += 1
    return total


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 14), window=st.integers(3, 12))
def test_scores_of_windows_are_the_published_loops(seed, count, window):
    p_y = np.random.default_rng(seed).random((count, 7)).astype(np.float32)
    epochs, length = epochs_of(window=window, p_y=p_y), min(window, count)
    parts = [p_y[k : k + length].astype(float) for k in range(count - length + 1)]
    expected = np.mean([part.std(axis=0, ddof=1) * (1 - part.mean(axis=0)) for part in parts], axis=0)
    np.testing.assert_allclose(SCORES["dual"](epochs), expected, rtol=1e-5, atol=1e-7)
    changes = np.abs(np.diff(np.log(p_y.astype(float)), axis=0))
    np.testing.assert_allclose(
        SCORES["tdds_loss"](epochs), published_tdds(changes, count, length), rtol=1e-5, atol=1e-7
    )


def test_probabilities_of_0_do_not_make_a_loss_infinite():
    p_y = np.array([[0.0, 1e-12], [1.0, 1.0], [0.0, 1e-12]])
    found = SCORES["tdds_loss"](epochs_of(p_y=p_y))
    assert np.isfinite(found).all()
    assert found[0] == found[1]


def test_scores_of_windows_need_as_many_epochs_as_make_a_difference():
    p_y = np.full((3, 2), 0.5)
    needs = {name: [len(SCORES[name].lacks(epochs_of(p_y=p_y[:count]))) for count in (1, 2, 3)] for name in
             ("dual", "tdds_loss")}  # fmt: skip
    assert needs == {"dual": [1, 0, 0], "tdds_loss": [1, 1, 0]}


def test_scores_are_float32_a_sample():
    columns = {name: np.ones((2, 3), np.float32) for name in ("margin", "el2n", "grand")}
    epochs = epochs_of(grand_count=1, correct=np.ones((2, 3), bool), **columns)
    for name in ("forgetting", "aum", "el2n_early", "grand_full"):
        value_N = SCORES[name](epochs)
        assert (value_N.dtype, value_N.shape) == (np.float32, (3,))
