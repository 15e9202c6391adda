"""Influence against the exact Hessian by autograd, and against what really happens when a sample's weight changes."""

import numpy as np
import pytest
import torch
from feature_tables import table_of_arrays
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr

from prune_toolkit.scoring.feature_scores import FeatureTable
from prune_toolkit.scoring.influence import DAMPING, inverse
from prune_toolkit.scoring.score import SCORES

F = torch.nn.functional


def with_one(h_ND):
    return np.concatenate([h_ND, np.ones((len(h_ND), 1))], axis=1)


def brute_force(weight_CE, h_ND, label_N, held_N):
    """-mean over v of g_v' H^-1 g_i, v other than i: gradients and Hessian of softmax regression by autograd.

    The damping of the Kronecker factors is written out: (A + a) x (G + g) = A x G + a I x G + g A x I + a g I x I.
    """
    h1_NE, labels = torch.from_numpy(with_one(h_ND)), torch.from_numpy(label_N)
    classes, width = weight_CE.shape
    weight = torch.from_numpy(weight_CE)

    def losses(flat):
        return F.cross_entropy(h1_NE @ flat.reshape(classes, width).T, labels, reduction="none")

    gradient_NP = torch.autograd.functional.jacobian(losses, weight.flatten()).numpy()
    hessian_PP = torch.autograd.functional.hessian(lambda flat: losses(flat).mean(), weight.flatten()).numpy()
    p_NC = softmax(with_one(h_ND) @ weight_CE.T, axis=1)
    second_EE = with_one(h_ND).T @ with_one(h_ND) / len(h_ND)
    e_NC = p_NC - np.eye(classes)[label_N]
    second_CC = e_NC.T @ e_NC / len(e_NC)
    of_h, of_e = (DAMPING * np.trace(second) / len(second) for second in (second_EE, second_CC))
    damped_PP = (
        hessian_PP
        + of_h * np.kron(second_CC, np.eye(width))
        + of_e * np.kron(np.eye(classes), second_EE)
        + of_h * of_e * np.eye(classes * width)
    )
    product_NN = gradient_NP @ np.linalg.solve(damped_PP, gradient_NP.T)
    return np.array(
        [-np.mean([product_NN[v, i] for v in np.flatnonzero(held_N) if v != i]) for i in range(len(label_N))]
    )


def table_of(weight_CE, h_ND, label_N, held_N):
    return table_of_arrays(h_ND, with_one(h_ND) @ weight_CE.T, label_N, held_N)


def test_influence_is_exact_where_the_hessian_is_a_kronecker_product():
    # p is the same for all, labels are as frequent as p says and independent of h: every h with every label.
    rng = np.random.default_rng(0)
    h_ND, label_N = np.repeat(rng.normal(size=(12, 2)), 3, axis=0), np.tile([0, 1, 2], 12)
    weight_CE = np.zeros((3, 3))
    held_N = rng.random(36) < 0.3
    found = SCORES["influence"](table_of(weight_CE, h_ND, label_N, held_N))
    np.testing.assert_allclose(found, brute_force(weight_CE, h_ND, label_N, held_N), rtol=1e-5, atol=1e-6)


def fitted(h_ND, label_N, classes, *, weight_N=None, ridge=1e-2):
    """Weights (C, D + 1) that minimise the weighted mean cross-entropy and a ridge, to high accuracy."""
    h1_NE, one_hot_NC = with_one(h_ND), np.eye(classes)[label_N]
    weight_N = np.full(len(h_ND), 1 / len(h_ND)) if weight_N is None else weight_N

    def objective(flat):
        weight_CE = flat.reshape(classes, -1)
        z_NC = h1_NE @ weight_CE.T
        loss = weight_N @ (logsumexp(z_NC, axis=1) - (z_NC * one_hot_NC).sum(axis=1))
        gradient = ((softmax(z_NC, axis=1) - one_hot_NC) * weight_N[:, None]).T @ h1_NE
        return loss + ridge / 2 * (flat @ flat), gradient.ravel() + ridge * flat

    start = np.zeros(classes * h1_NE.shape[1])
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    return result.x.reshape(classes, -1)


@pytest.fixture(scope="module")
def clusters():
    """Three overlapping clusters, a tenth of the labels wrong, a fitted softmax regression."""
    rng = np.random.default_rng(4)
    label_N = np.repeat(np.arange(3), 40)
    h_ND = rng.normal(size=(120, 3)) + 2.0 * np.eye(3)[label_N]
    wrong_N = rng.random(120) < 0.1
    label_N = np.where(wrong_N, (label_N + 1) % 3, label_N)
    return fitted(h_ND, label_N, 3), h_ND, label_N, wrong_N, rng.random(120) < 0.3


def test_influence_ranks_as_the_exact_hessian_does_where_the_factors_are_an_approximation(clusters):
    weight_CE, h_ND, label_N, _, held_N = clusters
    found = SCORES["influence"](table_of(weight_CE, h_ND, label_N, held_N))
    exact = brute_force(weight_CE, h_ND, label_N, held_N)
    assert not np.allclose(found, exact, rtol=0.1)
    assert spearmanr(found, exact).statistic > 0.8


def test_influence_ranks_as_training_again_with_more_weight_on_a_sample_does(clusters):
    weight_CE, h_ND, label_N, _, held_N = clusters
    found = SCORES["influence"](table_of(weight_CE, h_ND, label_N, held_N))
    outside = np.flatnonzero(~held_N)[:40]

    def held_out_loss(weight):
        log_p = log_softmax(with_one(h_ND[held_N]) @ weight.T, axis=1)
        return -log_p[np.arange(held_N.sum()), label_N[held_N]].mean()

    changes = []
    for sample in outside:
        weight_N = np.full(120, 1 / 120)
        weight_N[sample] += 1e-3
        changes.append(held_out_loss(fitted(h_ND, label_N, 3, weight_N=weight_N)) - held_out_loss(weight_CE))
    assert spearmanr(found[outside], changes).statistic > 0.9
    # Above 0 is harmful: the sign is that of what happens to the loss.
    large = np.abs(changes) > np.median(np.abs(changes))
    assert (np.sign(found[outside])[large] == np.sign(changes)[large]).mean() > 0.9


def test_mislabelled_samples_are_harmful_to_clean_held_out_ones(clusters):
    weight_CE, h_ND, label_N, wrong_N, held_N = clusters
    found = SCORES["influence"](table_of(weight_CE, h_ND, label_N, held_N & ~wrong_N))
    assert SCORES["influence"].harder == "high"
    assert np.median(found[wrong_N]) > np.quantile(found[~wrong_N], 0.9)


def test_a_sample_of_the_held_out_split_does_not_count_for_itself(clusters):
    weight_CE, h_ND, label_N, _, held_N = clusters
    table = table_of(weight_CE, h_ND, label_N, held_N)
    found, sample = SCORES["influence"](table), int(np.flatnonzero(held_N)[3])
    others_N = held_N.copy()
    others_N[sample] = False
    # The mean over the others is that over a split without it.
    np.testing.assert_allclose(
        found[sample], SCORES["influence"](table_of(weight_CE, h_ND, label_N, others_N))[sample], rtol=1e-5
    )


def test_other_images_may_be_held_out(clusters):
    weight_CE, h_ND, label_N, _, held_N = clusters
    inside = table_of(weight_CE, h_ND, label_N, held_N)
    elsewhere = FeatureTable(
        label_N=inside.label_N,
        class_count=3,
        width=3,
        blocks=inside.blocks,
        held_out=inside.held_out,
        copies=lambda: np.zeros(len(label_N), np.int64),
    )
    found, other = SCORES["influence"](inside), SCORES["influence"](elsewhere)
    np.testing.assert_allclose(other[~held_N], found[~held_N], rtol=1e-5)
    # With its own loss among them every sample looks more helpful.
    held = held_N.sum()
    assert (other[held_N] * held < found[held_N] * (held - 1)).all()


def test_a_teacher_without_any_error_has_no_influence_to_measure():
    table = table_of_arrays(np.eye(4), np.eye(4) * 3000, np.arange(4), np.ones(4, bool))
    assert SCORES["influence"](table).tolist() == [0, 0, 0, 0]


def test_damping_raises_every_eigenvalue_by_a_thousandth_of_their_mean():
    second = np.diag([3.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(inverse(second), np.diag([1 / 3.001, 1 / 1.001, 1000, 1000]))
