"""Two means of what teachers say: worked by hand, against scipy, and what cannot be stored."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, logsumexp, softmax

from manifests.errors import InputError
from prune_toolkit.cli.merge_command import command
from prune_toolkit.combine.mean_logits import AVERAGES, average, log_mean_probabilities, mean_logits

KEYS = [f"train/{row:08d}" for row in range(50)]
teachers = st.tuples(st.integers(2, 4), st.integers(1, 6), st.integers(2, 5)).flatmap(
    lambda shape: arrays(np.float16, shape, elements=st.floats(-60, 60, width=16))
)


def test_the_mean_of_logits_by_hand() -> None:
    mean = mean_logits([np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]]), np.array([[1.0, -1.0]])])
    assert mean.tolist() == [[1.0, 1.0]]


def test_the_mean_of_probabilities_by_hand() -> None:
    # (3/4, 1/4) and (1/2, 1/2): their mean is (5/8, 3/8).
    mean = log_mean_probabilities([np.array([[math.log(3), 0.0]]), np.array([[7.0, 7.0]])])
    np.testing.assert_allclose(np.exp(mean), [[5 / 8, 3 / 8]], rtol=1e-15)


def test_a_confident_teacher_outvotes_two_others_by_logits_but_not_by_probabilities() -> None:
    sure, unsure = np.array([[12.0, 0.0]]), np.array([[0.0, 2.0]])
    assert mean_logits([sure, unsure, unsure]).argmax() == 0
    assert log_mean_probabilities([sure, unsure, unsure]).argmax() == 1


@settings(max_examples=40, deadline=None)
@given(teachers)
def test_both_means_are_those_of_scipy(logits_MnC: np.ndarray) -> None:
    exact = logits_MnC.astype(np.float64)
    geometric = average("logits", list(logits_MnC), KEYS)
    np.testing.assert_allclose(geometric, exact.mean(axis=0), rtol=1e-3, atol=1e-6)
    arithmetic = log_mean_probabilities(list(exact))
    expected = logsumexp(log_softmax(exact, axis=2), axis=0) - math.log(len(exact))
    np.testing.assert_allclose(arithmetic, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.exp(arithmetic).sum(axis=1), 1, rtol=1e-12)
    stored = average("probabilities", list(logits_MnC), KEYS)
    assert stored.dtype == geometric.dtype == np.float16
    np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(teachers)
def test_the_mean_of_logits_is_the_geometric_mean_at_every_temperature(logits_MnC: np.ndarray) -> None:
    exact = logits_MnC.astype(np.float64)
    for temperature in (1.0, 4.0):
        geometric = np.exp(log_softmax(exact / temperature, axis=2).mean(axis=0))
        geometric /= geometric.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax(mean_logits(list(exact)) / temperature, axis=1), geometric, atol=1e-12)


@pytest.mark.parametrize("kind", AVERAGES)
@settings(max_examples=25, deadline=None)
@given(logits_MnC=teachers)
def test_one_opinion_named_twice_stays_and_a_shift_of_a_teacher_changes_no_probability(
    kind: str, logits_MnC: np.ndarray
) -> None:
    exact = logits_MnC.astype(np.float64)
    one = exact[0]
    np.testing.assert_allclose(softmax(AVERAGES[kind]([one, one]), axis=1), softmax(one, axis=1), atol=1e-12)
    shifted = [exact[0] + 17.0, *exact[1:]]
    before, after = AVERAGES[kind](list(exact)), AVERAGES[kind](shifted)
    np.testing.assert_allclose(softmax(before, axis=1), softmax(after, axis=1), atol=1e-10)
    order = [*range(1, len(exact)), 0]
    np.testing.assert_allclose(AVERAGES[kind](list(exact[order])), before, atol=1e-12)


def test_many_classes_are_averaged_in_blocks_as_in_one() -> None:
    logits_MnC = np.random.default_rng(0).normal(0, 4, (2, 200, 1000)).astype(np.float16)
    whole = logits_MnC.astype(np.float64).mean(axis=0).astype(np.float16)
    assert np.array_equal(average("logits", list(logits_MnC), [str(row) for row in range(200)]), whole)


def test_what_does_not_fit_float16_names_the_sample_and_the_class() -> None:
    # Both are sure of class 0: log p of class 1 is -131,008, twice what float16 holds.
    logits_nC = np.zeros((3, 2), np.float16)
    logits_nC[2] = 65504, -65504
    with pytest.raises(InputError, match="the average: sample train/00000002: logit 1 does not fit float16"):
        average("probabilities", [logits_nC, logits_nC], KEYS)
    # Where they disagree, or where logits are averaged, the same numbers fit.
    assert average("probabilities", [logits_nC, -logits_nC], KEYS)[2] == pytest.approx(math.log(0.5), abs=1e-3)
    assert average("logits", [logits_nC, logits_nC], KEYS).tolist() == logits_nC.tolist()


def test_no_readable_sample_is_no_error() -> None:
    assert average("probabilities", [np.empty((0, 3), np.float16)] * 2, []).shape == (0, 3)


def test_the_command_offers_every_average() -> None:
    [option] = [parameter for parameter in command.params if parameter.name == "average"]
    assert list(option.type.choices) == list(AVERAGES)
