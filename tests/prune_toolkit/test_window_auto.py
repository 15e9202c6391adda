"""The position of a window by a proxy: ridge regression on the window, judged on a tenth that no window contains."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, kept, pool_of, pools, selects_nothing, vectors, with_features
from sklearn.linear_model import Ridge

from manifests.errors import UsageError
from prune_toolkit.selection.proxy import DAMPING, GRID, Proxy, held_out, memberships, try_windows
from prune_toolkit.selection.selectors import Pool, choose, make_groups


def two_classes(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, features of two clouds that can be told apart, and difficulties 0 .. 1 in random order."""
    rng = np.random.default_rng(seed)
    label_N = np.repeat([0, 1], samples // 2)
    x_ND = rng.normal(size=(samples, 4)) + np.where(label_N == 0, -1.5, 1.5)[:, None]
    return label_N, x_ND, rng.permutation(samples) / samples


def test_the_hard_end_is_left_out_where_it_is_mislabelled() -> None:
    label_N, x_ND, score_N = two_classes(400)
    shown_N = np.where(score_N > 0.6, 1 - label_N, label_N)
    pool = with_features(pool_of(shown_N.tolist(), score_N.tolist()), x_ND)
    choice = choose("window", pool, keep=Fraction(3, 10), parameters={"position": "auto"})
    assert Fraction(choice.found["position"]) <= Fraction(6, 10)
    assert choice.found["position_by"] == "auto, ridge regression from features"
    assert score_N[choice.keep_N].max() < 0.75


def test_the_easy_end_is_left_out_where_it_teaches_nothing() -> None:
    label_N, x_ND, score_N = two_classes(400)
    # All easy samples are one image.
    x_ND[score_N < 0.6] = 0.0
    pool = with_features(pool_of(label_N.tolist(), score_N.tolist()), x_ND)
    choice = choose("window", pool, keep=Fraction(3, 10), parameters={"position": "auto"})
    assert Fraction(choice.found["position"]) >= Fraction(5, 10)


def accuracies(pool: Pool, keep: Fraction, table_ND: np.ndarray) -> list[float]:
    """The same by scikit-learn, a fit of its own for every window."""
    assert pool.score_N is not None
    held_N = held_out(pool)
    rest = np.flatnonzero(~held_N)
    x_ND = np.concatenate([table_ND, np.ones((len(table_ND), 1))], axis=1)
    groups = make_groups(pool, "proportional", keep)
    found = []
    for position in GRID:
        window: list[int] = []
        for c in range(pool.class_count):
            members = rest[pool.label_N[rest] == c]
            size, whole, count = len(members), int(groups.size_G[c]), int(groups.keep_G[c])
            if not size or not count:
                continue
            count = min(size, max(1, int(Fraction(count * size, whole) + HALF)))
            start = int(position * (size - count))
            sign = 1 if pool.harder == "high" else -1
            order = sorted(
                members.tolist(),
                key=lambda row: (
                    sign * pool.score_N[row], pool.content_hash_N16[row].tobytes(), pool.sample_id_N[row]  # type: ignore[index]
                ),
            )  # fmt: skip
            window += order[start : start + count]
        x_nD, y_nC = x_ND[window], np.eye(pool.class_count)[pool.label_N[window]]
        penalty = DAMPING * np.trace(x_nD.T @ x_nD) / x_nD.shape[1]
        weight_CD = np.atleast_2d(Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(x_nD, y_nC).coef_)
        predicted = (x_ND[held_N] @ weight_CD.T).argmax(axis=1)
        found.append(float(np.mean(predicted == pool.label_N[held_N])))
    return found


@settings(max_examples=25, deadline=None)
@given(pool=pools(most=200), keep=st.fractions(HALF / 4, HALF * 2, max_denominator=20), seed=st.integers(0, 2**32 - 1))
def test_the_proxy_is_a_ridge_regression_on_each_window(pool: Pool, keep: Fraction, seed: int) -> None:
    if len(pool.label_N) < 20 or pool.class_count < 2 or selects_nothing(pool, "proportional", keep):
        return
    # No two classes of equal prediction: the features differ, also those of copies.
    table_ND = np.random.default_rng(seed).normal(size=(len(pool.label_N), 3)).astype(np.float16)
    pool = replace(pool, features=vectors(np.asarray(pool.sample_id_N), table_ND))
    proxy = try_windows(pool, make_groups(pool, "proportional", keep))
    np.testing.assert_allclose(proxy.top1, accuracies(pool, keep, table_ND.astype(np.float64)), atol=1e-12)


def test_no_window_contains_what_is_held_out() -> None:
    label_N, x_ND, score_N = two_classes(300)
    pool = with_features(pool_of(label_N.tolist(), score_N.tolist()), x_ND)
    held_N = held_out(pool)
    assert np.bincount(label_N[held_N]).tolist() == [15, 15]
    first_N, last_N = memberships(pool, make_groups(pool, "proportional", HALF), ~held_N)
    inside_N = first_N <= last_N
    assert not (inside_N & held_N).any()
    # Half of 135 of each class is 68: windows from 0 to 67, so that every sample is in some window.
    assert inside_N[~held_N].all()
    # Held-out samples may be selected all the same: they judge the position, and are no test set.
    assert choose("window", pool, keep=Fraction(1), parameters={"position": "auto"}).keep_N.all()


def test_equal_accuracies_go_to_the_middle_then_to_the_easier() -> None:
    def best(*good: int) -> Fraction:
        return Proxy(vectors="features", top1=tuple(1.0 if i in good else 0.5 for i in range(11))).position

    assert best(*range(11)) == Fraction(1, 2)
    assert best(3, 7) == Fraction(3, 10)
    assert best(0, 6) == Fraction(6, 10)
    assert best(10) == 1


def test_a_proxy_that_sees_no_difference_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    label_N = np.arange(100) % 2
    pool = with_features(pool_of(label_N.tolist(), list(range(100))), 10.0 * label_N - 5)
    assert choose("window", pool, keep=HALF, parameters={"position": "auto"}).found["position"] == "1/2"
    assert "the proxy learns equally well in every window; using 1/2" in capsys.readouterr().err


def test_logits_stand_in_where_there_are_no_features() -> None:
    label_N, x_ND, score_N = two_classes(200)
    pool = pool_of(label_N.tolist(), score_N.tolist())
    pool = replace(pool, logits=vectors(np.arange(200), x_ND, "logits"))
    found = choose("window", pool, keep=HALF, parameters={"position": "auto"}).found
    assert found["position_by"] == "auto, ridge regression from logits"
    assert found["proxy_top1"].startswith("(0: ")
    assert found["proxy_top1"].count("%") == 11


def test_it_needs_something_to_fit_and_something_to_judge_by() -> None:
    with pytest.raises(UsageError, match="needs features or logits"):
        choose("window", pool_of([0] * 20, [0] * 20), keep=HALF, parameters={"position": "auto"})
    few = with_features(pool_of([0] * 4, [0] * 4), [1, 2, 3, 4])
    with pytest.raises(UsageError, match="4 samples are too few"):
        choose("window", few, keep=HALF, parameters={"position": "auto"})
    # One sample of each of 5 classes: a tenth is that of class 0, and class 0 is all that is kept.
    each = with_features(pool_of([0, 1, 2, 3, 4], [0] * 5), [1, 2, 3, 4, 5])
    with pytest.raises(UsageError, match="5 samples are too few"):
        choose("window", each, keep=HALF / 5, parameters={"position": "auto"})


def test_a_part_of_a_mix_may_search_its_position() -> None:
    label_N, x_ND, score_N = two_classes(200)
    pool = with_features(pool_of(label_N.tolist(), score_N.tolist()), x_ND)
    pool = replace(pool, scores={"loss": pool_column(pool)})
    choice = choose("mix", pool, keep=HALF, parameters={"mix": "0.5 random, 0.5 window position=auto"})
    assert len(kept(choice)) == 100
    assert "part 2 position" in choice.found


def pool_column(pool: Pool):  # type: ignore[no-untyped-def]
    from prune_toolkit.selection.pool import ScoreColumn

    assert pool.score_N is not None
    return ScoreColumn(value_N=pool.score_N)
