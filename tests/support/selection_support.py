"""Pools of samples for tests of selectors: hand-made ones, and small random ones full of ties and copies."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from manifests.format.header import Harder
from prune_toolkit.quotas.quotas import QUOTAS, total_count
from prune_toolkit.selection.pool import Choice, Pool, ScoreColumn, Vectors

HALF = Fraction(1, 2)
ALL_QUOTAS = ["proportional", "equal", "published", "none"]
MIX = "0.5 medium, 0.3 random, 0.2 window position=1 score=el2n"
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "medium": ("medium", {}),
    "window": ("window", {}),
    "random": ("random", {}),
    "ccs": ("ccs", {}),
    "ccs of three strata": ("ccs", {"beta": "0.3", "strata": "3"}),
    "beta": ("beta", {"mode": "0.3", "sharpness": "5"}),
    "moderate": ("moderate", {}),
    "herding": ("herding", {}),
    "k_center": ("k_center", {}),
    "d2": ("d2", {}),
    "d2 of three neighbours": ("d2", {"neighbours": "3", "gamma": "0", "unit": "1"}),
    "mix": ("mix", {"mix": MIX}),
    "mix of all": ("mix", {"mix": "0.4 herding, 0.3 ccs, 0.2 moderate, 0.1 random"}),
    "window where a proxy says": ("window", {"position": "auto"}),
}
"""Every selector, by a name for the test, with parameters."""


def hashes(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def vectors(ids: NDArray[np.int64], values: NDArray[np.float64], name: str = "features", part: int = 7) -> Vectors:
    """Vectors that are streamed by ascending id in small parts."""
    order, values = np.argsort(ids), np.asarray(values, np.float16)

    def stream():
        for start in range(0, len(order), part):
            rows = order[start : start + part]
            yield ids[rows], values[rows]

    return Vectors(name=name, width=values.shape[1], stream=stream)


def pool_of(labels: list[int], scores: list[float], *, harder: Harder = "high") -> Pool:
    return Pool(
        sample_id_N=np.arange(len(labels)),
        label_N=np.array(labels, np.int32),
        content_hash_N16=hashes(len(labels)),
        class_count=max(labels) + 1,
        score_N=np.array(scores, np.float32),
        harder=harder,
    )


def with_features(pool: Pool, values: object) -> Pool:
    """The pool with features (N, D), or (N,) for one feature a sample."""
    table = np.asarray(values, np.float64).reshape(len(pool.label_N), -1)
    return replace(pool, features=vectors(np.asarray(pool.sample_id_N), table))


def with_scores(pool: Pool, **columns: ScoreColumn) -> Pool:
    return replace(pool, scores=columns)


take = Pool.take


def kept(choice: Choice) -> list[int]:
    return np.flatnonzero(choice.keep_N).tolist()


def reasons(choice: Choice) -> list[str]:
    return [choice.reasons[code] for code in choice.reason_N]


@st.composite
def pools(draw: st.DrawFn, most: int = 60) -> Pool:
    """Small pools with many equal scores and duplicated images, which have equal features."""
    count = draw(st.integers(1, most))
    classes = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = rng.permutation(3 * count)[:count]
    image = rng.integers(0, draw(st.integers(1, count)), count)
    label = rng.integers(0, classes, count)
    levels = draw(st.sampled_from([1, 4, 1000]))
    columns = {
        name: ScoreColumn(value_N=rng.integers(0, levels, count).astype(np.float32), harder=harder)
        for name, harder in (("loss", "high"), ("el2n", "high"), ("margin", "low"), ("moderate", "high"))
    }
    return Pool(
        sample_id_N=ids,
        label_N=label,
        content_hash_N16=hashes(count)[image],
        class_count=classes + draw(st.integers(0, 2)),
        score_N=rng.integers(0, levels, count).astype(np.float32),
        harder=draw(st.sampled_from(["high", "low"])),
        scores=columns,
        features=vectors(ids, rng.integers(-4, 5, (count, 3))[image]),
        logits=vectors(ids, rng.normal(size=(count, 3))[image], "logits"),
    )


KEEPS = st.fractions(min_value=HALF / 5, max_value=1, max_denominator=60)


def expected_count(pool: Pool, quota: str, keep: Fraction) -> NDArray[np.int64] | None:
    return QUOTAS[quota](np.bincount(pool.label_N, minlength=pool.class_count), keep)


def selects_nothing(pool: Pool, quota: str, keep: Fraction) -> bool:
    counts = expected_count(pool, quota, keep)
    return (total_count(keep, len(pool.label_N)) if counts is None else counts.sum()) == 0


def too_few_to_try(pool: Pool, parameters: dict[str, str], count_C: NDArray[np.int64] | None) -> bool:
    """Whether a proxy has nothing to judge by, or no sample to fit on: all of the classes that are kept is held out."""
    if parameters.get("position") != "auto":
        return False
    size_C = np.bincount(pool.label_N, minlength=pool.class_count)
    held_C = expected_count(pool, "proportional", Fraction(1, 10))
    assert held_C is not None
    kept_C = size_C > 0 if count_C is None else count_C > 0
    return not held_C.any() or not (size_C - held_C)[kept_C].any()
