"""Herding: the chosen mean stays near the class mean."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, hashes, kept, pool_of, vectors, with_features

from manifests.errors import InputError, UsageError
from prune_toolkit.selection.selectors import choose
from prune_toolkit.selection.selectors import herding as module

X = np.array([0.0, 1.0, 2.0, 10.0])


def herded(values: np.ndarray, count: int, *, nearest: bool) -> list[int]:
    """Herding by its definition, all means made anew each time; the farthest in place of the nearest is the trap."""
    values = values.reshape(len(values), -1)
    taken: list[int] = []
    for _ in range(count):
        left = [row for row in range(len(values)) if row not in taken]
        residuals = [np.linalg.norm(values.mean(axis=0) - values[[*taken, row]].mean(axis=0)) for row in left]
        taken.append(left[int(np.argmin(residuals) if nearest else np.argmax(residuals))])
    return taken


def test_herding_takes_the_sample_that_brings_the_mean_nearest() -> None:
    # The mean is 3.25: 2 is nearest. Then (2 + x) / 2 is nearest to it for x = 1 (1.5, off by 1.75; 10 makes 6, off by
    # 2.75). Then (3 + x) / 3: 10 makes 4.33, off by 1.08; 0 makes 1, off by 2.25.
    assert module.herd(X[:, None], 3).tolist() == [2, 1, 3]
    assert kept(choose("herding", with_features(pool_of([0] * 4, [0] * 4), X), keep=Fraction(3, 4))) == [1, 2, 3]


def test_trap_1_the_farthest_point_is_not_the_one() -> None:
    assert herded(X, 3, nearest=False)[0] == 3
    assert module.herd(X[:, None], 1).tolist() == herded(X, 1, nearest=True) == [2]
    choice = choose("herding", with_features(pool_of([0] * 4, [0] * 4), X), keep=Fraction(1, 4))
    assert kept(choice) == [2]
    assert [choice.reasons[code] for code in choice.reason_N] == ["not chosen", "not chosen", "kept", "not chosen"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), width=st.integers(1, 4))
@pytest.mark.parametrize("gram_rows", [0, 4096])
def test_herding_is_its_definition(gram_rows: int, seed: int, count: int, width: int) -> None:
    values = np.random.default_rng(seed).normal(size=(12, width)).astype(np.float16).astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GRAM_ROWS", gram_rows)
        assert module.herd(values, count).tolist() == herded(values, count, nearest=True)


def test_each_class_is_herded_on_its_own_whatever_the_order_of_features() -> None:
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 3, 60), rng.normal(size=(60, 5)).astype(np.float16)
    pool = with_features(pool_of(labels.tolist(), [0] * 60), values)
    chosen = set(kept(choose("herding", pool, keep=HALF)))
    for c in range(3):
        rows = np.flatnonzero(labels == c)
        count = len(chosen & set(rows.tolist()))
        assert chosen & set(rows.tolist()) == {
            int(rows[i]) for i in herded(values[rows].astype(float), count, nearest=True)
        }


def test_copies_of_an_image_are_taken_in_the_order_of_their_keys() -> None:
    pool = with_features(pool_of([0] * 4, [0] * 4), [5, 5, 5, 5])
    pool.content_hash_N16[:] = hashes(1)
    assert kept(choose("herding", pool, keep=HALF)) == [0, 1]


def test_herding_needs_features_of_every_sample() -> None:
    pool = pool_of([0] * 4, [0] * 4)
    with pytest.raises(UsageError, match="prune score --features"):
        choose("herding", pool, keep=HALF)
    three = vectors(np.array([0, 1, 3]), np.ones((3, 2)))
    with pytest.raises(InputError, match="sample 2 has no features"):
        three.of(np.array([3, 2, 1]))
    assert three.of(np.array([3, 0])).tolist() == [[1, 1], [1, 1]]
