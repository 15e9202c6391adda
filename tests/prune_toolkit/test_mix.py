"""A mix of selectors: shares, order, and each part by its own rule."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_support import HALF, KEEPS, kept, pool_of, pools, selects_nothing, with_scores

from manifests.errors import InputError, UsageError
from prune_toolkit.selection.pool import ScoreColumn
from prune_toolkit.selection.selectors import SELECTORS, Pool, choose
from prune_toolkit.selection.selectors.mix import shared_counts


def mixed(pool: Pool, text: str, keep: Fraction, **options: object) -> list[int]:
    return kept(choose("mix", pool, keep=keep, parameters={"mix": text}, **options))  # type: ignore[arg-type]


def test_each_part_takes_its_share_of_what_those_before_it_left() -> None:
    column = ScoreColumn(value_N=np.arange(10.0))
    pool = with_scores(pool_of([0] * 10, [0] * 10), loss=column)
    # 6 of 10: three from the middle, ranks (10 - 3) // 2 = 3 .. 5; then the two hardest; then the easiest.
    parts = "0.5 medium, 1/3 window position=1, 1/6 window position=0"
    assert mixed(pool, parts, Fraction(3, 5)) == [0, 3, 4, 5, 8, 9]
    # The other way round the middle is of what is left: of 0 .. 7 without 0, ranks (7 - 3) // 2 = 2 .. 4.
    parts = "1/3 window position=1, 1/6 window position=0, 1/2 medium"
    assert mixed(pool, parts, Fraction(3, 5)) == [0, 3, 4, 5, 8, 9]
    assert mixed(pool, "0.5 window position=0, 0.5 medium", Fraction(2, 5)) == [0, 1, 5, 6]


def test_a_part_ranks_by_its_own_score() -> None:
    columns = {
        "loss": ScoreColumn(value_N=np.arange(8.0)),
        "margin": ScoreColumn(value_N=np.arange(8.0), harder="low"),
    }
    pool = with_scores(pool_of([0] * 8, [0] * 8), **columns)
    assert mixed(pool, "1/2 window position=1, 1/2 window position=1 score=margin", Fraction(1, 4)) == [0, 7]


@pytest.mark.parametrize("quota", ["proportional", "equal", "none"])
@settings(max_examples=30, deadline=None)
@given(pool=pools(), keep=KEEPS, seed=st.integers(0, 99))
def test_a_mix_of_one_part_is_that_selector(quota: str, pool: Pool, keep: Fraction, seed: int) -> None:
    if selects_nothing(pool, quota, keep):
        return
    for name in ("medium", "random", "ccs", "herding", "moderate"):
        column = pool.scores.get(SELECTORS[name].score or "")
        alone = pool if column is None else Pool(
            sample_id_N=pool.sample_id_N, label_N=pool.label_N, content_hash_N16=pool.content_hash_N16,
            class_count=pool.class_count, score_N=column.value_N, harder=column.harder,
        )  # fmt: skip
        expected = kept(choose(name, alone, keep=keep, quota=quota, seed=seed))
        assert mixed(pool, f"1 {name}", keep, quota=quota, seed=seed) == expected


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    keep_G=st.lists(st.integers(0, 40), min_size=1, max_size=60),
)
def test_shares_hold_within_one_in_each_group_and_over_all(weights: list[int], keep_G: list[int]) -> None:
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    counts = shared_counts(shares, np.array(keep_G))
    assert counts.sum(axis=0).tolist() == keep_G
    for share, count_G in zip(shares, counts.tolist(), strict=True):
        assert all(0 <= count - int(share * keep) <= 1 for count, keep in zip(count_G, keep_G, strict=True))
        assert abs(sum(count_G) - share * sum(keep_G)) < len(shares)


def test_groups_that_keep_one_sample_each_still_add_up_to_the_shares() -> None:
    counts = shared_counts([Fraction(7, 10), Fraction(2, 10), Fraction(1, 10)], np.ones(1000, np.int64))
    assert counts.sum(axis=1).tolist() == [700, 200, 100]


def test_two_random_parts_draw_apart() -> None:
    pool = pool_of([0] * 400, [0] * 400)
    once = mixed(pool, "1 random", HALF)
    twice = mixed(pool, "0.5 random, 0.5 random", HALF)
    assert once != twice
    assert len(twice) == 200


def test_what_one_part_drew_does_not_decide_what_the_next_draws() -> None:
    # ccs draws 20 of each stratum, 300 and 60 samples. Of the 280 and 40 left, random takes 40: 5 of the small stratum
    # on average. Were both to take the smallest draws of one stream, it would be none: ccs took the smallest third.
    scores = np.repeat([0.0, 1.0], [300, 60])
    pool = with_scores(pool_of([0] * 360, [0] * 360), margin=ScoreColumn(value_N=scores))
    parameters = {"mix": "1/2 ccs beta=0 strata=2, 1/2 random"}
    keep = Fraction(80, 360)
    small = sum(
        choose("mix", pool, keep=keep, seed=s, parameters=parameters).keep_N[300:].sum() - 20 for s in range(60)
    )
    # 300 expected, with a deviation below sqrt(60 * 5) = 17.4.
    assert abs(small - 300) < 5 * 17.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--mix is missing"),
        ("0.5 medium", "add up to 1/2, not to 1"),
        ("0.5 medium, 0.6 random", "add up to 11/10"),
        ("medium, random", "'medium' in the mix is not SHARE SELECTOR"),
        ("0.5 medium,, 0.5 random", "'' in the mix is not SHARE SELECTOR"),
        ("0 medium, 1 random", "'0 medium' in the mix is not SHARE"),
        ("1 best", "unknown selector 'best'"),
        ("1 mix", "cannot be part of a mix"),
        ("1 medium score", "'score' in the mix is not NAME=VALUE"),
        ("1 window position=0 position=1", "given twice"),
        ("1 window place=1", "no parameter 'place'"),
        ("1 window position=9", "position is '9'"),
        ("1 random score=loss", "does not rank by a score"),
        ("1 moderate score=loss", "ranks by moderate, not by loss"),
    ],
)
def test_a_mix_that_cannot_be_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mixed(pool_of([0, 1], [0, 1]), text, HALF)


def test_a_part_without_its_score_or_features_says_so() -> None:
    with pytest.raises(InputError, match="'medium' ranks by a score"):
        mixed(pool_of([0, 1], [0, 1]), "1 medium", HALF)
    with pytest.raises(UsageError, match="'herding' needs features"):
        mixed(pool_of([0, 1], [0, 1]), "1 herding", HALF)


def test_the_canonical_text_says_everything_and_reads_back() -> None:
    parse = SELECTORS["mix"].parameters["mix"].parse
    text = str(parse(" 70%  medium,0.20 random , .1 window  score=el2n position=0.50"))
    assert text == "7/10 medium score=loss, 1/5 random, 1/10 window position=1/2 score=el2n"
    assert str(parse(text)) == text
    assert SELECTORS["mix"].further_scores is not None
    assert SELECTORS["mix"].further_scores({"mix": parse(text)}) == ["loss", "el2n"]
