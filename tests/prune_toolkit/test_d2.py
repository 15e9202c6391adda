"""D2: difficult samples that stand for others, and no two of one kind."""

from dataclasses import replace
from fractions import Fraction

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, hashes, kept, pool_of, with_features
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from manifests.errors import InputError, UsageError
from prune_toolkit.selection import neighbours
from prune_toolkit.selection.neighbours import nearest_neighbours
from prune_toolkit.selection.selectors import SELECTORS, choose
from prune_toolkit.selection.selectors.d2 import pass_messages

X, LOSS = [0.0, 1.0, 3.0], [1.0, 2.0, 4.0]
TWO_THIRDS = Fraction(2, 3)


def d2_of_a_graph(
    score: np.ndarray, values: np.ndarray, k: int, gamma: float, count: int, unit: float = 0
) -> list[int]:
    """D2 by its definition on a graph, whose distances scikit-learn makes."""
    far, near = NearestNeighbors(n_neighbors=k).fit(values).kneighbors()
    unit = unit or far.mean()
    graph = networkx.DiGraph()
    for row in range(len(score)):
        graph.add_node(row, s=score[row] - score.min())
        for other, distance in zip(near[row].tolist(), far[row].tolist(), strict=True):
            graph.add_edge(row, other, d=distance / unit)
    x = {
        i: graph.nodes[i]["s"] + sum(np.exp(-graph.edges[i, j]["d"]) * graph.nodes[j]["s"] for j in graph.successors(i))
        for i in graph
    }
    taken: list[int] = []
    while len(taken) < count:
        best = max((i for i in graph if i not in taken), key=lambda i: x[i])
        taken.append(best)
        for j in graph.successors(best):
            x[j] -= np.exp(-gamma * graph.edges[best, j]["d"]) * x[best]
    return taken


def test_d2_by_hand() -> None:
    # s = 0, 1, 3. With one neighbour each (0 -> 1, 1 -> 0, 2 -> 1): x = e^-1, 1, 3 + e^-2, so the last is kept first.
    # Then its neighbour has 1 - e^-2 x 3.135 = .576 left, more than e^-1; without fading 1 - 3.135, less.
    pool = with_features(pool_of([0] * 3, LOSS), X)
    given = {"neighbours": "1", "unit": "1"}
    assert kept(choose("d2", pool, keep=Fraction(1, 3), parameters=given)) == [2]
    assert kept(choose("d2", pool, keep=TWO_THIRDS, parameters=given)) == [1, 2]
    spread = choose("d2", pool, keep=TWO_THIRDS, parameters={**given, "gamma": "0"})
    assert kept(spread) == [0, 2]
    assert [spread.reasons[code] for code in spread.reason_N] == ["kept", "not chosen", "kept"]


def test_the_unit_is_the_mean_distance_of_neighbours() -> None:
    # Of the distances 1, 1 and 2: 4/3.
    pool, grown = (with_features(pool_of([0] * 3, LOSS), np.array(X) * scale) for scale in (1, 1000))
    for gamma in ("0", "1/2", "1", "9"):
        given = {"neighbours": "1", "gamma": gamma}
        as_is = choose("d2", pool, keep=TWO_THIRDS, parameters={**given, "unit": "4/3"})
        assert kept(as_is) == kept(choose("d2", pool, keep=TWO_THIRDS, parameters=given))
        assert kept(as_is) == kept(choose("d2", grown, keep=TWO_THIRDS, parameters=given))


def test_a_score_counts_from_the_easiest_of_the_class_whichever_end_is_harder() -> None:
    rng = np.random.default_rng(0)
    labels, values, score = rng.integers(0, 3, 60), rng.normal(size=(60, 4)), rng.normal(size=60)
    hard = with_features(pool_of(labels.tolist(), score.tolist()), values)
    expected = choose("d2", hard, keep=HALF).keep_N
    margin = replace(hard, score_N=-score.astype(np.float32), harder="low")
    shifted = replace(hard, score_N=score.astype(np.float32) + 8)
    assert np.array_equal(choose("d2", margin, keep=HALF).keep_N, expected)
    assert np.array_equal(choose("d2", shifted, keep=HALF).keep_N, expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 6),
    gamma=st.sampled_from(["0", "0.1", "1", "3"]),
    unit=st.sampled_from(["mean", "1", "1/4"]),
    count=st.integers(1, 20),
)
def test_d2_is_its_definition_on_a_graph(seed: int, k: int, gamma: str, unit: str, count: int) -> None:
    rng = np.random.default_rng(seed)
    values, score = rng.normal(size=(20, 3)).astype(np.float16).astype(float), rng.exponential(size=20)
    pool = with_features(pool_of([0] * 20, score.tolist()), values)
    score_n = np.asarray(pool.score_N, float)
    parameters = {"neighbours": str(k), "gamma": gamma, "unit": unit}
    found = choose("d2", pool, keep=Fraction(count, 20), parameters=parameters)
    fixed = 0 if unit == "mean" else float(Fraction(unit))
    assert kept(found) == sorted(d2_of_a_graph(score_n, values, k, float(gamma), count, fixed))


def test_each_digit_is_selected_on_its_own() -> None:
    images, labels = load_digits(return_X_y=True)
    score = np.random.default_rng(1).exponential(size=len(labels)).astype(np.float32)
    # Halves of a grey level, so that no two distances are equal by chance.
    values = (images + np.random.default_rng(2).random(images.shape) / 2).astype(np.float16).astype(float)
    pool = with_features(pool_of(labels.tolist(), score.tolist()), values)
    chosen = choose("d2", pool, keep=Fraction(1, 10)).keep_N
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        expected = d2_of_a_graph(score[rows].astype(float), values[rows], 10, 1.0, int(chosen[rows].sum()))
        assert rows[sorted(expected)].tolist() == np.flatnonzero(chosen & (labels == digit)).tolist()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), k=st.integers(1, 12), block_bytes=st.integers(1, 4000))
def test_neighbours_are_those_of_a_full_sort_whatever_the_blocks(
    seed: int, count: int, k: int, block_bytes: int
) -> None:
    # Whole numbers: many distances are equal, and exact.
    values = np.random.default_rng(seed).integers(-2, 3, (count, 2)).astype(np.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK_BYTES", block_bytes)
        near, far = nearest_neighbours(values, k)
    assert near.shape == far.shape == (count, min(k, count - 1))
    square = ((values[:, None].astype(int) - values[None].astype(int)) ** 2).sum(axis=2)
    for row in range(count):
        order = [other for other in np.argsort(square[row], kind="stable").tolist() if other != row][:k]
        assert sorted(near[row].tolist()) == sorted(order)
        np.testing.assert_allclose(far[row], np.sqrt(square[row, near[row]]))


def test_without_messages_the_largest_scores_are_kept() -> None:
    score = np.array([3.0, 1.0, 2.0, 5.0])
    near, far = np.array([[1], [0], [3], [2]]), np.full((4, 1), np.inf)
    assert pass_messages(score, near, far, 1.0, 4).tolist() == [3, 0, 2, 1]


def test_copies_stand_for_each_other_and_ties_go_to_the_first_hash_and_key() -> None:
    pool = with_features(pool_of([0] * 4, [1.0] * 4), [5, 5, 5, 5])
    pool.content_hash_N16[:] = hashes(1)
    assert kept(choose("d2", pool, keep=HALF)) == [0, 1]
    # Two pairs of copies: of the harder pair one is kept, then, without fading, one of the other.
    pairs = with_features(pool_of([0] * 4, [3.0, 3.0, 1.0, 2.0]), [0, 0, 9, 9])
    given = {"neighbours": "1", "gamma": "0", "unit": "1"}
    assert len({row // 2 for row in kept(choose("d2", pairs, keep=HALF, parameters=given))}) == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"neighbours": "0"}, "neighbours is '0': it must be a whole number from 1 to 1,000"),
        ({"neighbours": "ten"}, "neighbours is 'ten'"),
        ({"gamma": "-1"}, "gamma is '-1': it must be from 0 to 1,000,000"),
        ({"gamma": "1e9"}, "gamma is '1e9'"),
        ({"unit": "0"}, "unit is '0': it must be from 1/1000000 to 1000000, or mean"),
        ({"unit": "median"}, "unit is 'median'"),
        ({"k": "3"}, "its parameters: neighbours, gamma, unit"),
    ],
)
def test_a_wrong_parameter_is_refused(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        SELECTORS["d2"].resolve(parameters)
    assert message in f"{raised.value} {raised.value.hint}"


def test_d2_needs_features_and_finite_scores() -> None:
    with pytest.raises(UsageError, match="prune score --features"):
        choose("d2", pool_of([0] * 4, [0] * 4), keep=HALF)
    pool = with_features(pool_of([0] * 3, [1.0, np.inf, 2.0]), X)
    with pytest.raises(InputError, match="the score of sample 1 is infinite"):
        choose("d2", pool, keep=TWO_THIRDS)
