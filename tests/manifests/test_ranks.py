import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from manifests.compare.diff import centred_ranks, spearman, spearman_by_class

VALUES = st.lists(st.integers(-3, 3), min_size=2, max_size=30)


def test_four_values_by_hand() -> None:
    """Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6."""
    assert spearman(np.array([10, 20, 30, 40.0]), np.array([5, 1, 9, 7.0])) == pytest.approx(0.6)
    assert spearman(np.array([1, 2, 3.0]), np.array([1, 8, 27.0])) == 1
    assert spearman(np.array([1, 2, 3.0]), np.array([0, -1, -2.0])) == -1


def test_equal_values_share_their_mean_rank() -> None:
    """7 7 9 5 has ranks 2.5 2.5 4 1, of mean 2.5."""
    assert centred_ranks(np.array([7, 7, 9, 5])).tolist() == [0, 0, 1.5, -1.5]


def test_where_there_is_nothing_to_rank_there_is_no_correlation() -> None:
    assert spearman(np.array([1.0]), np.array([2.0])) is None
    assert spearman(np.array([]), np.array([])) is None
    assert spearman(np.array([1, 1, 1.0]), np.array([1, 2, 3.0])) is None


@settings(max_examples=60, deadline=None)
@given(VALUES, st.randoms())
def test_it_is_scipys(values: list[int], random: "st.Random") -> None:
    x_N = np.array(values, np.float32)
    y_N = np.array(random.choices(range(-3, 4), k=len(values)), np.float32)
    if len(set(x_N)) > 1 and len(set(y_N)) > 1:
        assert spearman(x_N, y_N) == pytest.approx(stats.spearmanr(x_N, y_N).statistic, abs=1e-12)
    else:
        assert spearman(x_N, y_N) is None


def test_each_class_has_its_own_and_an_empty_one_has_none() -> None:
    label_N = np.array([2, 0, 2, 0, 2, 0])
    x_N, y_N = np.array([1, 1, 2, 2, 3, 3.0]), np.array([3, 1, 2, 2, 1, 3.0])
    assert spearman_by_class(x_N, y_N, label_N, 4) == [(3, 1.0), (0, None), (3, -1.0), (0, None)]
