"""`influence_flat`: the recovered layer, F-SAM against a loop in torch, the score against per-sample gradients."""

import numpy as np
import pytest
import torch
from feature_tables import table_of_arrays
from torch.nn.functional import cross_entropy

from prune_toolkit.scoring import influence_flat as module
from prune_toolkit.scoring.feature_scores import FeatureTable
from prune_toolkit.scoring.influence import DAMPING
from prune_toolkit.scoring.influence_flat import RATE, RHO, fine_tuned, last_layer
from prune_toolkit.scoring.score import SCORES

ROWS, WIDTH, CLASSES = 90, 5, 3


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits of a linear layer, labels it mostly knows, and its weights and biases (C, E)."""
    rng = np.random.default_rng(seed)
    weight_CE = rng.normal(size=(CLASSES, WIDTH + 1))
    features_ND = rng.normal(size=(ROWS, WIDTH)).astype(np.float16)
    logits_NC = np.column_stack([features_ND.astype(np.float64), np.ones(ROWS)]) @ weight_CE.T
    label_N = (logits_NC + rng.normal(size=logits_NC.shape)).argmax(axis=1)
    return features_ND, logits_NC, label_N, weight_CE


def table() -> FeatureTable:
    features_ND, logits_NC, label_N, _ = arrays()
    return table_of_arrays(features_ND, logits_NC, label_N, np.arange(ROWS) % 3 == 0)


def test_the_teachers_last_layer_is_recovered() -> None:
    assert last_layer(table()) == pytest.approx(arrays()[3], abs=1e-5)


def test_one_step_by_hand() -> None:
    """One sample, two classes, one feature: p = (1/2, 1/2), e = (-1/2, 1/2), gradient e h' with h = (1, 1)."""
    one = table_of_arrays(np.ones((1, 1), np.float16), np.zeros((1, 2)), np.array([0]), np.array([True]))
    before = (module.ITERATIONS, module.RHO)
    try:
        module.ITERATIONS, module.RHO = 1, 0.0
        found = fine_tuned(np.zeros((2, 2)), one.held_out())
    finally:
        module.ITERATIONS, module.RHO = before
    assert found == pytest.approx(RATE * np.array([[0.5, 0.5], [-0.5, -0.5]]))


def test_fine_tuning_is_a_literal_loop_of_friendly_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITERATIONS", 7)
    monkeypatch.setattr(module, "BATCH_ROWS", 8)
    features_ND, _, label_N, start_CE = arrays()
    rows = np.arange(ROWS) % 3 == 0
    found = fine_tuned(start_CE, table().held_out())

    x = torch.tensor(np.column_stack([features_ND[rows].astype(np.float64), np.ones(rows.sum())]))
    y, weight, mean = torch.tensor(label_N[rows]), torch.tensor(start_CE), None
    order = np.random.default_rng(module._SALT)
    batches = [batch for _ in range(2) for batch in np.split(order.permutation(30), [8, 16, 24])]
    for batch in batches[:7]:

        def gradient(at: torch.Tensor, batch: np.ndarray = batch) -> torch.Tensor:
            at = at.detach().requires_grad_()
            return torch.autograd.grad(cross_entropy(x[batch] @ at.T, y[batch]), at)[0]

        here = gradient(weight)
        noise = here if mean is None else here - mean
        mean = here if mean is None else 0.9 * mean + 0.1 * here
        weight = weight - RATE * gradient(weight + RHO * noise / noise.norm())
    assert found == pytest.approx(weight.numpy(), abs=1e-12)


def test_the_score_is_that_of_per_sample_gradients() -> None:
    features_ND, _, label_N, _ = arrays()
    found = SCORES["influence_flat"](table())
    weight = torch.tensor(fine_tuned(last_layer(table()), table().held_out()))
    x = torch.tensor(np.column_stack([features_ND.astype(np.float64), np.ones(ROWS)]))
    gradients = []
    for row in range(ROWS):
        at = weight.clone().requires_grad_()
        loss = cross_entropy(x[row : row + 1] @ at.T, torch.tensor(label_N[row : row + 1]))
        gradients.append(torch.autograd.grad(loss, at)[0].flatten().numpy())
    squared = np.square(gradients)
    fisher = squared.mean(axis=0)
    expected = (squared / (fisher + DAMPING * fisher.mean())).sum(axis=1)
    assert found == pytest.approx(expected, rel=1e-5)
    # The sum of g' F^-1 g over all samples is the number of parameters, but for the damping.
    assert found.mean() == pytest.approx(CLASSES * (WIDTH + 1), rel=0.05)


def test_wrong_labels_have_a_large_influence() -> None:
    features_ND, logits_NC, label_N, _ = arrays()
    wrong_N = np.arange(ROWS) % 10 == 1
    shown_N = np.where(wrong_N, (label_N + 1) % CLASSES, label_N)
    found = SCORES["influence_flat"](table_of_arrays(features_ND, logits_NC, shown_N, np.arange(ROWS) % 3 == 0))
    assert np.median(found[wrong_N]) > 2 * np.median(found[~wrong_N])


def test_without_any_error_all_are_0() -> None:
    label_N = np.arange(12) % CLASSES
    sure = table_of_arrays(1000 * np.eye(3, dtype=np.float16)[label_N], 1e4 * np.eye(3)[label_N], label_N, label_N == 0)
    assert SCORES["influence_flat"](sure).tolist() == [0.0] * 12
