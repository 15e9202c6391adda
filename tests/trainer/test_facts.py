"""Facts of logits against numpy in float64, gradient norms against one backward pass a sample."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from torch import nn

from trainer.loop import dynamics_facts as facts
from trainer.loop.dynamics_facts import gradient_norms, logit_facts
from trainer.models.build import build_model


def test_the_facts_of_two_samples_by_hand():
    # softmax of (log 1, log 2, log 1) is (1/4, 1/2, 1/4).
    logits = torch.log(torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]))
    got = logit_facts(logits, torch.tensor([1, 2])).numpy()
    log2 = np.log(2)
    want = [
        [0.5, log2, 1, np.sqrt(0.25**2 + 0.5**2 + 0.25**2)],
        [0.25, -log2, 0, np.sqrt(0.25**2 + 0.5**2 + 0.75**2)],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.dtype == np.float32


def test_the_lowest_class_leads_among_equal_logits():
    got = logit_facts(torch.zeros(2, 3), torch.tensor([0, 1])).numpy()
    assert got[:, 2].tolist() == [1, 0]
    assert got[:, 1].tolist() == [0, 0]


def test_el2n_of_a_learned_sample_keeps_its_digits():
    # p_y rounds to 1 in float32: the others have 2 e^-20.
    got = logit_facts(torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0])).numpy()[0]
    other = np.exp(-20) / (1 + 2 * np.exp(-20))
    assert got[0] == 1
    assert got[3] == pytest.approx(np.sqrt(2 * other**2 + (2 * other) ** 2), rel=1e-5)


@given(seed=st.integers(0, 999), count=st.integers(1, 9), classes=st.integers(2, 12), scale=st.floats(0.1, 20))
def test_the_facts_are_those_of_float64(seed, count, classes, scale):
    generator = np.random.default_rng(seed)
    logits = (scale * generator.normal(size=(count, classes))).astype(np.float32)
    label = generator.integers(0, classes, count)
    rows = np.arange(count)
    p, one_hot = softmax(logits.astype(np.float64), axis=1), np.eye(classes)[label]
    others = np.where(one_hot > 0, -np.inf, logits.astype(np.float64))
    want = np.stack(
        [
            p[rows, label],
            logits[rows, label] - others.max(1),
            logits.argmax(1) == label,
            np.linalg.norm(p - one_hot, axis=1),
        ],
        axis=1,
    )
    got = logit_facts(torch.from_numpy(logits), torch.from_numpy(label)).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)


def one_by_one(model, images, label):
    """The norms by autograd, a backward pass a sample."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = []
    for image, number in zip(images, label, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), number[None])
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(torch.cat([gradient.reshape(-1) for gradient in gradients]).double().norm())
    return torch.stack(norms)


@pytest.mark.parametrize("spec", ["resnet8", "wrn_16_1"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_norms_are_those_of_one_backward_pass_a_sample(spec, layout, monkeypatch):
    torch.manual_seed(0)
    model, _ = build_model(spec, class_count=4, image_px=16, pretrained=False)
    model = model.to(memory_format=layout)
    images, label = torch.randn(7, 3, 16, 16).contiguous(memory_format=layout), torch.arange(7) % 4
    model(images)  # running statistics other than those of a new network
    model.eval()
    want = one_by_one(model, images, label)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(gradient_norms(model, images, label).double(), want, rtol=1e-4, atol=1e-6)
    # Three samples a chunk, the last chunk is short.
    monkeypatch.setattr(facts, "GRADIENT_BYTES", 12 * sum(p.numel() for p in model.parameters()) + 3)
    torch.testing.assert_close(gradient_norms(model, images, label).double(), want, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_that_are_not_trained_have_no_part_in_the_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    images, label = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    whole = gradient_norms(model, images, label)
    model[1].requires_grad_(False)
    part = gradient_norms(model, images, label)
    assert (part < whole).all()
    torch.testing.assert_close(part.double(), one_by_one(model, images, label), rtol=1e-5, atol=1e-7)


def test_of_the_last_layer_alone_the_norm_is_the_closed_form():
    # ||p - y|| sqrt(||h||^2 + 1), Paul et al. 2021.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, label = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    error = model(images).softmax(1) - nn.functional.one_hot(label, 3)
    want = error.norm(dim=1) * (images.flatten(1).square().sum(1) + 1).sqrt()
    torch.testing.assert_close(gradient_norms(model, images, label), want.detach(), rtol=1e-5, atol=1e-7)
