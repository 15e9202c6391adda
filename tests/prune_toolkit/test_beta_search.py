"""The search of mode and sharpness: its reward against independent computations, its result, resuming, the trap."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from selection_support import HALF, kept, pool_of, vectors, with_features
from sklearn.linear_model import Ridge

from manifests.errors import UsageError
from prune_toolkit.selection import beta_search, linear_student
from prune_toolkit.selection.beta_search import DRAWS, MODES
from prune_toolkit.selection.beta_weights import percentiles
from prune_toolkit.selection.held_out import HeldOut
from prune_toolkit.selection.linear_student import DAMPING, Learning, scaled_cross_entropy
from prune_toolkit.selection.pool import Pool
from prune_toolkit.selection.search_journal import FinishedSearch, SearchJournal
from prune_toolkit.selection.selectors import choose, make_groups

KEEP = Fraction(1, 10)


def clouds(samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, and features in 6 dimensions around the centre of each."""
    label_N = np.arange(samples) % 3
    return label_N, rng.normal(size=(samples, 6)) + 1.2 * np.eye(6)[label_N]


def pool_and_held(*, wrong: float = 0.4, samples: int = 900) -> Pool:
    """A pool whose hardest samples have wrong labels, and held-out images with right ones."""
    rng = np.random.default_rng(0)
    label_N, x_ND = clouds(samples, rng)
    score_N = rng.permutation(samples) / samples
    shown_N = np.where(score_N > 1 - wrong, (label_N + 1) % 3, label_N)
    held_M, held_MD = clouds(600, rng)
    # A teacher that is right on three of four images, and on four of five held-out ones less.
    logits_NC = 4.0 * np.eye(3)[np.where(rng.random(samples) < 0.8, shown_N, (shown_N + 1) % 3)]
    held_MC = 4.0 * np.eye(3)[np.where(rng.random(600) < 0.7, held_M, (held_M + 1) % 3)]
    pool = with_features(pool_of(shown_N.tolist(), score_N.tolist()), x_ND)
    return replace(
        pool,
        logits=vectors(np.arange(samples), logits_NC, "logits"),
        held_out=HeldOut(
            id="held",
            features_MD=held_MD.astype(np.float16),
            logits_MC=held_MC.astype(np.float16),
            label_M=held_M.astype(np.int64),
        ),
    )


def test_the_loss_is_that_of_ridge_regression_at_its_best_scale() -> None:
    rng = np.random.default_rng(1)
    (label_N, x_ND), (held_M, held_MD) = clouds(120, rng), clouds(90, rng)
    rows = rng.permutation(120)[:40]
    found_M = Learning.of(x_ND, label_N, held_MD, held_M, 3).loss_M(rows)

    mean, std = x_ND.mean(axis=0), x_ND.std(axis=0)
    x_nE = np.column_stack([(x_ND[rows] - mean) / std, np.ones(40)])
    alpha = DAMPING * np.trace(x_nE.T @ x_nE) / 7
    student = Ridge(alpha=alpha, fit_intercept=False).fit(x_nE, np.eye(3)[label_N[rows]])
    output_MC = student.predict(np.column_stack([(held_MD - mean) / std, np.ones(90)]))
    best = minimize_scalar(
        lambda log_scale: -log_softmax(np.exp(log_scale) * output_MC, axis=1)[np.arange(90), held_M].mean(),
        bounds=(-2, 6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found_M.shape == (90,)
    assert found_M.mean() == pytest.approx(best.fun, abs=1e-6)


def test_cross_entropy_at_the_best_scale_by_hand() -> None:
    # Two classes, right three times of four by the same margin: the best probability is 3/4.
    output_MC = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    loss_M = scaled_cross_entropy(output_MC, np.array([0, 0, 0, 1]))
    assert loss_M.mean() == pytest.approx(expected, abs=1e-6)
    assert loss_M == pytest.approx(-np.log([0.75, 0.75, 0.75, 0.25]), abs=1e-2)


def test_wrong_labels_at_the_hard_end_are_avoided_and_the_search_is_told() -> None:
    pool = pool_and_held()
    choice = choose("beta", pool, keep=KEEP)
    assert float(choice.found["mode"]) <= 0.5
    assert float(choice.found["sharpness"]) >= 1
    fixed = choose("beta", pool, keep=KEEP, parameters=dict(choice.found))
    assert kept(fixed) == kept(choice)
    assert choice.search is not None
    tried = {(one.mode, one.sharpness): np.mean(one.loss) for one in choice.search.tried}
    assert set(tried) >= {(0.5, 0.0), *((mode, 4.0) for mode in MODES)}
    assert min(tried, key=lambda pair: tried[pair]) == tuple(float(choice.found[name]) for name in choice.found)
    assert all(len(one.loss) == DRAWS for one in choice.search.tried)


def test_the_same_is_found_for_every_seed_and_order_of_rows() -> None:
    pool = pool_and_held(samples=300)
    first = choose("beta", pool, keep=KEEP, seed=0)
    assert choose("beta", pool, keep=KEEP, seed=5).found == first.found
    row_N = np.random.default_rng(0).permutation(300)
    shuffled = choose("beta", pool.take(row_N), keep=KEEP, seed=0)
    assert shuffled.found == first.found
    assert shuffled.keep_N.tolist() == first.keep_N[row_N].tolist()


def test_a_value_that_is_given_stays() -> None:
    pool = pool_and_held(samples=300)
    choice = choose("beta", pool, keep=KEEP, parameters={"sharpness": "8"})
    assert choice.search is not None
    assert {one.sharpness for one in choice.search.tried} == {0.0, 8.0}
    choice = choose("beta", pool, keep=KEEP, parameters={"mode": "0.3"})
    assert choice.search is not None
    assert {one.mode for one in choice.search.tried if one.sharpness} == {0.3}


def test_within_noise_a_random_draw_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    """Labels without any relation to the features: no draw can be better than another."""
    pool = pool_and_held(samples=300)
    assert pool.held_out is not None
    rng = np.random.default_rng(3)
    held = replace(pool.held_out, features_MD=rng.normal(size=pool.held_out.features_MD.shape).astype(np.float16))
    choice = choose("beta", replace(pool, held_out=held), keep=KEEP)
    assert choice.found["sharpness"] == "0"
    assert kept(choice) == kept(choose("random", pool, keep=KEEP))
    assert "within noise" in capsys.readouterr().err


def test_a_killed_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_and_held(samples=300)
    assert pool.held_out is not None
    whole = choose("beta", pool, keep=KEEP)
    journal = SearchJournal(tmp_path / "out" / ".search.json")
    kept_pool = replace(pool, held_out=replace(pool.held_out, journal=journal))
    fits = 0

    def counted(self: Learning, row_n: np.ndarray) -> np.ndarray:
        nonlocal fits
        fits += 1
        if fits > 5 * DRAWS:
            raise KeyboardInterrupt
        return loss_M(self, row_n)

    loss_M = linear_student.Learning.loss_M
    monkeypatch.setattr(linear_student.Learning, "loss_M", counted)
    with pytest.raises(KeyboardInterrupt):
        choose("beta", kept_pool, keep=KEEP)
    fits = -1000
    again = choose("beta", kept_pool, keep=KEEP)
    assert again.search == whole.search
    assert whole.search is not None
    # Of the best pair and a random draw, the gain on the other half.
    assert fits + 1000 == (len(whole.search.tried) - 5 + 2) * DRAWS
    # Another selection into the same folder does not use these losses.
    fits = -1000
    choose("beta", kept_pool, keep=HALF)
    assert fits + 1000 >= 14 * DRAWS
    journal.remove()
    assert not journal.path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": [{"mode": "x"}]}', b"[" * 100_000])
def test_a_damaged_journal_is_started_anew(content: bytes, tmp_path: Path) -> None:
    journal = SearchJournal(tmp_path / ".search.json")
    journal.path.write_bytes(content)
    assert journal.tried("a") == {}
    journal.write("a", {(0.5, 1.0): [2.0]})
    assert journal.tried("a") == {(0.5, 1.0): [2.0]}


def test_a_finished_search_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_and_held(samples=300)
    assert pool.held_out is not None
    choice = choose("beta", pool, keep=KEEP)
    assert choice.search is not None
    fits = []
    loss_M = Learning.loss_M
    monkeypatch.setattr(Learning, "loss_M", lambda self, row_n: (fits.append(1), loss_M(self, row_n))[1])
    held = replace(pool.held_out, journal=FinishedSearch(choice.search))
    again = choose("beta", replace(pool, held_out=held), keep=KEEP)
    assert (again.found, again.search) == (choice.found, choice.search)
    # Only the gain on the other half is computed again.
    assert len(fits) <= 2 * DRAWS


def test_memorised_held_out_images_are_refused_or_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher's own features say all about the images that it memorised: every subset teaches the same."""
    pool = pool_and_held(samples=300)
    assert pool.held_out is not None
    known = 9.0 * np.eye(3)[pool.held_out.label_M]
    held = replace(pool.held_out, logits_MC=known.astype(np.float16))
    with pytest.raises(UsageError, match=r"right on 100\.00 % of the held-out images"):
        choose("beta", replace(pool, held_out=held), keep=KEEP)
    wrong = (
        np.where(np.arange(len(known)) % 10 == 0, 1, 0)[:, None]
        * 20
        * np.roll(np.eye(3), 1, axis=1)[pool.held_out.label_M]
    )
    held = replace(pool.held_out, logits_MC=(known + wrong).astype(np.float16))
    choose("beta", replace(pool, held_out=held), keep=KEEP)
    assert "was it trained on both?" in capsys.readouterr().err


def test_a_saturated_teacher_makes_every_subset_look_alike() -> None:
    """The trap: features that are the labels. Pairs that differ by wrong labels differ no more than draws do."""
    pool = pool_and_held()
    assert pool.held_out is not None
    honest = spread(pool)
    label_N = np.asarray(pool.label_N)
    features_ND, held_MD = 30 * np.eye(3)[label_N], 30 * np.eye(3)[pool.held_out.label_M]
    saturated = with_features(pool, features_ND)
    held = replace(pool.held_out, features_MD=held_MD.astype(np.float16))
    assert spread(replace(saturated, held_out=held)) < honest / 20


def spread(pool: Pool) -> float:
    """Difference of the mean losses of the best and the worst pair, in nats."""
    groups = make_groups(pool, "proportional", KEEP)
    found = beta_search.search(pool, groups, percentiles(pool, groups), mode="auto", sharpness="auto")
    losses = [float(np.mean(one.loss)) for one in found.search.tried]
    return max(losses) - min(losses)


def test_what_is_missing_is_said() -> None:
    pool = pool_and_held(samples=60)
    with pytest.raises(UsageError, match="images that the teacher never saw"):
        choose("beta", replace(pool, held_out=None), keep=HALF)
    with pytest.raises(UsageError, match="need features and logits"):
        choose("beta", replace(pool, features=None), keep=HALF)
