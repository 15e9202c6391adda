"""Label revision: its two exact consequences in float64, its formula in numpy, and the ends of its range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from trainer.losses.revise import revise


def revised(target_nC, label_n, *, eta, temperature=1.0, scope="all"):
    """What the loss sees of the revised label: probabilities at T, (n, C) float64."""
    target, label = torch.from_numpy(np.asarray(target_nC)), torch.from_numpy(np.asarray(label_n))
    logits = revise(target, label, eta=eta, temperature=temperature, scope=scope)
    return softmax(logits.numpy() / temperature, axis=1)


def by_the_formula(target_nC, label_n, *, eta, temperature):
    """p~ = b p + (1 - b) y with b = eta / (p_max - p_tar + 1), in numpy."""
    p = softmax(target_nC / temperature, axis=1)
    y = np.eye(p.shape[1])[label_n]
    b = eta / (p.max(axis=1) - p[np.arange(len(p)), label_n] + 1)
    return b[:, None] * p + (1 - b[:, None]) * y


def test_three_classes_worked_by_hand():
    # p = (.7, .2, .1), the label is class 1: b = .6 / (.7 - .2 + 1) = .4, p~ = (.28, .08 + .6, .04).
    got = revised(np.log([[0.7, 0.2, 0.1]]), [1], eta=0.6)
    np.testing.assert_allclose(got, [[0.28, 0.68, 0.04]], atol=1e-12)
    # The teacher is right: b = .6, p~ = .6 p + .4 y.
    np.testing.assert_allclose(revised(np.log([[0.7, 0.2, 0.1]]), [0], eta=0.6), [[0.82, 0.12, 0.06]], atol=1e-12)


tables = given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 20),
    spread=st.floats(0.01, 15),
    temperature=st.floats(0.5, 8),
    eta=st.floats(0.01, 0.99),
)


def table(seed, classes, spread):
    generator = np.random.default_rng(seed)
    return generator.normal(0, spread, (16, classes)), generator.integers(0, classes, 16)


@tables
@settings(max_examples=60, deadline=None)
def test_it_is_the_published_formula_on_softened_probabilities(seed, classes, spread, temperature, eta):
    target_nC, label_n = table(seed, classes, spread)
    got = revised(target_nC, label_n, eta=eta, temperature=temperature)
    want = by_the_formula(target_nC, label_n, eta=eta, temperature=temperature)
    np.testing.assert_allclose(got, want, atol=1e-12)


@tables
@settings(max_examples=60, deadline=None)
def test_the_true_class_is_on_top_and_leads_by_one_minus_eta_where_the_teacher_was_wrong(
    seed, classes, spread, temperature, eta
):
    target_nC, label_n = table(seed, classes, spread)
    got = revised(target_nC, label_n, eta=eta, temperature=temperature)
    assert (got.argmax(axis=1) == label_n).all()
    # The class on top is the teacher's: against any other one the lead of a wrong answer's revision is larger.
    rows, top_n = np.arange(16), target_nC.argmax(axis=1)
    wrong = top_n != label_n
    lead_n = got[rows, label_n] - got[rows, top_n]
    np.testing.assert_allclose(lead_n[wrong], 1 - eta, atol=1e-6)


def test_at_an_eta_of_one_or_more_the_true_class_would_not_lead():
    """The bound is sharp: this is why eta has to be below 1."""
    p = by_the_formula(np.log([[0.9, 0.1]]), np.array([1]), eta=1.0, temperature=1.0)
    assert p[0, 0] == pytest.approx(p[0, 1])


def test_a_revision_at_t_is_no_softened_revision_at_one():
    target_nC, label_n = table(3, 5, 4.0)
    at_t = revised(target_nC, label_n, eta=0.8, temperature=4.0)
    once = revise(torch.from_numpy(target_nC), torch.from_numpy(label_n), eta=0.8, temperature=1.0, scope="all")
    assert np.abs(at_t - softmax(once.numpy() / 4, axis=1)).max() > 0.05


def test_scope_wrong_leaves_the_labels_the_teacher_got_right_bit_by_bit():
    target = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [2.0, 2.0, 0.0]], dtype=torch.float16)
    label = torch.tensor([0, 1, 0, 1])
    got = revise(target, label, eta=0.8, temperature=2.0, scope="wrong")
    every = revise(target, label, eta=0.8, temperature=2.0, scope="all")
    # Of equal logits the first is the prediction, as for the score `correct`.
    assert torch.equal(got[[0, 2]], target[[0, 2]].float())
    assert torch.equal(got[[1, 3]], every[[1, 3]])
    assert not torch.equal(every[0], target[0].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scope", ["all", "wrong"])
def test_extreme_logits_stay_finite(dtype, scope):
    target = torch.tensor([[65504.0, -65504.0, 0.0], [0.0, 0.0, 0.0], [-65504.0, 65504.0, 65504.0]], dtype=dtype)
    for label in range(3):
        label_n = torch.full((3,), label)
        for temperature in (0.5, 1.0, 4.0):
            got = revise(target, label_n, eta=0.999, temperature=temperature, scope=scope)
            assert got.dtype == torch.promote_types(dtype, torch.float32)
            assert torch.isfinite(got).all()
            assert (got.argmax(dim=1) == label_n).all()
